"""`sbatch launch/*.slurm` on a real Slurm cluster of two nodes, and what clusters do to jobs.

The disturbed run is held in a step between two checkpoints, disturbed there, held again after its restart,
and so on; it must make the steps of a run that nothing happened to.
"""

from __future__ import annotations

import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest
import slurm
import support
import torch
from support import train_here

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
STEPS, EPOCHS, SAVE_EVERY = 4, 6, 5  # of an epoch; saved at 4 (its end), 5, 8 and so on
BIN = Path(sys.executable).parent
CPU = ("--device", "cpu", "--pretrained", "", "--log-every-n-steps", 1)
PLAIN = ("--aug-cfg", "scale=(1.0,1.0)", "--opt", "timm/momentum", "--momentum", 0)


class Step(NamedTuple):
    """A step of a rank, as trainer.py records it."""

    restart: int
    time: float
    loss: float


@dataclass
class Run:
    """A submitted run of a recipe, and what it leaves behind."""

    job: slurm.Job
    folder: Path
    record: Path
    restarts: int = 0

    def steps(self, rank: int) -> list[Step]:
        path = self.record / str(rank)
        lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        return [Step(int(restart), float(time), float(loss)) for restart, time, loss in lines]

    def losses(self, rank: int) -> list[float]:
        return [step.loss for step in self.steps(rank)]

    def is_at(self, what: str, ranks: int = 2) -> bool:
        """Whether so many ranks have noted that they are `at` their held step, or there were `told`."""
        return all((self.record / f"{what}-{self.restarts}-{rank}").exists() for rank in range(ranks))

    def log(self) -> str:
        return (self.folder / "out.log").read_text()

    def release(self) -> None:
        (self.record / f"held-{self.restarts}").unlink(missing_ok=True)


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    return support.write_csv(tmp_path_factory.mktemp("photos"), support.photos(32))


def doctor_in_a_fork(folder: Path) -> Path:
    """A folder with the command in it."""
    command = folder / "bin" / "open-clip-ext"
    command.parent.mkdir(exist_ok=True)
    command.write_text(f'#!/bin/sh\nexec {sys.executable} {slurm.FORK} {BIN / command.name} "$@"\n')
    command.chmod(0o755)
    return command.parent


@pytest.fixture
def submit(cluster, tmp_path, model, photos):
    """Submit a recipe with tiny settings; what is still there at the end of the test is ended."""
    jobs = []

    def submit(
        *flags, recipe="degla", options=(), held=(), logs=tmp_path / "logs", forks=False, **settings
    ) -> Run:
        """`held`: the step to be held in, of each start. `forks`: no doctor and no rank imports anything."""
        record = tmp_path / f"record-{len(jobs)}"
        record.mkdir()
        for restart, step in enumerate(held):
            (record / f"held-{restart}").write_text(str(step))
        settings = {
            "MODEL": model, "TRAIN_DATA": photos, "GLOBAL_BATCH": 8, "EPOCHS": EPOCHS, "LR": 1e-3,
            "WARMUP": 1, "PRECISION": "fp32", "WORKERS": 1, "SAVE_EVERY": SAVE_EVERY, "LOGS": logs,
            "NAME": "run", "TRAINER": f"-- {HERE / 'trainer.py'}", "RECORD": record,
            "OMP_NUM_THREADS": 1, "PATH": f"{BIN}:{slurm.SEARCH}",
        } | settings  # fmt: skip
        if forks:
            cluster.serve()
            settings |= {
                "FORKS": cluster.forks, "TRAINER": f"-- {slurm.FORK} {HERE / 'trainer.py'}",
                "PATH": f"{doctor_in_a_fork(tmp_path)}:{settings['PATH']}",
            }  # fmt: skip
        script = ROOT / "launch" / f"{recipe}.slurm"
        job = cluster.submit(script, *CPU, *flags, options=options, cwd=ROOT, **settings)
        jobs.append(job)
        return Run(job, cluster.path(logs / "run"), record)

    yield submit
    for job in jobs:
        cluster.run("scancel", job.number, check=False)


