"""A run that is stopped anywhere and resumed equals one that was not, to the bit."""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import open_clip
import pytest
import support
from our_losses import RUNS
from support import COMMON, Finished, assert_same, end, start, train, train_here
from trainer_server import Process

from open_clip_ext.files import atomic_write, remove_partial
from open_clip_ext.training import seeding
from open_clip_ext.training.run import Run

pytestmark = pytest.mark.trainer

SHORT = ("--batch-size", 4, "--epochs", 2)  # 8 batches in an epoch of 32 photos


@pytest.fixture
def flags(model, every_kind):
    return ["--model", model, "--train-data", every_kind, "--csv-separator", ",", "--loss", "degla", *SHORT]


@pytest.fixture
def stop(tmp_path, monkeypatch):
    """Run until a signal comes in the given optimizer step."""

    def run(*flags: object, step: int, by: int = signal.SIGUSR1, name: str = "run") -> Finished:
        stepped = Run._stepped

        def signalled(self, *arguments):
            stepped(self, *arguments)
            if self.steps == step:
                os.kill(os.getpid(), by)

        status = None
        with monkeypatch.context() as patch:
            patch.setattr(Run, "_stepped", signalled)
            try:
                train_here(tmp_path, *flags, name=name)
            except SystemExit as stopped:  # not kept: its frames would keep the loader's workers
                status = stopped.code
        assert status == 85
        folder = tmp_path / "logs" / name
        return Finished(85, (folder / "out.log").read_text(), folder)

    return run


def places(run: Finished) -> list[tuple[str, str, str]]:
    """Epoch, percentage and learning rate of each step in the log.

    Not how many samples: upstream's main branch counts those since the resume.
    """
    return re.findall(r"Train Epoch: (\d+) \[.*/(.*)\] .*LR: (\S+)", run.output)


def assert_goes_on(unstopped: Finished, resumed: Finished, last: str = "epoch_2.pt"):
    """The losses of both parts, which share a log, and the last checkpoint are those of the whole."""
    assert "resumed in the middle of epoch" in resumed.output
    assert unstopped.values("loss") == resumed.values("loss")
    assert places(unstopped) == places(resumed)
    checkpoints = [run.checkpoint(last) for run in (unstopped, resumed)]
    assert_same(*({key: value for key, value in c.items() if key != "name"} for c in checkpoints))


OPTIONS = {
    "plain": (),
    "workers": ("--workers", 2),
    "fp16 scaler": ("--precision", "amp"),
    "accumulation": ("--accum-freq", 2),
    "accumulation with a rest": ("--accum-freq", 3),
    "patch dropout": ("--force-patch-dropout", 0.5),
    "most recent": ("--save-most-recent", "--save-frequency", 0),
    "delete previous": ("--delete-previous-checkpoint",),
    "generations": ("--generations", "every=4", "keep=0.5", "pause=2"),
}


@pytest.mark.parametrize("extra", OPTIONS.values(), ids=OPTIONS)
def test_stopped_run_goes_on_to_the_bit(tmp_path, flags, stop, extra):
    """Stopped twice, the second time after a resume."""
    flags = [*flags, *extra]
    first, second = (1, 4) if "--accum-freq" in extra else (2, 9)
    last = "epoch_latest.pt" if "--save-most-recent" in extra else "epoch_2.pt"
    unstopped = train_here(tmp_path, *flags, name="unstopped")
    stop(*flags, step=first)
    stop(*flags, "--resume", "latest", step=second)
    assert_goes_on(unstopped, train_here(tmp_path, *flags, "--resume", "latest"), last)


@pytest.mark.parametrize("name", RUNS)
def test_every_loss_goes_on(tmp_path, flags, stop, name):
    flags = [*flags, *RUNS[name]]
    unstopped = train_here(tmp_path, *flags, name="unstopped")
    stop(*flags, step=5)
    assert_goes_on(unstopped, train_here(tmp_path, *flags, "--resume", "latest"))


