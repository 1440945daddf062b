"""A run that stops and resumes equals one that did not, and stock open_clip reads what it wrote."""

from __future__ import annotations

import time

import numpy as np
import open_clip
import pytest
import torch
from our_losses import CLASSES, RUNS
from support import COMMON, assert_same, end, start, train, train_here

from open_clip_ext import _startup, cli

pytestmark = pytest.mark.trainer


@pytest.fixture
def flags(model, every_kind):
    return ["--model", model, "--train-data", every_kind, "--csv-separator", ","]


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("precision", ["fp32", "amp"])
def test_resumed_equals_unstopped(tmp_path, flags, name, precision):
    flags += [*RUNS[name], "--precision", precision, "--epochs", 3]
    loss = CLASSES[name.split()[0]]
    if "neg" in loss.companions and "neg" not in loss.companion_images:
        flags += ["--num-negatives", 3]
    unstopped = train_here(tmp_path, *flags, name="unstopped")
    stopped = unstopped.folder / "checkpoints" / "epoch_1.pt"
    resumed = train_here(tmp_path, *flags, "--resume", stopped, name="resumed")
    assert unstopped.values("loss")[4:] == resumed.values("loss")
    last = [run.checkpoint("epoch_3.pt") for run in (unstopped, resumed)]
    assert_same(*({key: value for key, value in c.items() if key != "name"} for c in last))


def test_a_checkpoint_of_upstream_before_2_30_resumes(tmp_path, flags):
    """Its learning rate is a number of numpy, which torch 2.6 and later takes for code."""
    flags += ["--loss", "degla", "--epochs", 2]
    ours = train_here(tmp_path, *flags, name="ours")
    state = ours.checkpoint()
    for group in state["optimizer"]["param_groups"]:
        group["lr"] = np.float64(group["lr"])
    torch.save(state, tmp_path / "old.pt")
    resumed = train_here(tmp_path, *flags, "--resume", tmp_path / "old.pt", name="resumed")
    assert resumed.values("loss") == ours.values("loss")[4:]
    # The launcher's check reads it too.
    latest = ours.folder / "checkpoints" / "epoch_latest.pt"
    torch.save(state, latest)
    again = ["--logs", tmp_path / "logs", "--name", "ours", "--resume", "latest", "--device", "cpu"]
    _startup.arm()  # once more, after a run in this process
    assert cli.main(list(map(str, ["doctor", "--quiet", "--", *flags, *again]))) == 0


@pytest.mark.parametrize("sampling", [(), ("--dataset-resampled",)], ids=["", "resampled"])
@pytest.mark.trainer
def test_resumed_webdataset_run_equals_unstopped(tmp_path, model, shards, sampling):
    flags = ["--model", model, "--train-data", shards, "--dataset-type", "webdataset", *sampling]
    flags += ["--train-num-samples", 32, "--workers", 2, "--epochs", 3, "--loss", "degla"]
    unstopped = train(tmp_path, *flags, name="unstopped")
    stopped = unstopped.folder / "checkpoints" / "epoch_1.pt"
    resumed = train(tmp_path, *flags, "--resume", stopped, name="resumed")
    assert resumed.status == 0, resumed.output
    assert unstopped.values("loss")[-8:] == resumed.values("loss")
    assert_same(
        unstopped.checkpoint("epoch_3.pt")["optimizer"],
        resumed.checkpoint("epoch_3.pt")["optimizer"],
    )


@pytest.mark.trainer
def test_killed_run_resumes_from_latest(tmp_path, flags):
    flags += [
        "--loss",
        "degla",
        "--epochs",
        4,
        "--save-most-recent",
        "--delete-previous-checkpoint",
    ]
    unstopped = train_here(tmp_path, *flags, name="unstopped")

    killed = ["--logs", tmp_path / "logs", "--name", "killed", "--resume", "latest"]
    with (tmp_path / "output").open("w") as output:
        process = start("-m", "open_clip_train.main", *COMMON, *flags, *killed, output=output)
    latest = tmp_path / "logs" / "killed" / "checkpoints" / "epoch_latest.pt"
    while process.poll() is None and not latest.exists():
        time.sleep(0.01)
    end(process)
    resumed = train_here(tmp_path, *flags, "--resume", "latest", name="killed")
    # Whichever epoch the kill came in, the run goes on from its last whole checkpoint.
    assert_same(
        unstopped.checkpoint("epoch_latest.pt")["optimizer"],
        resumed.checkpoint("epoch_latest.pt")["optimizer"],
    )


def test_stock_open_clip_loads_the_checkpoint_and_trains_on(tmp_path, flags, model):
    ours = train_here(tmp_path, *flags, "--loss", "degla", name="ours")
    path = ours.folder / "checkpoints" / "epoch_1.pt"
    loaded = open_clip.create_model(model)
    open_clip.load_checkpoint(loaded, str(path), strict=True)

    off = {"OPEN_CLIP_EXT": "0"}
    stock = train(tmp_path, *flags, "--epochs", 2, "--resume", path, name="stock", env=off)
    assert stock.status == 0, stock.output
    assert "open_clip_ext" not in stock.checkpoint("epoch_2.pt")["optimizer"]
    # And with the plugin there, a run without --loss does the same.
    plain = train_here(tmp_path, *flags, "--epochs", 2, "--resume", path, name="plain")
    assert_same(stock.checkpoint("epoch_2.pt")["state_dict"], plain.checkpoint("epoch_2.pt")["state_dict"])


