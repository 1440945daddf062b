"""DeGLA: terms, the teacher's part, and what the released code does otherwise."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import oracles
import pytest
import torch
from reference import (
    close,
    features,
    gradient_norms,
    leaves,
    own_idle,
    random_set,
    set_a,
    set_b,
    set_c,
    student,
    teacher,
)

from open_clip_ext.losses import DeGLALoss, NegCLIPLoss


@pytest.mark.parametrize("tgc", ["paper", "released"])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_equals_its_loop_oracles(k, tgc):
    x = features(k=k)
    loss = DeGLALoss(igc_weight=0.7, tgc_weight=0.9, distill_weight=0.3, tgc_scale=6.0, tgc=tgc)
    terms = loss(**student(x), **teacher(x), output_dict=True)
    text = oracles.own_negatives if tgc == "paper" else oracles.text_grounded_released
    expected = {
        "contrastive_loss": oracles.hard_negative_clip(x.v, x.t, x.n, x.s, x.m),
        "igc_loss": 0.7 * oracles.own_negatives(x.v, x.t, x.n, x.s, x.m),
        "tgc_loss": 0.9 * text(x.t, x.tt, x.n, 6.0, x.m),
        "distill_loss": 0.3 * oracles.self_distillation(x.v, x.tv, x.t, x.tt, x.n, x.tn, x.m),
    }
    torch.testing.assert_close(terms, expected)
    got, want = (torch.autograd.grad(sum(d.values()), (x.v, x.t, x.n, x.s)) for d in (terms, expected))
    torch.testing.assert_close(got, want)


def test_reference_values():
    for x, mask, paper, released in (
        (set_a(), False, 9.9735356476, 10.0348353694),
        (set_b(), True, 0.3440568280, None),
        (set_c(), False, 10.8370146775, 10.7943142136),
    ):
        args = student(x, mask) | teacher(x)
        assert DeGLALoss()(**args).item() == close(paper)
        if released:
            assert DeGLALoss(tgc="released")(**args).item() == close(released)


def test_reference_gradients():
    for x, mask, norms in (
        (set_a(), False, [10.8722238690, 9.5552108767, 2.5076238000]),
        (set_b(), True, [0.6822842322, 1.9685904588, 1.5120508972]),
    ):
        v, t, n = leaves(x)
        assert gradient_norms(DeGLALoss()(**student(x, mask), **teacher(x)), v, t, n) == close(norms)


def test_the_text_contrast_uses_own_negatives_by_default_and_others_on_request():
    x = random_set(8)
    for tgc, others in (("paper", False), ("released", True)):
        n = x.n.clone().requires_grad_()
        t = torch.cat([x.t[:1], torch.zeros(7, 16)])  # only the first caption pulls
        loss = DeGLALoss(igc_weight=0, distill_weight=0, tgc_weight=1, tgc=tgc)
        terms = loss(x.v, t, x.s, n, None, **teacher(x), output_dict=True)
        (pull,) = torch.autograd.grad(terms["tgc_loss"], n)
        owners = pull.abs().sum((1, 2)).nonzero().flatten().tolist()
        assert owners == ([0, 2, 4, 6] if others else [0])


def test_the_distillation_is_a_sum_so_the_published_weight_is_for_a_batch_of_256():
    x = random_set(6)
    single = DeGLALoss()(**student(x), **teacher(x), output_dict=True)["distill_loss"]
    for name in ("v", "t", "n", "tv", "tt", "tn", "m"):
        setattr(x, name, torch.cat([getattr(x, name)] * 2))
    double = DeGLALoss()(**student(x), **teacher(x), output_dict=True)["distill_loss"]
    assert double.item() == close(2 * single.item())
    # at B = 256, K = 4: 1.28 times the mean image term and 6.4 times the mean text term
    assert (0.005 * 256, 0.005 * 256 * 5) == (1.28, 6.4)
    rescaled = DeGLALoss(distill_weight=0.005 * 256 / 12)(**student(x), **teacher(x), output_dict=True)[
        "distill_loss"
    ]
    image = (x.v - x.tv).square().sum(-1).mean()
    text = torch.cat([x.t[:, None] - x.tt[:, None], x.n - x.tn], 1).square().sum(-1).mean()
    assert rescaled.item() == close((1.28 * image + 6.4 * text).item())


def test_the_teacher_gets_no_gradient():
    x = features()
    x.tv, x.tt, x.tn = (y.requires_grad_() for y in (x.tv, x.tt, x.tn))
    DeGLALoss()(**student(x), **teacher(x)).backward()
    assert (x.tv.grad, x.tt.grad, x.tn.grad) == (None, None, None)


def test_the_teacher_content_of_missing_negatives_does_not_matter():
    x = features(k=4)
    value = DeGLALoss()(**student(x), **teacher(x))
    x.tn[~x.m] = torch.nan
    assert torch.equal(DeGLALoss()(**student(x), **teacher(x)), value)


@pytest.mark.parametrize(
    "name", ["teacher_image_features", "teacher_text_features", "teacher_neg_text_features"]
)
def test_a_missing_tensor_of_the_teacher_is_named(name):
    x = features()
    args = student(x) | teacher(x) | {name: None}
    with pytest.raises(ValueError, match=f"^{name} is missing"):
        DeGLALoss()(**args)


def test_only_what_a_term_needs_is_asked_of_the_teacher():
    x = features()
    text = {"teacher_text_features": x.tt}
    assert DeGLALoss(distill_weight=0)(**student(x), **text).isfinite()
    alone = DeGLALoss(distill_weight=0, tgc_weight=0, igc_weight=0)(**student(x))
    assert alone.item() == close(NegCLIPLoss()(**student(x)).item())


def test_makes_its_teacher_from_its_options(monkeypatch):
    calls = []
    stub = SimpleNamespace(EMATeacher=lambda *a, **k: calls.append((a, k)) or "teacher")
    monkeypatch.setitem(sys.modules, "open_clip_ext.teacher", stub)
    assert DeGLALoss(ema_decay=0.9).make_teacher("model") == "teacher"
    DeGLALoss(teacher_checkpoint="a.pt").make_teacher("model")
    assert calls == [
        (("model",), {"decay": 0.9, "checkpoint": None}),
        (("model",), {"decay": 0.9996, "checkpoint": "a.pt"}),
    ]
    assert DeGLALoss(tgc_weight=0, distill_weight=0).make_teacher("model") is None


def test_options_without_effect_are_told():
    assert own_idle(DeGLALoss(tgc_weight=0)) == {
        "tgc": "tgc_weight is 0",
        "tgc_scale": "tgc_weight is 0",
    }
    idle = own_idle(DeGLALoss(tgc_weight=0, distill_weight=0))
    assert sorted(idle) == ["ema_decay", "teacher_checkpoint", "tgc", "tgc_scale"]
