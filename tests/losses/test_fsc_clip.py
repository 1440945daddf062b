"""FSC-CLIP, its global part: focal weights and smoothed labels over own negatives."""

from __future__ import annotations

import oracles
import pytest
import torch
from reference import arguments, close, features, gradient_norms, leaves, set_a, set_b
from set_d import with_kinds

from open_clip_ext.losses import FSCCLIPLoss


def terms(x, **options):
    return FSCCLIPLoss(**options)(**arguments(FSCCLIPLoss, x), output_dict=True)


def scr(x, focal=2.0, smoothing=0.02):
    each = []
    for i in range(len(x.v)):
        texts = [x.t[i], *(x.n[i, k] for k in range(x.n.shape[1]) if x.m[i, k])]
        if len(texts) > 1:
            logits = torch.stack([x.s * oracles.dot(x.v[i], text) for text in texts])
            total = 0
            for k, log_p in enumerate(logits - logits.logsumexp(0)):
                share = (1 - smoothing) * (k == 0) + smoothing / len(texts)
                total = total - share * (1 - log_p.exp()) ** focal * log_p
            each.append(total)
    return oracles.mean(each)


def test_reference_values():
    found = terms(with_kinds(k=2), scr_weight=1.0)
    assert found["contrastive_loss"].item() == close(0.0009921993)
    assert found["scr_loss"].item() == close(0.1429393307)


def test_reference_values_with_missing_negatives():
    a = set_a()
    a.m[:] = True
    assert terms(a)["scr_loss"].item() == close(3.5314724355)
    a.m[1, 0] = a.m[2, 1] = False
    assert terms(a)["scr_loss"].item() == close(3.5233081638)
    b = set_b()
    assert terms(b, scr_weight=1.0)["scr_loss"].item() == close(0.1655614949)
    v, t, n = leaves(b)
    norms = gradient_norms(terms(b, scr_weight=1.0)["scr_loss"], v, t, n)
    assert norms == close([0.8630972540, 2.5450457620, 1.8785449093])


@pytest.mark.parametrize(("focal", "smoothing"), [(2.0, 0.02), (0.0, 0.0), (0.5, 0.3), (1.0, 1.0)])
def test_equals_its_loop_oracle(focal, smoothing):
    x = features()
    x.m[0] = False
    found = terms(x, scr_weight=1.0, focal=focal, label_smoothing=smoothing)
    expected = {"contrastive_loss": oracles.clip(x.v, x.t, x.s), "scr_loss": scr(x, focal, smoothing)}
    torch.testing.assert_close(found, expected)
    got, want = (torch.autograd.grad(y["scr_loss"], (x.v, x.t, x.n, x.s)) for y in (found, expected))
    torch.testing.assert_close(got, want)


def test_the_content_of_missing_negatives_does_not_matter():
    x = features()
    value = terms(x)["scr_loss"].item()
    with torch.no_grad():
        x.n[~x.m] = torch.nan
    loss = terms(x)["scr_loss"]
    assert loss.item() == close(value)
    gradients = torch.autograd.grad(loss, (x.v, x.t, x.n, x.s))
    assert all(g.isfinite().all() for g in gradients)
    assert (gradients[2][~x.m] == 0).all()


@pytest.mark.parametrize("focal", [0.0, 0.5, 2.0])
def test_without_any_negative_and_where_all_is_learned_gradients_are_numbers(focal):
    x = features(b=1)
    x.m[:] = False
    loss = terms(x, focal=focal)["scr_loss"]
    assert loss == 0
    assert all((g == 0).all() for g in torch.autograd.grad(loss, (x.v, x.t, x.n, x.s)))
    v, n = torch.tensor([[1.0, 0.0]], requires_grad=True), torch.tensor([[[-1.0, 0.0]]])
    loss = FSCCLIPLoss(focal=focal)(v, v.detach(), torch.tensor(100.0), n)
    assert torch.autograd.grad(loss, v)[0].isfinite().all()


def test_options_without_effect_are_told():
    assert sorted(FSCCLIPLoss(scr_weight=0).idle_options()) == ["focal", "label_smoothing"]