def test_plain_run_is_stock_to_the_bit(tmp_path, flags):
    stock = train(tmp_path, *flags, name="stock", env={"OPEN_CLIP_EXT": "0"})
    plain = train(tmp_path, *flags, name="plain")
    assert stock.values("loss") == plain.values("loss")
    assert_same(stock.checkpoint()["state_dict"], plain.checkpoint()["state_dict"])
    assert_same(stock.checkpoint()["optimizer"], plain.checkpoint()["optimizer"])
    params = [(run.folder / "params.txt").read_text().splitlines() for run in (stock, plain)]
    assert [line for line in params[0] if "stock" not in line] == [
        line for line in params[1] if "plain" not in line
    ]
    assert "open_clip_ext" not in plain.output


def test_a_stock_checkpoint_is_resumed_with_a_fresh_teacher(tmp_path, flags):
    stock = train_here(tmp_path, *flags, name="stock")
    path = stock.folder / "checkpoints" / "epoch_1.pt"
    ours = train_here(tmp_path, *flags, "--loss", "degla", "--epochs", 2, "--resume", path, name="ours")
    assert "no state to resume" in ours.output
    assert ours.values("distill_loss")[0] < 1e-9  # the teacher is the student yet


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "negclip"}, "a checkpoint of --loss negclip, resumed with --loss degla"),
        ({"companions": {"neg": 3}}, "give the same --num-negatives"),
        ({"format": 99}, "has format 99"),
    ],
)
def test_foreign_state_is_refused(tmp_path, flags, capsys, changes, message):
    ours = train_here(tmp_path, *flags, "--loss", "degla", name="ours")
    checkpoint = ours.checkpoint()
    checkpoint["optimizer"]["open_clip_ext"].update(changes)
    torch.save(checkpoint, tmp_path / "foreign.pt")
    with pytest.raises(SystemExit, match="2"):
        train_here(tmp_path, *flags, "--loss", "degla", "--resume", tmp_path / "foreign.pt", name="new")
    assert message in capsys.readouterr().err


def test_the_teacher_in_a_checkpoint_is_a_model_of_its_own(tmp_path, flags, model):
    ours = train_here(tmp_path, *flags, "--loss", "degla", name="ours")
    weights = ours.checkpoint()["optimizer"]["open_clip_ext"]["teacher"]
    open_clip.create_model(model).load_state_dict(weights, strict=True)


def test_the_teacher_starts_from_a_checkpoint_of_choice(tmp_path, flags):
    first = train_here(tmp_path, *flags, "--loss", "clip", "--epochs", 2, name="first")
    path = first.folder / "checkpoints" / "epoch_2.pt"
    cfg = ["--loss-cfg", f"teacher_checkpoint={path}", "ema_decay=1.0"]
    ours = train_here(tmp_path, *flags, "--loss", "degla", *cfg, name="ours")
    teacher = ours.checkpoint()["optimizer"]["open_clip_ext"]["teacher"]
    assert_same(dict(teacher), dict(first.checkpoint("epoch_2.pt")["state_dict"]))


@pytest.mark.parametrize("loss", [("--loss", "clip"), ()], ids=["clip", "stock"])
def test_a_run_without_anchors_cannot_be_resumed_with_them(tmp_path, flags, capsys, loss):
    """Its checkpoint does not have the model that it started from."""
    first = train_here(tmp_path, *flags, *loss, name="without")
    path = first.folder / "checkpoints" / "epoch_1.pt"
    with pytest.raises(SystemExit, match="2"):
        train_here(
            tmp_path, *flags, "--loss", "clip", "--loss-cfg", "text_anchor=1", "--resume", path, "--epochs", 2
        )
    assert capsys.readouterr().err.strip().splitlines()[-1] == (
        f"open_clip_ext: {path}: a checkpoint of a run without anchors, which does not have the model that "
        f"the run started from; a new run needs another --name, and --pretrained {path} to start from its "
        "weights"
    )


def test_the_base_in_a_checkpoint_is_the_model_that_the_run_started_from(tmp_path, flags):
    first = train_here(tmp_path, *flags, "--loss", "clip", name="first")
    start = first.folder / "checkpoints" / "epoch_1.pt"
    held = train_here(
        tmp_path, *flags, "--loss", "anchored", "--pretrained", start, "--epochs", 2, name="held"
    )
    base = held.checkpoint("epoch_2.pt")["optimizer"]["open_clip_ext"]["anchor"]
    assert_same(dict(base), dict(first.checkpoint("epoch_1.pt")["state_dict"]))
