"""Most tests start the trainer from the fork server: real starts equal its forks, to the bit."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support import COMMON, Finished, assert_same, start, train

pytestmark = pytest.mark.real_start


@pytest.fixture
def flags(model, csv_data):
    return ["--model", model, "--train-data", csv_data, "--csv-separator", ",", "--loss", "degla"]


def assert_same_run(a: Finished, b: Finished) -> None:
    """Losses, weights, optimizer and teacher."""
    assert a.status == b.status == 0, a.output + b.output
    assert a.values("loss") == b.values("loss") != []
    checkpoints = [run.checkpoint() for run in (a, b)]
    assert "teacher" in checkpoints[0]["optimizer"]["open_clip_ext"]
    assert_same(*({key: value for key, value in c.items() if key != "name"} for c in checkpoints))


def test_real_starts_of_any_hash_seed_equal_a_fork(tmp_path, flags):
    """Forks share a hash seed, so that they could agree where no other processes do."""
    flags += ["--workers", 1]
    fork = train(tmp_path, *flags, name="fork")
    for seed in "1", "2":
        real = train(tmp_path, *flags, name=seed, env={"PYTHONHASHSEED": seed}, real=True)
        assert_same_run(real, fork)


def test_torchrun_equals_two_forks(tmp_path, flags):
    flags += ["--local-loss", "--gather-with-grad"]
    forks = train(tmp_path, *flags, name="forks", processes=2)
    (tmp_path / "sitecustomize.py").write_text("import ddp_on_cpu\nddp_on_cpu.install()\n")
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2]
    command += ["-m", "--", "open_clip_train.main", *COMMON, "--logs", tmp_path / "logs", "--name", "real"]
    env = {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parent}"}
    with (tmp_path / "output").open("w+") as output:
        status = start(*command, *flags, output=output, env=env, real=True).wait(300)
    real = Finished(status, (tmp_path / "output").read_text(), tmp_path / "logs" / "real")
    assert_same_run(real, forks)
    said = [re.findall(r"loss=degla .*", run.output) for run in (real, forks)]
    assert said[0] == said[1]
    assert len(said[0]) == 2  # every rank announces itself


PROGRAM = """
import atexit, os, signal, sys
atexit.register(print, "at exit", flush=True)
print(__name__, sys.argv, sys.path[0], os.getcwd(), os.environ.get("GIVEN"), repr(sys.stdin.read()))
print([(number, str(signal.getsignal(number))) for number in sorted(signal.valid_signals())])
print(os.getsid(0) == os.getpid(), sorted(os.listdir("/proc/self/fd")), flush=True)
exec(sys.argv[1])
"""


@pytest.mark.parametrize(
    "end", ["sys.exit(3)", "sys.exit('why')", "1 / 0", "os.kill(os.getpid(), 2)", "os.kill(os.getpid(), 9)"]
)
def test_a_fork_runs_a_program_as_python_does(tmp_path, end):
    (tmp_path / "program.py").write_text(PROGRAM)
    seen = []
    for real in (True, False):
        with (tmp_path / f"output-{real}").open("w+") as output:
            process = start(tmp_path / "program.py", end, output=output, env={"GIVEN": "1"}, real=real)
            status = process.wait(60)
            output.seek(0)
            lines = output.read().splitlines()
        seen.append((status, lines[:3], lines[-1]))
    assert seen[0] == seen[1]
