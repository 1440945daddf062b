"""Models with a logit bias (SigLIP) through upstream's real trainer."""

from __future__ import annotations

import math

import pytest
import support
import torch
from our_losses import KINDS, RUNS
from support import train, train_here

pytestmark = pytest.mark.trainer

# As in upstream's SigLIP models: the text tower sees the whole text, and takes the last token for it.
TEXT = support.MODEL["model_cfg"]["text_cfg"] | {
    "no_causal_mask": True,
    "pool_type": "last",
    "proj_bias": True,
}
SIGLIP = {"init_logit_bias": -10, "init_logit_scale": math.log(10), "custom_text": True, "text_cfg": TEXT}
SGD = ("--opt", "timm/momentum", "--momentum", 0, "--wd", 0, "--lr", 0.1, "--aug-cfg", "scale=(1.0,1.0)")


@pytest.fixture(scope="session")
def siglip(tmp_path_factory) -> str:
    return support.write_model(tmp_path_factory.mktemp("siglip"), **SIGLIP)


@pytest.fixture(scope="session")
def one_batch(tmp_path_factory):
    return support.write_csv(tmp_path_factory.mktemp("batch"), support.photos(16, seed=1), kinds=KINDS)


def bias(run, epoch=1) -> float:
    return run.checkpoint(f"epoch_{epoch}.pt")["state_dict"]["logit_bias"].item()


# The words of a text are not known where its tower takes the last token for it.
RUNS = RUNS | {"fsc-clip": ("--loss", "fsc-clip", "--loss-cfg", "local_weight=0")}


@pytest.mark.parametrize("name", RUNS)
def test_every_loss_trains_it_and_moves_its_bias(tmp_path, siglip, every_kind, name):
    flags = ["--model", siglip, "--train-data", every_kind, "--csv-separator", ",", *RUNS[name]]
    run = train_here(tmp_path, *flags, "--batch-size", 16)
    assert all(math.isfinite(value) for value in run.values("loss"))
    assert len(run.values("loss")) == 2
    assert bias(run) != -10


def test_clip_is_upstream_s_siglip(tmp_path, siglip, one_batch):
    flags = ["--model", siglip, "--train-data", one_batch, "--csv-separator", ",", "--siglip"]
    flags += ["--batch-size", 16, "--epochs", 3, *SGD]
    ours, stock = train_here(tmp_path, *flags, "--loss", "clip", name="ours"), train_here(tmp_path, *flags)
    term = "contrastive_loss"
    assert ours.values(term) == pytest.approx(stock.values(term), rel=1e-4)
    weights = stock.checkpoint("epoch_3.pt")["state_dict"]
    for name, tensor in ours.checkpoint("epoch_3.pt")["state_dict"].items():
        torch.testing.assert_close(tensor, weights[name], rtol=1e-4, atol=2e-6)


def test_siglip_gives_any_model_a_bias(tmp_path, model, csv_data):
    flags = [
        "--model",
        model,
        "--train-data",
        csv_data,
        "--csv-separator",
        ",",
        "--loss",
        "degla",
        "--siglip",
    ]
    assert bias(train_here(tmp_path, *flags)) != -10


@pytest.mark.parametrize("loss", ["negclip", "degla"])
def test_parts_of_a_batch_and_two_processes_equal_one(tmp_path, siglip, one_batch, loss):
    common = ["--model", siglip, "--train-data", one_batch, "--csv-separator", ",", "--loss", loss]
    common += ["--epochs", 2, *SGD]
    one = train_here(tmp_path, *common, "--batch-size", 16, name="one")
    two = train(tmp_path, *common, "--local-loss", "--gather-with-grad", name="two", processes=2)
    assert two.status == 0, two.output
    theirs = {k.removeprefix("module."): v for k, v in two.checkpoint("epoch_2.pt")["state_dict"].items()}
    for name, tensor in one.checkpoint("epoch_2.pt")["state_dict"].items():
        torch.testing.assert_close(theirs[name], tensor, rtol=1e-4, atol=2e-6)
    # The first step alone: of scale and bias upstream adds the gradient once per part.
    parts = train_here(tmp_path, *common, "--accum-freq", 2, "--epochs", 1, name="parts")
    assert parts.values("loss") == pytest.approx(one.values("loss")[:1], rel=1e-3, abs=2e-4)


def test_a_resumed_run_is_the_unstopped_one(tmp_path, siglip, csv_data):
    flags = ["--model", siglip, "--train-data", csv_data, "--csv-separator", ",", "--loss", "degla"]
    flags += ["--epochs", 2, "--save-frequency", 1]
    whole = train_here(tmp_path, *flags, name="whole")
    again = train_here(
        tmp_path, *flags, "--resume", whole.folder / "checkpoints" / "epoch_1.pt", name="again"
    )
    support.assert_same(
        again.checkpoint("epoch_2.pt")["state_dict"], whole.checkpoint("epoch_2.pt")["state_dict"]
    )


def test_the_text_tower_says_why_texts_stay_long(tmp_path, siglip, csv_data):
    flags = ["--model", siglip, "--train-data", csv_data, "--csv-separator", ",", "--loss", "negclip"]
    assert "texts stay at full length, 16 tokens: " in train_here(tmp_path, *flags).output
