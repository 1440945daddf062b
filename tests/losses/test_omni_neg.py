"""Omni-NegCLIP: untrue negations as negatives, true ones as captions that stay apart from the plain one."""

from __future__ import annotations

import oracles
import pytest
import torch
from reference import arguments, close, features, live
from set_d import places, set_d

from open_clip_ext.losses import OmniNegLoss


@pytest.mark.parametrize("k", [1, 3])
def test_equals_its_loop_oracles(k):
    x = features(k=k)
    loss = OmniNegLoss(caption_weight=0.7, apart_weight=0.4, margin=0.3)
    terms = loss(**arguments(OmniNegLoss, x), output_dict=True)
    contrast = oracles.hard_negative_clip(x.v, x.t, x.n, x.s, x.m)
    expected = {
        "presence_loss": (2 * contrast + oracles.own_negatives(x.v, x.t, x.n, x.s, x.m)) / 3,
        "absence_loss": oracles.positives_clip(x.v, x.absence, x.s, x.absence_m),
        "caption_loss": 0.7 * oracles.clip(x.v, x.t, x.s),
        "apart_loss": 0.4 * oracles.keep_apart(x.t, x.absence, 0.3, x.absence_m),
    }
    torch.testing.assert_close(terms, expected)
    leaves = list(live(x).values())
    got, want = (torch.autograd.grad(sum(y.values()), leaves, allow_unused=True) for y in (terms, expected))
    torch.testing.assert_close(got, want)


def test_reference_values_at_the_published_margin():
    x = set_d()
    loss = OmniNegLoss(margin=0.9)
    terms = loss(x.v, x.t, x.s, x.n[:, :1], None, places(x.p), output_dict=True)
    first = terms.pop("presence_loss")
    assert first.item() == close(0.0137934892)
    assert sum(terms.values()).item() == close(4.6506705238)
    assert (first + sum(terms.values())).item() == close(4.6644640130)


@pytest.mark.parametrize(("margin", "value"), [(-1, 0), (0, 0.5), (0.9, 1.4), (1, 1.5)])
def test_the_margin_is_in_cosines(margin, value):
    t = torch.tensor([[1.0, 0.0]])
    absence = torch.tensor([[[0.5, 0.75**0.5]]])
    loss = OmniNegLoss(margin=margin)
    terms = loss(t, t, torch.tensor(10.0), t[:, None], None, absence, output_dict=True)
    assert terms["apart_loss"].item() == pytest.approx(value)


def test_without_absence_captions_those_terms_are_zero():
    x = features()
    x.absence_m = torch.zeros_like(x.absence_m)
    terms = OmniNegLoss()(**arguments(OmniNegLoss, x), output_dict=True)
    assert (terms["absence_loss"], terms["apart_loss"]) == (0, 0)
