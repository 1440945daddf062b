"""Upstream's real trainer with `--loss`, in this process and in subprocesses."""

from __future__ import annotations

import math

import pytest
import support
import torch
from our_losses import CLASSES, IMAGES, KINDS, RUNS, SPLIT, TERMS, anchored
from support import train, train_here

from open_clip_ext import registry
from open_clip_ext.losses import DeGLALoss

pytestmark = pytest.mark.trainer

# Losses with something that must move once per step.
STATEFUL = [
    name for name, loss in CLASSES.items() if loss.teacher or list(loss().buffers()) or anchored(loss)
]
# Plain SGD shows the scale of a gradient, which Adam hides.
PLAIN = ("--aug-cfg", "scale=(1.0,1.0)")  # no draw per photo and rank
SGD = ("--opt", "timm/momentum", "--momentum", 0, "--wd", 0, "--lr", 0.1)


@pytest.fixture(scope="session")
def one_batch(tmp_path_factory):
    """As many photos as one global batch of 16: whatever the order, a step sees the same set."""
    made = support.photos(16, seed=1)
    return support.write_csv(tmp_path_factory.mktemp("batch"), made, kinds=KINDS, images=IMAGES)


@pytest.fixture
def flags(model, every_kind):
    return ["--model", model, "--train-data", every_kind, "--csv-separator", ","]


@pytest.mark.parametrize("name", RUNS)
def test_every_loss_trains_and_logs_its_terms(tmp_path, flags, name):
    run = train_here(tmp_path, *flags, *RUNS[name], "--epochs", 3)
    loss = name.split()[0]
    assert f"loss={loss} " in run.output
    for term in TERMS[loss]:
        assert len(run.values(term)) == 12
    total = run.values("loss")
    assert total == pytest.approx([sum(v) for v in zip(*map(run.values, TERMS[loss]), strict=True)], rel=1e-3)
    assert sum(total[-4:]) < sum(total[:4])


@pytest.mark.parametrize(
    "extra",
    [
        ("--precision", "amp_bf16"),
        ("--precision", "amp"),
        ("--precision", "bf16"),
        ("--grad-checkpointing",),
        ("--force-custom-text",),
        ("--lock-image",),
        ("--lock-text", "--lock-text-freeze-layer-norm", "--force-custom-text"),
        ("--grad-clip-norm", 1.0),
        ("--accum-freq", 2, "--precision", "amp_bf16"),
        ("--dataset-type", "synthetic", "--train-num-samples", 16),
        ("--opt", "timm/lamb", "--eps", 1e-6),
    ],
    ids=lambda extra: " ".join(map(str, extra)).replace("--", ""),
)
@pytest.mark.parametrize("loss", STATEFUL)
def test_upstreams_options_work(tmp_path, flags, loss, extra):
    run = train_here(tmp_path, *flags, "--loss", loss, *extra)
    assert run.values("loss")
    assert all(math.isfinite(value) for value in run.values("loss"))
    # fp16's scaler starts at 2^16 and halves with every step that it skips.
    saved = run.checkpoint()
    skipped = 16 - math.log2(saved["scaler"]["scale"]) if "scaler" in saved else 0
    assert saved["optimizer"]["open_clip_ext"]["steps"] == len(run.values("loss")) - skipped


@pytest.mark.parametrize("name", SPLIT)
def test_accumulation_gives_the_whole_batch_s_loss(tmp_path, model, one_batch, name):
    common = ["--model", model, "--train-data", one_batch, "--csv-separator", ",", *RUNS[name]]
    whole = train_here(tmp_path, *common, "--batch-size", 16, "--epochs", 3, name="whole")
    parts = train_here(tmp_path, *common, "--batch-size", 8, "--accum-freq", 2, "--epochs", 3, name="parts")
    for term in TERMS[name.split()[0]]:
        assert parts.values(term) == pytest.approx(whole.values(term), rel=1e-3, abs=2e-4)


@pytest.mark.parametrize("loss", STATEFUL)
def test_state_moves_once_per_optimizer_step(tmp_path, model, one_batch, loss):
    common = ["--model", model, "--train-data", one_batch, "--csv-separator", ",", "--loss", loss]
    whole = train_here(tmp_path, *common, "--batch-size", 16, *SGD, name="whole")
    parts = train_here(tmp_path, *common, "--accum-freq", 2, *SGD, name="parts")
    ours = [run.checkpoint()["optimizer"]["open_clip_ext"] for run in (whole, parts)]
    assert ours[0]["steps"] == ours[1]["steps"] == 1
    for key in ours[0]["loss_state"]:
        torch.testing.assert_close(ours[0]["loss_state"][key], ours[1]["loss_state"][key])
    for name, tensor in (ours[0]["teacher"] or {}).items():
        if name != "logit_scale":  # upstream adds its gradient once per micro-batch
            torch.testing.assert_close(tensor, ours[1]["teacher"][name], rtol=1e-4, atol=1e-6)


@pytest.mark.trainer
@pytest.mark.parametrize("name", SPLIT)
def test_two_processes_equal_one(tmp_path, model, one_batch, name):
    common = ["--model", model, "--train-data", one_batch, "--csv-separator", ",", *RUNS[name]]
    common += ["--epochs", 3, *SGD, *PLAIN]
    one = train_here(tmp_path, *common, "--batch-size", 16, name="one")
    # Exact gradients: upstream's other gather modes scale them (docs/losses.md).
    two = train(tmp_path, *common, "--local-loss", "--gather-with-grad", name="two", processes=2)
    assert two.status == 0, two.output
    theirs = {k.removeprefix("module."): v for k, v in two.checkpoint("epoch_3.pt")["state_dict"].items()}
    for weight, tensor in one.checkpoint("epoch_3.pt")["state_dict"].items():
        torch.testing.assert_close(theirs[weight], tensor, rtol=1e-4, atol=2e-6)
    assert two.output.count(f"loss={name.split()[0]} ") >= 2  # every rank announces itself