def test_two_nodes_of_two_processes_give_the_losses_of_one_process(submit, model, tmp_path):
    data = support.write_csv(tmp_path / "one_batch", support.photos(16, seed=1))
    run = submit(*PLAIN, options=["--gpus-per-node=2"], TRAIN_DATA=data, GLOBAL_BATCH=16, EPOCHS=4)
    weight = 0.005 * 256 / 16  # as the recipe scales it
    one = train_here(
        tmp_path, "--model", model, "--train-data", data, "--csv-separator", ",", "--batch-size", 16,
        "--epochs", 4, "--loss", "degla", "--loss-cfg", f"distill_weight={weight}", "--wd", 0.1,
        "--seed", 42, *PLAIN,
    )  # fmt: skip
    assert run.job.end() == "COMPLETED", run.job.output
    each = [run.losses(rank) for rank in range(4)]
    mean = [sum(losses) / 4 for losses in zip(*each, strict=True)]
    assert mean == pytest.approx(one.values("loss"), rel=1e-3)
    for node in (1, 2):
        assert f"node{node}" in run.job.output


# --- what happens to jobs ---


def kill_a_rank(cluster, run):
    cluster.run("kill", "-KILL", (run.record / f"at-{run.restarts}-1").read_text(), node=2)


def crash_a_node(cluster, run):
    cluster.crash(2)
    back_in_the_queue(run)
    cluster.start(2)


def pull_a_cable(cluster, run):
    cluster.cable(2, "down")
    run.release()
    back_in_the_queue(run)
    cluster.cable(2, "up")


def preempt(cluster, run):
    command = "#!/bin/sh\nsleep 1"
    submit = [
        "sbatch",
        "--parsable",
        "--partition=urgent",
        "--nodes=2",
        "--gpus-per-node=2",
        "--output=/dev/null",
    ]
    cluster.run("sh", "-c", f"printf '{command}' | {' '.join(submit)}")
    told_to_save(run)


def reach_the_time_limit(cluster, run):
    # Two minutes more: less than the 300 s before the limit that the recipe asks to be told.
    hours, minutes, _ = map(int, run.job.field("RunTime").split(":"))
    limit_of(cluster, run, 60 * hours + minutes + 3)
    run.job.until(lambda: "time limit near" in run.job.output, "the signal before the time limit")
    limit_of(cluster, run, 600)  # for the resumed run, which would be told at once
    told_to_save(run)


def fill_the_disk(cluster, run):
    """The run goes on to the end of an epoch, where it must save and cannot."""
    filler = cluster.folder / "disk" / "filler"
    cluster.run("sh", "-c", f"cat /dev/zero > {filler}", check=False)
    before = run.job.output.count("requeue: ")
    run.release()
    run.job.until(lambda: run.job.output.count("requeue: ") > before, "it gives up")
    cluster.path(filler).unlink()


def limit_of(cluster, run, minutes):
    cluster.run("scontrol", "update", f"JobId={run.job.number}", f"TimeLimit={minutes}")


def back_in_the_queue(run):
    run.job.until(lambda: int(run.job.field("Restarts")) > run.restarts, "SLURM requeues the job")


def told_to_save(run):
    """Wait until a rank has the signal; then they may end their step."""
    run.job.until(lambda: run.is_at("told", ranks=1), "a rank gets the signal")


# In this order, and how many steps are made once more, at most: those since the last checkpoint.
HAPPENINGS = {
    "killed rank": (kill_a_rank, 1),
    "crashed node": (crash_a_node, 1),
    "pulled cable": (pull_a_cable, 1),
    "preemption": (preempt, 0),
    "time limit": (reach_the_time_limit, 0),
    "full disk": (fill_the_disk, STEPS),
}
# The step after a checkpoint, of the first start; of the others the first.
HELD = [SAVE_EVERY + 1] + [1] * (len(HAPPENINGS) - 1)


