"""A run that is stopped anywhere and resumed equals one that was not, to the bit."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
import support
from support import Finished, assert_same, train_here

from open_clip_ext.run import Run

SHORT = ("--batch-size", 4, "--epochs", 2)  # 8 batches in an epoch of 32 photos


@pytest.fixture
def flags(model, csv_data):
    return ["--model", model, "--train-data", csv_data, "--csv-separator", ",", "--loss", "degla", *SHORT]


@pytest.fixture
def stop(tmp_path, monkeypatch):
    """Run until a signal comes in the given optimizer step."""

    def run(*flags: object, step: int, by: int = signal.SIGUSR1, name: str = "run") -> Finished:
        stepped = Run._stepped

        def signalled(self, *arguments):
            stepped(self, *arguments)
            if self.steps == step:
                os.kill(os.getpid(), by)

        with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
            patch.setattr(Run, "_stepped", signalled)
            train_here(tmp_path, *flags, name=name)
        assert stopped.value.code == 85
        folder = tmp_path / "logs" / name
        return Finished(85, (folder / "out.log").read_text(), folder)

    return run


def assert_goes_on(unstopped: Finished, resumed: Finished, last: str = "epoch_2.pt"):
    """The losses of both parts, which share a log, and the last checkpoint are those of the whole."""
    assert "resumed in the middle of epoch" in resumed.output
    assert unstopped.values("loss") == resumed.values("loss")
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
}


@pytest.mark.parametrize("step", [2, 9])
@pytest.mark.parametrize("extra", OPTIONS.values(), ids=OPTIONS)
def test_stopped_run_goes_on_to_the_bit(tmp_path, flags, stop, extra, step):
    flags = [*flags, *extra]
    step = min(step, 4 if "--accum-freq" in extra else step)
    last = "epoch_latest.pt" if "--save-most-recent" in extra else "epoch_2.pt"
    unstopped = train_here(tmp_path, *flags, name="unstopped")
    stop(*flags, step=step)
    assert_goes_on(unstopped, train_here(tmp_path, *flags, "--resume", "latest"), last)


@pytest.mark.parametrize("loss", ["clip", "ce-clip"])
def test_every_loss_goes_on(tmp_path, flags, stop, loss):
    flags = [*flags, "--loss", loss]
    unstopped = train_here(tmp_path, *flags, name="unstopped")
    stop(*flags, step=5)
    assert_goes_on(unstopped, train_here(tmp_path, *flags, "--resume", "latest"))


@pytest.fixture(scope="session")
def broken_shards(tmp_path_factory) -> str:
    """Some images cannot be decoded, and some negatives cannot be read."""
    made = support.photos(48)
    for i in (3, 8, 9, 30):
        made[i].negatives = {"not": "a list"}
    url = support.write_shards(tmp_path_factory.mktemp("broken"), made, shards=4)
    folder = Path(url).parent
    for shard in sorted(folder.glob("*.tar")):
        content = bytearray(shard.read_bytes())
        for start in [m.start() for m in re.finditer(rb"IDAT", content)][::4]:
            content[start : start + 4] = b"XXXX"
        shard.write_bytes(content)
    return url


STREAMS = {
    "one process": (),
    "workers": ("--workers", 2),
    "resampled": ("--workers", 2, "--dataset-resampled"),
    "captions only": ("--workers", 3, "--loss", "clip"),
    "accumulation": ("--workers", 2, "--accum-freq", 2),
}


@pytest.mark.parametrize("step", [3, 11])
@pytest.mark.parametrize("extra", STREAMS.values(), ids=STREAMS)
def test_stopped_webdataset_run_goes_on_to_the_bit(tmp_path, model, broken_shards, stop, extra, step):
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
    step = step // 2 if "--accum-freq" in extra else step
    unstopped = train_here(tmp_path, *flags, name="unstopped")
    stop(*flags, step=step)
    assert_goes_on(unstopped, train_here(tmp_path, *flags, "--resume", "latest"))


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