@pytest.fixture(scope="session")
def broken_shards(tmp_path_factory) -> str:
    """Some images cannot be decoded, and some negatives cannot be read."""
    made = support.photos(48)
    for i in (3, 9, 30):
        made[i].negatives = {"not": "a list"}
    url = support.write_shards(tmp_path_factory.mktemp("broken"), made, shards=4)
    folder = Path(url).parent
    for shard in sorted(folder.glob("*.tar")):
        content = bytearray(shard.read_bytes())
        for at in [m.start() for m in re.finditer(rb"IDAT", content)][::4]:
            content[at : at + 4] = b"XXXX"
        shard.write_bytes(content)
    return url


STREAMS = {
    "one process": (),
    "workers": ("--workers", 2),
    "resampled": ("--workers", 2, "--dataset-resampled"),
    "captions only": ("--workers", 3, "--loss", "clip"),
    "accumulation": ("--workers", 2, "--accum-freq", 2),
}


@pytest.mark.parametrize("extra", STREAMS.values(), ids=STREAMS)
def test_stopped_webdataset_run_goes_on_to_the_bit(tmp_path, model, broken_shards, stop, extra):
    flags = [
        "--model",
        model,
        "--train-data",
        broken_shards,
        "--dataset-type",
        "webdataset",
        "--loss",
        "degla",
    ]
    flags += [*SHORT, "--train-num-samples", 36, *extra]
    first, second = (2, 6) if "--accum-freq" in extra else (3, 11)
    unstopped = train_here(tmp_path, *flags, name="unstopped")
    assert "broken samples or files were skipped" in unstopped.output
    stop(*flags, step=first)
    stop(*flags, "--resume", "latest", step=second)
    assert_goes_on(unstopped, train_here(tmp_path, *flags, "--resume", "latest"))


@pytest.fixture
def stall(monkeypatch):
    """Let a run's data come no further than so many samples, and a signal come then."""

    def stall(after: int, by: int = signal.SIGTERM) -> None:
        seed, run, samples = seeding.seed_sample, os.getpid(), iter(range(after))

        def seeded(*place):
            seed(*place)
            if next(samples, None) is None:
                os.kill(run, by)
                time.sleep(300)

        monkeypatch.setattr(seeding, "seed_step", seed)
        monkeypatch.setattr(seeding, "seed_sample", seeded)

    return stall


WAITS = {
    "for the first batch": (0, 0),
    "for a batch": (9, 2),
    "in a loader worker": (5, None, "--workers", 2),
    "within a step": (13, 1, "--accum-freq", 2),
}


@pytest.mark.parametrize("waits", WAITS.values(), ids=WAITS)
@pytest.mark.parametrize("data", ["csv", "shards"])
def test_run_that_waits_for_data_stops_at_once(
    tmp_path, flags, model, shards, stall, monkeypatch, waits, data
):
    """The loader may bring nothing any more."""
    after, step, *extra = waits
    flags = [*flags, "--epochs", 1, *extra]
    if data == "shards":
        flags += ["--train-data", shards, "--dataset-type", "webdataset", "--train-num-samples", 32]
    unstopped = train_here(tmp_path, *flags, name="unstopped")
    stall(after)
    began = time.monotonic()
    with pytest.raises(SystemExit, match="85"):
        train_here(tmp_path, *flags)
    assert time.monotonic() - began < 200
    monkeypatch.undo()
    name, at = re.match(r"(\w+) step (\d+) ", (tmp_path / "logs" / "run" / "stopped").read_text()).groups()
    assert name == "SIGTERM"
    assert step is None or int(at) == step
    assert_goes_on(unstopped, train_here(tmp_path, *flags, "--resume", "latest"), "epoch_1.pt")


def test_stopped_synthetic_run_goes_on_to_the_bit(tmp_path, model, stop):
    flags = [
        "--model",
        model,
        "--dataset-type",
        "synthetic",
        "--loss",
        "degla",
        "--train-num-samples",
        32,
        *SHORT,
    ]
    unstopped = train_here(tmp_path, *flags, name="unstopped")
    stop(*flags, step=3)
    assert_goes_on(unstopped, train_here(tmp_path, *flags, "--resume", "latest"))