def test_a_run_that_everything_happens_to_makes_the_steps_of_an_undisturbed_one(cluster, submit):
    undisturbed = submit(forks=True)
    assert undisturbed.job.end() == "COMPLETED", undisturbed.job.output
    assert [len(undisturbed.losses(rank)) for rank in range(2)] == [STEPS * EPOCHS] * 2

    run = submit(forks=True, held=HELD, logs=cluster.folder / "disk", MAX_RESTARTS=len(HAPPENINGS))
    started = []
    for happening, (happen, _) in HAPPENINGS.items():
        print(happening)  # shown when it fails
        run.job.until(lambda: run.is_at("at"), f"both ranks train until the {happening}")
        started.append(time.time())
        happen(cluster, run)
        run.release()
        run.restarts += 1
    assert run.job.end() == "COMPLETED", run.job.output
    assert run.job.field("Restarts") == str(len(HAPPENINGS))

    for rank in range(2):
        wanted, made = undisturbed.losses(rank), 0
        for restart, (happening, (_, most)) in enumerate({"start": (None, 0), **HAPPENINGS}.items()):
            steps = [step for step in run.steps(rank) if step.restart == restart]
            losses = [step.loss for step in steps]
            assert losses, f"no step after the {happening}"
            first = wanted.index(losses[0])
            assert losses == wanted[first : first + len(losses)], happening
            assert 0 <= made - first <= most, happening
            if restart:
                print(f"| {happening} | {steps[0].time - started[restart - 1]:.0f} s | {made - first} |")
            made = first + len(losses)
        assert made == STEPS * EPOCHS
    assert run.log().count("resumed loss and teacher state") == len(HAPPENINGS)


# --- what stops before training ---


def stopped(run):
    """Our sentences in the log of a job that failed before it trained."""
    assert run.job.end() == "FAILED", run.job.output
    assert run.losses(0) == []
    assert "requeue" not in run.job.output
    found = re.findall(r"^open_clip_ext: (.*)$", run.job.output, re.MULTILINE)
    assert found, run.job.output
    return sorted(found)


@pytest.fixture
def hidden(cluster):
    """Hide files of node 2 behind other ones, until the end of the test."""
    paths = []

    def hide(path, behind="/dev/null"):
        cluster.run("mount", "--bind", behind, path, node=2)
        paths.append(path)

    yield hide
    for path in paths:
        cluster.run("umount", path, node=2)


def test_a_node_without_the_plugin_stops_the_job(submit, hidden):
    hidden(Path(sys.executable).with_name("open-clip-ext"))
    assert stopped(submit()) == [
        "node2: open-clip-ext is not on the PATH of this node; install the plugin there"
    ]


def test_a_node_where_no_start_up_file_is_read_stops_the_job(submit, hidden):
    hidden(Path(torch.__file__).parents[1] / "open_clip_ext.pth")
    assert stopped(submit()) == [
        "node2: armed in this interpreter: no start-up file was read here; "
        "train with `python -m open_clip_ext`"
    ]


def test_data_that_one_node_does_not_see_stop_the_job(submit, hidden, photos, tmp_path):
    hidden(photos.parent, behind=tmp_path)
    assert stopped(submit()) == [f"node2: run: --train-data {photos}: there is no such file on this node"]


def test_a_wrong_rendezvous_address_fails_fast(submit):
    start = time.monotonic()
    found = stopped(submit(RDZV_HOST="10.77.0.99"))
    why = {"node1": "does not lead to this node", "node2": "cannot be reached"}
    said = {
        f"{node}: rendezvous at 10.77.0.99:PORT: 10.77.0.99 {words} (No route to host); "
        "set RDZV_HOST to a name of the first node"
        for node, words in why.items()
    }
    # SLURM may end the other node before it can speak.
    assert {re.sub(r":\d{5}:", ":PORT:", sentence) for sentence in found} <= said
    assert time.monotonic() - start < 60  # torchrun gives up after ten minutes


def test_no_gpu_stops_the_job(submit):
    assert stopped(submit(options=["--gpus-per-node=0"])) == [
        "node1: no GPU was allocated; ask SLURM for some, as with --gpus-per-node"
    ]


def test_a_wrong_partition_is_refused_by_sbatch(submit):
    with pytest.raises(AssertionError, match="invalid partition specified: gpu"):
        submit(options=["--partition=gpu"])
