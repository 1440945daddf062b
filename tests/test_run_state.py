"""A run's loss and teacher, moved by hooks on a real optimizer: what moves, when, and what must not."""

from __future__ import annotations

import open_clip
import pytest
import torch
from support import train_here

from open_clip_ext import registry
from open_clip_ext.errors import InputError
from open_clip_ext.losses import CECLIPLoss, CLIPLoss, DeGLALoss
from open_clip_ext.training.config import Settings
from open_clip_ext.training.run import Run

# A caption far ahead of its negative, which makes the next threshold the greatest there is.
AHEAD = {
    "image_features": torch.tensor([[1.0, 0.0]]),
    "text_features": torch.tensor([[1.0, 0.0]]),
    "neg_text_features": torch.tensor([[[-1.0, 0.0]]]),
    "logit_scale": torch.tensor(100.0),
    "output_dict": True,
}


@pytest.fixture
def student(model):
    torch.manual_seed(0)
    return open_clip.create_model(model, output_dict=True)


def begun(student, optimizer, loss=DeGLALoss, scaled=False, **options):
    run = Run(Settings("any", loss, options, {"neg": 1}, {"neg": "negatives"}, {}, pad_text=True))
    run.build_loss(torch.device("cpu"))
    run.begin(student, optimizer, scaled=scaled, calls_per_step=1)
    return run


def test_the_teacher_averages_the_weights_that_each_step_left(student):
    """teacher <- a teacher + (1 - a) student, after the step: as DeGLA's trainer does it."""
    a, lr = 0.9, 0.5
    run = begun(student, optimizer := torch.optim.SGD(student.parameters(), lr), ema_decay=a)
    weights = {name: p.detach().clone() for name, p in student.named_parameters()}
    teacher = {name: w.clone() for name, w in weights.items()}
    for _ in range(3):
        for name, p in student.named_parameters():
            p.grad = torch.randn_like(p)
            weights[name] = weights[name] - lr * p.grad
            teacher[name] = a * teacher[name] + (1 - a) * weights[name]
        optimizer.step()
        torch.testing.assert_close(dict(run.teacher.module.named_parameters()), teacher)
    assert run.steps == 3


OPTIMIZERS = {
    "not called": torch.optim.SGD,
    "called, skips by itself": lambda parameters: torch.optim.AdamW(parameters, fused=True),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_that_fp16_s_scaler_skips_moves_neither_teacher_nor_thresholds(student, optimizer):
    """The authors of DeGLA move the teacher all the same."""
    optimizer = OPTIMIZERS[optimizer](student.parameters())
    scaler = torch.amp.GradScaler("cpu")
    degla = begun(student, optimizer, ema_decay=0.5, scaled=True)
    ce_clip = begun(student, optimizer, CECLIPLoss, scaled=True)
    weight = student.logit_scale
    teacher = degla.teacher.module.logit_scale
    before = teacher.item()

    def step(gradient):
        with torch.no_grad():
            weight.add_(1)  # the student is elsewhere, whether it steps or not
        ce_clip.loss(**AHEAD)
        optimizer.zero_grad()
        scaler.scale(weight * gradient).backward()
        scaler.step(optimizer)
        scaler.update()

    step(torch.inf)
    assert (degla.steps, ce_clip.steps) == (0, 0)
    assert teacher.item() == before
    assert ce_clip.loss.thresholds.tolist() == [0]
    step(1.0)
    assert (degla.steps, ce_clip.steps) == (1, 1)
    assert teacher.item() == pytest.approx((before + weight.item()) / 2)
    assert ce_clip.loss.thresholds.tolist() == [10]


class Learned(CLIPLoss):
    def __init__(self, **distributed):
        super().__init__(**distributed)
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.head = torch.nn.Linear(2, 2, bias=False)


class Frozen(Learned):
    def __init__(self, **distributed):
        super().__init__(**distributed)
        self.requires_grad_(False)


class LearnedOnceSized(CLIPLoss):
    def configure(self, companions):
        self.margins = torch.nn.Parameter(torch.zeros(companions["neg"]))


UNTRAINED = (
    "--loss theirs: it has parameters of its own ({}), which would never be trained: upstream's optimizer "
    "holds the model's alone; make them options, or buffers that commit() moves"
)


def test_a_loss_with_parameters_of_its_own_is_refused_at_start(
    tmp_path, model, csv_data, monkeypatch, capsys
):
    """Upstream makes the optimizer before the loss."""
    entry = registry.EntryPoint("theirs", f"{__name__}:Learned", registry.GROUP)
    monkeypatch.setattr(registry, "entries", lambda: {"theirs": entry})
    with pytest.raises(SystemExit, match="2"):
        train_here(tmp_path, "--model", model, "--train-data", csv_data, "--loss", "theirs")
    sentence = capsys.readouterr().err.strip().splitlines()[-1]
    assert sentence == f"open_clip_ext: {UNTRAINED.format('scale, head.weight')}"
    assert not (tmp_path / "logs").exists()


def test_parameters_that_come_with_the_number_of_negatives_are_refused_too():
    settings = Settings("theirs", LearnedOnceSized, {}, {"neg": 4}, {"neg": "negatives"}, {})
    with pytest.raises(InputError) as refused:
        Run(settings).build_loss(torch.device("cpu"))
    assert str(refused.value) == UNTRAINED.format("margins")


def test_frozen_parameters_are_nobody_s_loss():
    assert registry.parse_options("theirs", Frozen, ()) == {}
