"""DAC: bags of dense captions."""

from __future__ import annotations

import oracles
import pytest
import torch
from reference import arguments, close, features, random_set, stream, unit

from open_clip_ext.losses import DACLoss, functional

TERMS = ["contrastive_loss", "igc_loss", "mil_loss", "own_loss"]


def terms(x, **options):
    return DACLoss(**options)(**arguments(DACLoss, x), output_dict=True)


def bags():
    """Set A, with its 12th and 13th draws as bags of three captions and three negatives."""
    x, draw = random_set(6), stream(0)
    for shape in ((6, 16), (6, 16), (24, 16), (6, 16), (6, 16), (24, 16), (6, 16), (6, 16), (6, 9, 16)):
        draw(*shape)
    draw(6, 7, 16), draw(24, 7, 16)
    x.pos, x.n = (unit(draw(18, 16)).view(6, 3, 16) for _ in range(2))
    x.pos_m = x.m = None
    assert x.n[5, 2, 15].item() == close(0.1542802618)
    return x


def total(numbers):
    """Without shifting anything: logits are small here."""
    return torch.log(sum(torch.exp(y) for y in numbers))


def oracle(x):
    rows, captions, negatives = range(len(x.v)), oracles.texts_of(x.pos_m), oracles.texts_of(x.m)
    mil, own = 0 * x.s, 0 * x.s

    def logit(i, j, k):
        return x.s * oracles.dot(x.v[i], x.pos[j, k])

    for i in rows:
        if not captions[i]:
            continue
        bag = [logit(i, i, k) for k in captions[i]]
        every = [logit(i, j, k) for j in rows for k in captions[j]]
        others = [logit(j, i, k) for j in rows for k in captions[i]]
        mil = mil + total([*every, *others]) - total(bag)
        wrong = [x.s * oracles.dot(x.v[i], x.n[i, k]) for k in negatives[i]]
        own = own + total([*bag, *wrong]) - total(bag)
    return {"mil_loss": mil / len(x.v), "own_loss": own / len(x.v)}


def test_reference_values():
    found = terms(bags())
    assert found["mil_loss"].item() == close(9.2129738979)
    assert found["own_loss"].item() == close(2.1693725820)


@pytest.mark.parametrize(("b", "k"), [(1, 2), (5, 1), (5, 3)])
def test_equals_its_loop_oracles(b, k):
    x = features(b=b, k=k)
    found, expected = terms(x), oracle(x)
    assert list(found) == TERMS
    leaves = (x.v, x.n, x.pos, x.s)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
        got, wanted = (
            torch.autograd.grad(y, leaves, retain_graph=True, materialize_grads=True)
            for y in (found[name], value)
        )
        torch.testing.assert_close(got, wanted)


def test_the_other_terms_are_negclip_s_and_degla_s():
    x = features()
    found = terms(x, igc_weight=0.5)
    assert found["contrastive_loss"].item() == close(
        oracles.hard_negative_clip(x.v, x.t, x.n, x.s, x.m).item()
    )
    assert found["igc_loss"].item() == close(0.5 * oracles.own_negatives(x.v, x.t, x.n, x.s, x.m).item())


def test_without_any_dense_caption_negclip_and_its_negatives_are_left():
    x = features()
    x.pos_m[:] = False
    found = terms(x)
    assert found["mil_loss"] == found["own_loss"] == 0
    leaves = (x.v, x.n, x.pos, x.s)
    for name in ("mil_loss", "own_loss"):
        gradients = torch.autograd.grad(found[name], leaves, allow_unused=True, retain_graph=True)
        assert all((g == 0).all() for g in gradients if g is not None)


def test_a_wrong_caption_in_the_bag_costs_little():
    """The maximum counts, not the mean: with one caption that fits, another may be far away."""
    v = torch.eye(2)
    near, far = v[:, None], -v[:, None]
    scale = torch.tensor(50.0)
    good = functional.bag_clip(v, torch.cat([near, far], 1), scale)
    bad = functional.bag_clip(v, torch.cat([far, far], 1), scale)
    assert good < 1 < bad


def test_the_value_does_not_depend_on_blocks(monkeypatch):
    x = features()
    leaves = (x.v, x.pos, x.s)

    def evaluate():
        value = terms(x)["mil_loss"]
        return [value, *torch.autograd.grad(value, leaves)]

    whole = evaluate()
    monkeypatch.setattr("open_clip_ext.losses.chunked_cross_entropy.BLOCK", 2)
    torch.testing.assert_close(evaluate(), whole)
