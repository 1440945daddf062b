"""On a model with a logit bias the contrast of images and captions is SigLIP's; other terms stay."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from open_clip.loss import SigLipLoss
from our_losses import CLASSES
from reference import arguments, close, features, live
from set_d import set_d

from open_clip_ext.losses import functional as f

BIAS = torch.tensor(-5.0, dtype=torch.float64)


def test_reference_values():
    x = set_d()
    assert f.clip(x.v, x.t, x.s, bias=BIAS).item() == close(0.0715098964)
    assert f.hard_negative_clip(x.v, x.t, x.n, x.s, bias=BIAS).item() == close(1.5896614271)


def test_without_negatives_it_is_upstream_s_loss():
    x = features()
    x.b = BIAS.clone().requires_grad_()
    leaves = (x.v, x.t, x.s, x.b)
    ours, theirs = f.clip(x.v, x.t, x.s, bias=x.b), SigLipLoss()(x.v, x.t, x.s, x.b)
    assert ours.item() == close(theirs.item())
    torch.testing.assert_close(torch.autograd.grad(ours, leaves), torch.autograd.grad(theirs, leaves))
    nothing = f.hard_negative_clip(x.v, x.t, x.n, x.s, torch.zeros_like(x.m), bias=x.b)
    assert nothing.item() == close(theirs.item())


def expected(x, texts):
    """`texts`: feature, the images it is true of, those it is wrong for, and its weight."""
    total = 0.0
    for text, right, wrong, weight in texts:
        for image in [*right, *wrong]:
            logit = x.s * x.v[image] @ text + BIAS
            total += weight * F.softplus(-logit if image in right else logit)
    return close(total.item() / 5)


def others(i):
    return [j for j in range(5) if j != i]


def captions(x):
    return [(x.t[i], [i], others(i), 1) for i in range(5)]


def each(p, m):
    """The companions that exist, and the numbers of their samples."""
    return [(p[i, k], i) for i in range(5) for k in range(3) if m[i, k]]


def test_a_negative_is_a_wrong_text_for_every_image():
    x = features()
    negatives = [(n, [], range(5), 1) for n, _ in each(x.n, x.m)]
    value = f.hard_negative_clip(x.v, x.t, x.n, x.s, x.m, bias=BIAS)
    assert value.item() == expected(x, captions(x) + negatives)


def test_true_captions_of_a_sample_share_its_weight():
    x = features()
    texts = [(p, [i], others(i), 1 / x.pos_m[i].sum().item()) for p, i in each(x.pos, x.pos_m)]
    value = f.positives_clip(x.v, x.pos, x.s, x.pos_m, bias=BIAS)
    assert value.item() == expected(x, texts)


def test_a_masked_caption_is_wrong_for_other_images_alone():
    x = features()
    masked = [(p, [], others(i), 1) for p, i in each(x.masked, x.masked_m)]
    value = f.masked_clip(x.v, x.t, x.masked, x.s, x.masked_m, bias=BIAS)
    assert value.item() == expected(x, captions(x) + masked)


def evaluate(loss, x):
    loss, args = loss().double(), arguments(loss, x)
    if hasattr(loss, "configure"):
        loss.configure({kind: args[f"{kind}_valid"].shape[1] for kind in loss.companions})
    return loss(**args, output_dict=True)


@pytest.mark.parametrize("name", [name for name in CLASSES if name != "c2lip"])
def test_every_loss_takes_a_bias_and_its_other_terms_do_not_change(name):
    x = features()
    if name == "para-clip":
        x.pos, x.pos_m, x.pos_id = x.pos[:, :2], x.pos_m[:, :2], x.pos_id[:, :2]
    plain = evaluate(CLASSES[name], x)
    x.b = BIAS.clone().requires_grad_()
    biased = evaluate(CLASSES[name], x)
    read = [
        term
        for term, y in biased.items()
        if torch.autograd.grad(y, x.b, retain_graph=True, allow_unused=True)[0]
    ]
    assert read
    for term in biased.keys() - set(read):
        assert biased[term].item() == close(plain[term].item()), term


@pytest.mark.parametrize("name", CLASSES)
def test_the_value_does_not_depend_on_blocks(name, monkeypatch):
    x = features()
    x.b = BIAS.clone().requires_grad_()
    if name == "para-clip":
        x.pos, x.pos_m, x.pos_id = x.pos[:, :2], x.pos_m[:, :2], x.pos_id[:, :2]

    def value():
        total = sum(evaluate(CLASSES[name], x).values())
        return [total, *torch.autograd.grad(total, list(live(x).values()), allow_unused=True)]

    whole = value()
    monkeypatch.setattr("open_clip_ext.losses.chunked_cross_entropy.BLOCK", 2)
    torch.testing.assert_close(value(), whole)
