"""CLAP-style invariance: captions and paraphrases find each other."""

from __future__ import annotations

import oracles
import pytest
import torch
from reference import arguments, close, features, own_idle
from set_d import with_kinds

from open_clip_ext.losses import CLAPStyleLoss, functional


def terms(x, **options):
    return CLAPStyleLoss(**options)(**arguments(CLAPStyleLoss, x), output_dict=True)


def style(x, temperature):
    found = []
    for k in range(x.pos.shape[1]):
        rows = [i for i in range(len(x.t)) if x.pos_m[i, k]]
        texts = [x.t[i] for i in rows] + [x.pos[i, k] for i in rows]
        each = []
        for r, text in enumerate(texts):
            others = [j for j in range(len(texts)) if j != r]
            partner = others.index((r + len(rows)) % len(texts))
            logits = [oracles.dot(text, texts[j]) / temperature for j in others]
            each.append(oracles.cross_entropy(logits, partner))
        found.append(oracles.mean(each) if rows else 0 * x.t.sum())
    return oracles.mean(found)


def test_reference_values():
    found = terms(with_kinds(pos=[1.5]))
    assert (found["contrastive_loss"].item(), found["style_loss"].item()) == close(
        (0.0009921993, 1.1611543306)
    )
    x = with_kinds(p=[1.5], q=[4.5])
    p, q, every = x.p[:, 0], x.q[:, 0], torch.ones(4, dtype=torch.bool)
    assert functional.nt_xent(p, q, 1.0, every).item() == close(2.8937995892)


@pytest.mark.parametrize("k", [1, 3])
def test_equals_its_loop_oracle(k):
    x = features(k=k, seed=5)
    found = terms(x, style_weight=0.7, temperature=0.3)
    expected = {"contrastive_loss": oracles.clip(x.v, x.t, x.s), "style_loss": 0.7 * style(x, 0.3)}
    torch.testing.assert_close(found, expected)
    got, want = (torch.autograd.grad(sum(y.values()), (x.v, x.t, x.pos, x.s)) for y in (found, expected))
    torch.testing.assert_close(got, want)


def test_the_content_of_missing_paraphrases_does_not_matter():
    x = features()
    value = terms(x)["style_loss"].item()
    with torch.no_grad():
        x.pos[~x.pos_m] = torch.nan
    loss = terms(x)["style_loss"]
    assert loss.item() == close(value)
    assert all(g.isfinite().all() for g in torch.autograd.grad(loss, (x.t, x.pos)))


@pytest.mark.parametrize(("b", "exists"), [(1, True), (1, False), (5, False)])
def test_a_single_pair_and_none_give_nothing(b, exists):
    x = features(b=b)
    x.pos_m[:] = exists
    loss = terms(x)["style_loss"]
    assert loss == 0
    assert all((g == 0).all() for g in torch.autograd.grad(loss, (x.t, x.pos)))


def test_options_without_effect_are_told():
    assert list(own_idle(CLAPStyleLoss(style_weight=0))) == ["temperature"]