@pytest.mark.trainer
@pytest.mark.parametrize(
    "extra",
    [
        (),
        ("--gather-with-grad",),
        ("--local-loss",),
        ("--ddp-static-graph",),
        ("--accum-freq", 2, "--batch-size", 4),
    ],
    ids=lambda extra: " ".join(map(str, extra)).replace("--", "") or "default",
)
def test_two_processes_log_the_loss_of_one(tmp_path, model, one_batch, extra):
    common = [
        "--model",
        model,
        "--train-data",
        one_batch,
        "--csv-separator",
        ",",
        "--loss",
        "degla",
    ]
    common += ["--epochs", 2, *PLAIN]
    one = train_here(tmp_path, *common, "--batch-size", 16, name="one")
    two = train(tmp_path, *common, *extra, name="two", processes=2)
    assert two.status == 0, two.output
    if "--local-loss" in extra:  # rank 0 logs the share of its own rows
        assert all(math.isfinite(value) for value in two.values("loss"))
    else:
        for term in TERMS["degla"]:
            assert two.values(term) == pytest.approx(one.values(term), rel=2e-3, abs=2e-4)


ANCHORS = ("--loss-cfg", "image_anchor=10", "text_anchor=10", "similarity_anchor=10")


@pytest.mark.trainer
@pytest.mark.parametrize("loss", ["clip", "degla"])
def test_two_processes_are_held_to_one_base(tmp_path, model, one_batch, loss):
    common = ["--model", model, "--train-data", one_batch, "--csv-separator", ",", "--loss", loss]
    run = train(tmp_path, *common, *ANCHORS, "--epochs", 3, processes=2)
    assert run.status == 0, run.output
    for name in ("image_anchor_loss", "text_anchor_loss", "similarity_anchor_loss"):
        first, *others = run.values(name)
        assert first < 1e-9  # the model is its base yet
        assert all(0 < value < 10 for value in others)
    assert run.output.count("image_anchor=10") >= 2  # every rank says so


def test_the_pull_of_an_anchor_keeps_features_at_the_base(tmp_path, flags):
    """Without one, the same steps move them far more."""
    moved = {}
    for weight in (1e-6, 100):
        cfg = ("--loss-cfg", f"image_anchor={weight}", f"text_anchor={weight}")
        run = train_here(tmp_path, *flags, "--loss", "negclip", *cfg, "--epochs", 3, name=f"anchor-{weight}")
        moved[weight] = [run.values(f"{name}_anchor_loss")[-1] / weight for name in ("image", "text")]
    assert all(held < free / 3 for held, free in zip(moved[100], moved[1e-6], strict=True))


@pytest.mark.trainer
def test_compiled_equals_eager(tmp_path, flags):
    """With one layer in each tower: what costs is the compiler of C++, for every kernel."""
    parts = {part: {**support.MODEL["model_cfg"][part], "layers": 1} for part in ("vision_cfg", "text_cfg")}
    flags += ["--model", support.write_model(tmp_path / "small", **parts), "--loss", "degla", *ANCHORS]
    eager = train_here(tmp_path, *flags, name="eager")
    compiled = train(tmp_path, *flags, "--torchcompile", name="compiled")
    assert compiled.status == 0, compiled.output
    assert compiled.values("loss") == pytest.approx(eager.values("loss"), rel=1e-3)
    assert compiled.checkpoint()["state_dict"].keys() == eager.checkpoint()["state_dict"].keys()


def test_validation_takes_the_stock_way(tmp_path, flags, csv_data):
    run = train_here(
        tmp_path, *flags, "--loss", "degla", "--val-data", csv_data, "--workers", 2, "--epochs", 2
    )
    assert run.output.count("image_to_text_R@1:") == 2
    assert len(run.values("loss")) == 8


class Overflows(DeGLALoss):
    """Finite loss, gradients that are not: in the second step alone."""

    calls = 0

    def forward(self, image_features, *args, **kwargs):
        terms = super().forward(image_features, *args, **kwargs)
        Overflows.calls += 1
        if Overflows.calls == 2:
            nothing = (image_features - image_features.detach()).float().abs().sum()
            terms["contrastive_loss"] = terms["contrastive_loss"] + nothing.sqrt()
        return terms


def test_a_step_that_amp_skips_moves_neither_teacher_nor_count(tmp_path, flags, monkeypatch):
    entry = registry.EntryPoint("overflows", f"{__name__}:Overflows", registry.GROUP)
    monkeypatch.setattr(registry, "entries", lambda: {"overflows": entry})
    Overflows.calls = 0
    cfg = ["--loss", "overflows", "--loss-cfg", "ema_decay=0.0"]  # teacher: the student's last step
    run = train_here(tmp_path, *flags, *cfg, "--precision", "amp", "--batch-size", 16)
    checkpoint = run.checkpoint()
    assert checkpoint["optimizer"]["open_clip_ext"]["steps"] == 1  # of 2 batches
    assert run.values("distill_loss")[1] < 1e-6
