"""CS-CLIP: units of captions against their foils."""

from __future__ import annotations

import oracles
import pytest
import torch
from reference import arguments, close, features
from set_d import with_kinds

from open_clip_ext.losses import CSCLIPLoss


def terms(x, **options):
    return CSCLIPLoss(**options)(**arguments(CSCLIPLoss, x), output_dict=True)


def units(x):
    """Of each unit, the batch of the samples that have it; of a unit that none has, nothing."""
    found = []
    for k in range(x.phrase.shape[1]):
        rows = [i for i in range(len(x.v)) if x.phrase_m[i, k] and x.foil_m[i, k]]
        there, back = [], []
        for place, i in enumerate(rows):
            phrases = [x.s * oracles.dot(x.v[i], x.phrase[j, k]) for j in rows]
            foil = x.s * oracles.dot(x.v[i], x.foil[i, k])
            there.append(oracles.cross_entropy([*phrases, foil], place))
            images = [x.s * oracles.dot(x.phrase[i, k], x.v[j]) for j in rows]
            back.append(oracles.cross_entropy(images, place))
        found.append((oracles.mean(there) + oracles.mean(back)) / 2 if rows else 0 * x.s)
    return oracles.mean(found)


def test_reference_values():
    x = with_kinds(phrase=(2.5, 4.5), foil=(3.0, 3.5))
    found = terms(x, unit_weight=1.0)
    assert found["contrastive_loss"].item() == close(0.0146786769)
    assert found["unit_loss"].item() == close(9.3199979564)
    assert sum(terms(x).values()).item() == close(4.6746776551)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_samples_without_a_unit_leave_both_directions(k):
    x = features(k=k, seed=7)
    x.phrase_m[2:4, 0], x.foil_m[2:4, 0] = True, True
    loss, expected = terms(x, unit_weight=1.0)["unit_loss"], units(x)
    torch.testing.assert_close(loss, expected)
    leaves = (x.v, x.phrase, x.foil, x.s)
    torch.testing.assert_close(*(torch.autograd.grad(y, leaves) for y in (loss, expected)))


def test_the_content_of_missing_units_does_not_matter():
    x = features()
    value = terms(x)["unit_loss"].item()
    with torch.no_grad():
        x.phrase[~x.phrase_m], x.foil[~x.foil_m] = torch.nan, torch.nan
    loss = terms(x)["unit_loss"]
    assert loss.item() == close(value)
    assert all(g.isfinite().all() for g in torch.autograd.grad(loss, (x.v, x.phrase, x.foil, x.s)))


def test_without_any_unit_negclip_is_left():
    x = features()
    x.foil_m[:] = False
    found = terms(x)
    assert found["unit_loss"] == 0
    gradients = torch.autograd.grad(found["unit_loss"], (x.v, x.phrase, x.foil, x.s))
    assert all((g == 0).all() for g in gradients)
    expected = oracles.hard_negative_clip(x.v, x.t, x.n, x.s, x.m)
    assert sum(found.values()).item() == close(expected.item())


def test_a_single_sample_has_only_its_foils():
    x = features(b=1, k=1)
    x.phrase_m[:], x.foil_m[:] = True, True
    expected = oracles.own_negatives(x.v, x.phrase[:, 0], x.foil, x.s, x.foil_m) / 2
    assert terms(x, unit_weight=1.0)["unit_loss"].item() == close(expected.item())


def test_phrases_and_foils_belong_together():
    assert CSCLIPLoss.aligned == (("phrase", "foil"),)
    assert {kind for pair in CSCLIPLoss.aligned for kind in pair} <= set(CSCLIPLoss.companions)
