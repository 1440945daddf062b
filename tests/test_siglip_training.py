"""Models with a logit bias (SigLIP) through upstream's real trainer."""

from __future__ import annotations

import math

import pytest
import support
import torch
from our_losses import KINDS, RUNS
from support import train, train_here

pytestmark = pytest.mark.trainer

SGD = ("--opt", "timm/momentum", "--momentum", 0, "--wd", 0, "--lr", 0.1, "--aug-cfg", "scale=(1.0,1.0)")


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


# --- a bias on one side only ---


@pytest.fixture
def refused(capsys):
    """Run a call that must stop with status 2; its sentence."""

    def run(tmp_path, *flags) -> str:
        with pytest.raises(SystemExit) as stopped:
            train_here(tmp_path, *flags)
        assert stopped.value.code == 2
        return capsys.readouterr().err.strip().splitlines()[-1].removeprefix("open_clip_ext: ")

    return run


@pytest.fixture
def flags(csv_data):
    return ["--train-data", csv_data, "--csv-separator", ",", "--loss", "negclip"]


def saved(run):
    return run.folder / "checkpoints" / "epoch_1.pt"


def test_weights_without_a_bias_start_at_0_and_this_is_said(tmp_path, model, flags):
    weights = saved(train_here(tmp_path, "--model", model, *flags, name="clip"))
    run = train_here(
        tmp_path, "--model", model, *flags, "--pretrained", weights, "--siglip", "--lr", 0, name="siglip"
    )
    assert bias(run) == 0
    warning = f"open_clip_ext: the weights of --model {model} have no logit bias, so it starts at 0, and at "
    assert warning in run.output
    again = train_here(tmp_path, "--model", model, *flags, "--siglip", name="again")
    assert "starts at 0" not in again.output


def test_weights_with_a_bias_are_no_clip(tmp_path, model, siglip, flags, refused):
    path = saved(train_here(tmp_path, "--model", siglip, *flags, name="siglip"))
    assert refused(tmp_path, "--model", model, *flags, "--pretrained", path) == (
        f"{path}: has a logit bias (SigLIP), and --model {model} has none; choose a SigLIP model, or give "
        "the trainer --siglip, which adds one"
    )


@pytest.mark.parametrize(("had", "has"), [(["--siglip"], []), ([], ["--siglip"])], ids=["had", "has"])
def test_a_run_resumes_with_the_bias_it_had(tmp_path, model, flags, refused, had, has):
    path = saved(train_here(tmp_path, "--model", model, *flags, *had, name="was"))
    was, now = ("with", "none") if had else ("without", "one")
    assert refused(tmp_path, "--model", model, *flags, *has, "--resume", path, "--epochs", 2) == (
        f"{path}: a checkpoint of a model {was} a logit bias, and this one has {now}; give the --model "
        "of that run, and --siglip if and only if that run had it"
    )


def test_a_loss_that_looks_at_words_says_why_it_cannot(tmp_path, siglip, flags, refused):
    assert refused(tmp_path, "--model", siglip, *flags, "--loss", "fsc-clip") == (
        "--loss fsc-clip: this model gives no dense tokens: its text tower pools the token 'last', which "
        "does not tell how long a text is; choose a --model with upstream's own two transformers, or "
        "set the weights of the terms that compare tokens to 0"
    )
