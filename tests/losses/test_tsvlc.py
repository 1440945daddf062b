"""TSVLC: both contrasts, own negatives, paraphrases."""

from __future__ import annotations

import oracles
import pytest
import torch
from reference import arguments, close, features, live, set_a, student
from set_d import places, set_d

from open_clip_ext.losses import TSVLCLoss


@pytest.mark.parametrize("contrast", ["negatives", "captions"])
@pytest.mark.parametrize("k", [1, 3])
def test_equals_its_loop_oracles(k, contrast):
    x = features(k=k)
    terms = TSVLCLoss(contrast=contrast, igc_weight=0.7, pos_weight=0.4)(
        **arguments(TSVLCLoss, x), output_dict=True
    )
    first = (
        oracles.clip(x.v, x.t, x.s)
        if contrast == "captions"
        else oracles.hard_negative_clip(x.v, x.t, x.n, x.s, x.m)
    )
    pos = sum(oracles.to_positives(y, x.pos, x.s, x.pos_m) for y in (x.v, x.t)) / 2
    expected = {
        "contrastive_loss": first,
        "igc_loss": 0.7 * oracles.own_negatives(x.v, x.t, x.n, x.s, x.m),
        "pos_loss": 0.4 * pos,
    }
    torch.testing.assert_close(terms, expected)
    got, want = (
        torch.autograd.grad(sum(y.values()), list(live(x).values()), allow_unused=True)
        for y in (terms, expected)
    )
    torch.testing.assert_close(got, want)


def test_reference_values():
    """Without paraphrases, as the authors train on negatives alone."""
    for contrast, value in (("negatives", 15.7157622199), ("captions", 14.1895412696)):
        loss = TSVLCLoss(contrast=contrast, pos_weight=0)
        assert loss(**student(set_a(), mask=False)).item() == close(value)


def test_reference_values_with_a_paraphrase():
    """The positive term from its two softmaxes, as set D has no value of it."""
    x = set_d()
    terms = TSVLCLoss()(x.v, x.t, x.s, x.n, None, places(x.p), output_dict=True)
    target = torch.arange(4)
    image, text = (torch.nn.functional.cross_entropy(x.s * y @ x.p.T, target) for y in (x.v, x.t))
    assert terms["pos_loss"].item() == close(((image + text) / 2).item())
    rest = terms["contrastive_loss"] + terms["igc_loss"]
    assert rest.item() == close(0.0258408496 + 0.0121099102)


def test_without_paraphrases_it_is_the_same_as_with_that_term_left_out():
    x = features()
    x.pos_m = torch.zeros_like(x.pos_m)
    value = TSVLCLoss()(**arguments(TSVLCLoss, x))
    assert value.item() == close(TSVLCLoss(pos_weight=0)(**arguments(TSVLCLoss, x)).item())