@pytest.mark.trainer
def test_ranks_stop_at_one_step_and_go_on_to_the_bit(tmp_path, flags):
    """Only rank 1 gets the signal: within an epoch, then in its last step but one."""
    flags = [*flags, "--batch-size", 2, "--local-loss", "--gather-with-grad", "--workers", 1]
    unstopped = train(tmp_path, *flags, name="unstopped", processes=2)
    for step, stopped_at in ((2, 4), (7, 8)):
        run = train(tmp_path, *flags, "--resume", "latest", processes=2, env={"SIGNAL_AT": f"1:{step}"})
        assert run.status == 85
        marker = (run.folder / "stopped").read_text()
        assert marker == f"SIGUSR1 step {stopped_at} checkpoints/epoch_0_step_{stopped_at}.pt\n"
    resumed = train(tmp_path, *flags, "--resume", "latest", processes=2)
    assert resumed.status == 0, resumed.output
    assert not (resumed.folder / "stopped").exists()
    resumed.output = (resumed.folder / "out.log").read_text()
    assert_goes_on(unstopped, resumed)


@pytest.mark.trainer
def test_ranks_go_on_in_their_own_shards(tmp_path, model, broken_shards):
    flags = [
        "--model",
        model,
        "--train-data",
        broken_shards,
        "--dataset-type",
        "webdataset",
        "--loss",
        "degla",
    ]
    flags += [*SHORT, "--train-num-samples", 64, "--workers", 2, "--save-most-recent"]
    unstopped = train(tmp_path, *flags, name="unstopped", processes=2)
    train(tmp_path, *flags, processes=2, env={"SIGNAL_AT": "0:3"})
    resumed = train(tmp_path, *flags, "--resume", "latest", processes=2)
    assert resumed.status == 0, resumed.output
    resumed.output = (resumed.folder / "out.log").read_text()
    assert_goes_on(unstopped, resumed, "epoch_latest.pt")


@pytest.fixture
def started(tmp_path):
    """Start upstream's trainer, and end it with the test."""
    with ExitStack() as stack:

        def started(*flags: object) -> Process:
            common = [*COMMON, "--logs", tmp_path / "logs", "--name", "run"]
            output = stack.enter_context((tmp_path / "output").open("w"))
            process = start("-m", "open_clip_train.main", *common, *flags, output=output)
            stack.callback(end, process)
            return process

        yield started


