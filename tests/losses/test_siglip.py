"""On a model with a logit bias the contrast of images and captions is SigLIP's; other terms stay."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from open_clip.loss import SigLipLoss
from our_losses import CLASSES, WITH_IMAGES
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


def whole_batch(x, images, texts, right, rows):
    """Mean over `rows`, of images by their slots, of each with all texts that exist; `right` pairs slots."""
    total = 0.0
    for image in rows:
        for text, feature in texts.items():
            logit = x.s * images[image] @ feature + BIAS
            total += F.softplus(-logit if (image, text) in right else logit)
    return total / len(rows)


def pools(x, kind):
    """Images and texts of samples and of a kind's pairs, by slot, and the pairs that exist."""
    (p, p_m), (u, u_m) = ((getattr(x, n), getattr(x, f"{n}_m" if n != "n" else "m")) for n in kind)
    slots = [(i, k) for i in range(5) for k in range(3)]
    images = dict(enumerate(x.v)) | {s: u[s] for s in slots if u_m[s]}
    texts = dict(enumerate(x.t)) | {s: p[s] for s in slots if p_m[s]}
    return images, texts, [s for s in slots if u_m[s] and p_m[s]]


def test_negative_images_meet_all_texts():
    x = features()
    images, texts, pairs = pools(x, ("n", "neg_v"))
    right = {(i, i) for i in [*range(5), *pairs]}
    first, second = (whole_batch(x, images, texts, right, rows) for rows in (range(5), pairs))
    x.b = BIAS
    terms = evaluate(WITH_IMAGES["con-clip with images"], x)
    assert terms["contrastive_loss"].item() == close(((first + second) / 2).item())
    terms = evaluate(CLASSES["triplet-clip"], x)
    assert terms["negatives_loss"].item() == close(second.item())


def test_hard_images_are_further_samples():
    x = features()
    images, texts, pairs = pools(x, ("hard", "hard_v"))
    right, rows = {(i, i) for i in [*range(5), *pairs]}, [*range(5), *pairs]
    for kind, p, m in (("n", x.n, x.m), ("h", x.hard_neg, x.hard_neg_m)):
        texts |= {(kind, i, k): p[i, k] for i in range(5) for k in range(3) if m[i, k]}
    x.b = BIAS
    terms = evaluate(WITH_IMAGES["negclip with images"], x)
    assert terms["contrastive_loss"].item() == close(whole_batch(x, images, texts, right, rows).item())


def evaluate(loss, x):
    loss, args = loss().double(), arguments(loss, x)
    if hasattr(loss, "configure"):
        counts = {kind: args.get(f"{kind}_valid") for kind in loss.companions}
        loss.configure({kind: valid.shape[1] for kind, valid in counts.items() if valid is not None})
    return loss(**args, output_dict=True)


LOSSES = CLASSES | WITH_IMAGES


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "c2lip"])
def test_every_loss_takes_a_bias_and_its_other_terms_do_not_change(name):
    x = features()
    if name == "para-clip":
        x.pos, x.pos_m, x.pos_id = x.pos[:, :2], x.pos_m[:, :2], x.pos_id[:, :2]
    plain = evaluate(LOSSES[name], x)
    x.b = BIAS.clone().requires_grad_()
    biased = evaluate(LOSSES[name], x)
    read = [
        term
        for term, y in biased.items()
        if torch.autograd.grad(y, x.b, retain_graph=True, allow_unused=True)[0]
    ]
    assert read
    for term in biased.keys() - set(read):
        assert biased[term].item() == close(plain[term].item()), term


@pytest.mark.parametrize("name", LOSSES)
def test_the_value_does_not_depend_on_blocks(name, monkeypatch):
    x = features()
    x.b = BIAS.clone().requires_grad_()
    if name == "para-clip":
        x.pos, x.pos_m, x.pos_id = x.pos[:, :2], x.pos_m[:, :2], x.pos_id[:, :2]

    def value():
        total = sum(evaluate(LOSSES[name], x).values())
        return [total, *torch.autograd.grad(total, list(live(x).values()), allow_unused=True)]

    whole = value()
    monkeypatch.setattr("open_clip_ext.losses.chunked_cross_entropy.BLOCK", 2)
    torch.testing.assert_close(value(), whole)
