"""A run's loss and teacher, moved by hooks on a real optimizer: what moves, when, and what must not."""

from __future__ import annotations

import open_clip
import pytest
import torch

from open_clip_ext.losses import CECLIPLoss, DeGLALoss
from open_clip_ext.run import Run
from open_clip_ext.settings import Settings

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