def wait_until(condition, process: Process, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.mark.trainer
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_signal_to_the_whole_job_saves_and_stops(tmp_path, flags, started, number):
    """Loader workers get it too, and have to live for the last step."""
    flags = [*flags, "--epochs", 6, "--workers", 2, "--save-most-recent", "--save-frequency", 0]
    process = started(*flags)
    folder = tmp_path / "logs" / "run"
    log = folder / "out.log"
    wait_until(lambda: log.exists() and "Train Epoch: 1 " in log.read_text(), process)
    for _ in range(3):
        os.killpg(process.pid, number)
        time.sleep(0.01)
    assert process.wait(timeout=120) == 85
    name, step = re.fullmatch(
        r"(\w+) step (\d+) checkpoints/epoch_latest.pt\n", (folder / "stopped").read_text()
    ).groups()
    assert name == number.name
    unstopped = train_here(tmp_path, *flags, name="unstopped")
    assert 8 < int(step) < 48
    resumed = train_here(tmp_path, *flags, "--resume", "latest")
    assert_goes_on(unstopped, resumed, "epoch_latest.pt")


def test_killed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.pt"
    path.write_text("old")

    def half(part: Path) -> None:
        part.write_text("ne")
        os.kill(os.getpid(), signal.SIGKILL)

    if (child := os.fork()) == 0:
        try:
            atomic_write(path, half)
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2
    assert list(tmp_path.glob("**/*.pt")) == [path]  # as upstream looks for the newest
    remove_partial(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.trainer
def test_run_killed_in_the_middle_of_a_write_goes_on(tmp_path, flags, started):
    flags = [*flags, "--save-every-steps", 1, "--save-most-recent", "--save-frequency", 0]
    process = started(*flags, "--resume", "latest")
    checkpoints = tmp_path / "logs" / "run" / "checkpoints"
    part = checkpoints / f".epoch_latest.pt.{process.pid}.part"
    wait_until((checkpoints / "epoch_latest.pt").exists, process)
    while True:  # until it is caught at it
        wait_until(part.exists, process)
        process.send_signal(signal.SIGSTOP)
        if part.exists():
            break
        process.send_signal(signal.SIGCONT)
    process.kill()
    process.wait()
    assert part.exists()
    unstopped = train_here(tmp_path, *flags, name="unstopped")
    resumed = train_here(tmp_path, *flags, "--resume", "latest")
    assert not part.exists()
    assert resumed.values("loss")[-1] == unstopped.values("loss")[-1]
    for key in ("state_dict", "optimizer"):
        assert_same(*(run.checkpoint("epoch_latest.pt")[key] for run in (unstopped, resumed)))


def test_only_the_newest_is_kept_and_an_epoch_takes_its_place(tmp_path, flags, stop):
    stopped = stop(*flags, "--save-every-steps", 2, step=7)
    names = sorted(path.name for path in (stopped.folder / "checkpoints").iterdir())
    assert names == ["epoch_0_step_7.pt"]
    train_here(tmp_path, *flags, "--save-every-steps", 3, "--resume", "latest")
    names = sorted(path.name for path in (stopped.folder / "checkpoints").iterdir())
    assert names == ["epoch_1.pt", "epoch_2.pt"]


def test_stock_open_clip_loads_it_and_trains_on(tmp_path, flags, stop, model):
    stopped = stop(*flags, step=5)
    path = stopped.folder / "checkpoints" / "epoch_0_step_5.pt"
    open_clip.load_checkpoint(open_clip.create_model(model), str(path), strict=True)
    plain = [flag for flag in flags if flag not in ("--loss", "degla")]
    stock = train(tmp_path, *plain, "--resume", path, name="stock", env={"OPEN_CLIP_EXT": "0"})
    assert stock.status == 0, stock.output
    assert len(stock.values("loss")) == 16  # the epoch that was left, from its beginning, and the next


@pytest.fixture
def file_size_limit():
    """Lets no file grow above so many bytes, as a full disk does."""
    was = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, was[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, was)


@pytest.mark.parametrize("extra", [(), ("--save-most-recent",)], ids=["", "most recent"])
def test_full_disk_costs_no_checkpoint(tmp_path, flags, monkeypatch, capsys, file_size_limit, extra):
    """A save within an epoch goes without, with a warning; one after an epoch stops the run."""
    flags = [*flags, "--save-every-steps", 3, *extra]
    unstopped = train_here(tmp_path, *flags, name="unstopped")
    stepped = Run._stepped

    def filled(self, *arguments):
        stepped(self, *arguments)
        if self.steps == 5:
            file_size_limit(100_000)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "_stepped", filled)
        with pytest.raises(SystemExit, match="1"):
            train_here(tmp_path, *flags)
    file_size_limit(-1)
    folder = tmp_path / "logs" / "run"
    log = (folder / "out.log").read_text()
    assert "could not be written" in log
    assert "the run goes on" in log
    sentence = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(r"could not be written \(.*\); the checkpoint before it is whole$", sentence)
    assert len(list((folder / "checkpoints").iterdir())) == 1
    resumed = train_here(tmp_path, *flags, "--resume", "latest")
    assert "resumed in the middle of epoch 0 at batch 3" in resumed.output
    assert unstopped.values("loss")[3:] == resumed.values("loss")[8:]


def test_torn_checkpoint_is_named(tmp_path, flags, capsys):
    run = train_here(tmp_path, *flags, "--epochs", 1)
    path = run.folder / "checkpoints" / "epoch_1.pt"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(SystemExit, match="2"):
        train_here(tmp_path, *flags, "--resume", "latest")
    sentence = capsys.readouterr().err.strip().splitlines()[-1]
    assert sentence.startswith(f"open_clip_ext: {path}: cannot be read as a checkpoint (")
    assert "delete it: --resume latest then takes the one before it" in sentence


def test_other_number_of_samples_a_batch_goes_on_after_as_many(tmp_path, flags, stop):
    stop(*flags, step=5)
    resumed = train_here(tmp_path, *flags, "--batch-size", 8, "--resume", "latest")
    assert "after as many samples, but with other draws" in resumed.output
    assert "resumed in the middle of epoch 0 at batch 2" in resumed.output


@pytest.fixture
def refused(tmp_path, capsys):
    def run(*flags: object, status: int = 2) -> str:
        with pytest.raises(SystemExit) as stopped:
            train_here(tmp_path, *flags)
        assert stopped.value.code == status
        return capsys.readouterr().err.strip().splitlines()[-1].removeprefix("open_clip_ext: ")

    return run


def test_other_run_of_the_same_name_is_refused(tmp_path, flags, stop, refused, csv_data):
    folder = stop(*flags, step=5).folder
    path = folder / "checkpoints" / "epoch_0_step_5.pt"
    assert refused(*flags).startswith(f"{folder} holds a run already; go on with it by --resume latest")
    latest = [*flags, "--resume", "latest"]
    other = support.write_model(tmp_path / "larger", embed_dim=64)
    assert refused(*latest, "--model", other).startswith(f"{path}: a checkpoint of model ")
    assert "resumed with larger; a new run needs another --name" in refused(*latest, "--model", other)
    renamed = tmp_path / "other.csv"
    renamed.write_text(csv_data.read_text())
    assert refused(*latest, "--train-data", renamed).startswith(
        f"{path}: a checkpoint of data photos.csv, resumed with other.csv"
    )
    shorter = tmp_path / "photos.csv"
    shorter.write_text("".join(csv_data.read_text().splitlines(keepends=True)[:21]))
    assert "stopped within an epoch of 32 samples, and " in refused(*latest, "--train-data", shorter)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("--train-data", "nowhere.csv"), "--train-data nowhere.csv: there is no such file on this node"),
        (
            ("--train-data", "nowhere/{0..3}.tar", "--dataset-type", "webdataset"),
            "--train-data nowhere/{0..3}.tar: there is no file nowhere/0.tar on this node",
        ),
        (
            ("--logs", "/dev/null/logs"),
            "--logs /dev/null/logs: /dev/null cannot be written to (Not a directory)",
        ),
        (("--logs", "none", "--save-every-steps", 5), "--save-every-steps 5 has no effect under --logs none"),
        (
            ("--save-every-steps", 0),
            "--save-every-steps 0: give a number of steps, at least 1, or leave it out",
        ),
    ],
)
def test_bad_places_stop_before_training(flags, refused, change, sentence):
    assert refused(*flags, *change) == sentence


def test_too_few_shards_are_refused(model, shards, refused):
    flags = ["--model", model, "--train-data", shards, "--dataset-type", "webdataset", "--loss", "degla"]
    assert refused(*flags, "--train-num-samples", 32, "--workers", 3) == (
        f"--train-data {shards}: 2 shards are too few for 1 processes of 3 workers; give --workers 2, more "
        "shards or --dataset-resampled"
    )


def test_saving_needs_a_loss(model, csv_data, refused):
    assert refused("--model", model, "--train-data", csv_data, "--save-every-steps", 5) == (
        "--save-every-steps has no effect without --loss; add --loss NAME"
    )


def test_sentence_names_the_node_when_there_are_several(flags, refused, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert refused(*flags, "--train-data", "nowhere.csv").startswith(f"{socket.gethostname()}: --train-data")
