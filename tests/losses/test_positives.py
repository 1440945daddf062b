"""The building blocks about other true captions equal their formulas written as loops."""

from __future__ import annotations

import oracles
import pytest
import torch
from reference import close, features, live
from set_d import places, set_d

from open_clip_ext.losses import functional as f

# name: (ours, oracle), both functions of a case
BLOCKS = {
    "to_positives": (
        lambda x: f.to_positives(x.v, x.pos, x.s, x.pos_m),
        lambda x: oracles.to_positives(x.v, x.pos, x.s, x.pos_m),
    ),
    "from_positives": (
        lambda x: f.from_positives(x.pos, x.t, x.s, x.pos_m),
        lambda x: oracles.from_positives(x.pos, x.t, x.s, x.pos_m),
    ),
    "positives_clip": (
        lambda x: f.positives_clip(x.v, x.pos, x.s, x.pos_m),
        lambda x: oracles.positives_clip(x.v, x.pos, x.s, x.pos_m),
    ),
    "image_grounded_positives": (
        lambda x: f.image_grounded_positives(x.v, x.pos, x.n, x.s, x.pos_m, x.m),
        lambda x: oracles.own_negatives_of_positives(x.v, x.pos, x.n, x.s, x.pos_m, x.m),
    ),
    "keep_apart": (
        lambda x: f.keep_apart(x.t, x.pos, 0.3, x.pos_m),
        lambda x: oracles.keep_apart(x.t, x.pos, 0.3, x.pos_m),
    ),
}


def gradients(value, x):
    """By name, with zeros for what the value does not depend on."""
    wanted = live(x)
    got = torch.autograd.grad(value, list(wanted.values()), allow_unused=True)
    zeros = {name: torch.zeros_like(y) for name, y in wanted.items()}
    return zeros | {name: g for name, g in zip(wanted, got, strict=True) if g is not None}


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("name", BLOCKS)
def test_equals_its_loop_oracle_in_value_and_gradient(name, k):
    ours, oracle = BLOCKS[name]
    x = features(k=k)
    assert not x.pos_m.any(1).all()  # a sample has none
    value, expected = ours(x), oracle(x)
    assert value.item() == close(expected.item())
    torch.testing.assert_close(gradients(value, x), gradients(expected, x), rtol=0, atol=1e-11)


@pytest.mark.parametrize("content", [1e3, torch.inf, torch.nan])
@pytest.mark.parametrize("name", BLOCKS)
def test_content_of_missing_texts_changes_no_value_and_no_gradient(name, content):
    ours, _ = BLOCKS[name]
    x = features()
    value = ours(x)
    expected = gradients(value, x)
    x.pos = x.pos.detach().masked_fill(~x.pos_m[..., None], content).requires_grad_()
    x.n = x.n.detach().masked_fill(~x.m[..., None], content).requires_grad_()
    assert torch.equal(ours(x), value)
    got = gradients(ours(x), x)
    assert all(torch.equal(got[key], expected[key]) for key in expected)
    assert got["pos"][~x.pos_m].abs().sum() == 0


@pytest.mark.parametrize("b", [1, 4])
@pytest.mark.parametrize("name", BLOCKS)
def test_without_any_text_it_is_zero_and_its_gradient_a_number(name, b):
    x = features(b=b)
    x.pos_m = torch.zeros_like(x.pos_m)
    with torch.autograd.set_detect_anomaly(True):
        value = BLOCKS[name][0](x)
        assert value == 0
        assert all((g == 0).all() for g in gradients(value, x).values())


def test_the_caption_as_the_only_text_gives_clip_and_the_image_grounded_contrast():
    x = features()
    caption = x.t[:, None]
    assert f.positives_clip(x.v, caption, x.s).item() == close(f.clip(x.v, x.t, x.s).item())
    own = f.image_grounded_positives(x.v, caption, x.n, x.s, None, x.m)
    assert own.item() == close(f.image_grounded(x.v, x.t, x.n, x.s, x.m).item())


@pytest.mark.parametrize("name", ["to_positives", "from_positives", "positives_clip"])
def test_rows_against_columns_average_to_the_whole(name):
    x = features(b=6)
    whole = f.Samples(x.v, x.t, x.pos, x.pos_m)
    parts = []
    for first in (0, 3):
        own = slice(first, first + 3)
        p, valid, columns = x.pos[own], x.pos_m[own], whole._replace(first=first)
        parts.append(
            f.from_positives(p, x.t, x.s, valid, first=first)
            if name == "from_positives"
            else getattr(f, name)(x.v[own], p, x.s, valid, columns=columns)
        )
    assert (sum(parts) / 2).item() == close(BLOCKS[name][0](x).item())


def test_reference_values():
    x = set_d()
    texts = places(x.t, x.p, x.q, x.u)
    assert f.positives_clip(x.v, texts, x.s).item() == close(5.4969642395)
    assert f.image_grounded_positives(x.v, texts, x.n[:, :1], x.s).item() == close(2.9901773675)
    assert f.from_positives(places(x.p), x.t, x.s).item() == close(0.1493172465)
