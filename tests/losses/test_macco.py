"""MACCO, its text half: masked captions are columns of images and rows of their own."""

from __future__ import annotations

import oracles
import pytest
import torch
from reference import arguments, close, features
from set_d import with_kinds

from open_clip_ext.losses import MACCOLoss


def loss(x):
    return MACCOLoss()(**arguments(MACCOLoss, x))


def expected(x):
    rows = range(len(x.v))
    texts = [(i, x.t[i]) for i in rows]
    texts += [(i, x.masked[i, k]) for i, k in oracles.slots(x.masked_m)]
    there = [oracles.cross_entropy([x.s * oracles.dot(x.v[i], text) for _, text in texts], i) for i in rows]
    back = [oracles.cross_entropy([x.s * oracles.dot(text, x.v[j]) for j in rows], i) for i, text in texts]
    return (oracles.mean(there) + oracles.mean(back)) / 2


def test_reference_value():
    assert loss(with_kinds(masked=[3.5])).item() == close(3.2198018024)


@pytest.mark.parametrize(("b", "k"), [(1, 1), (5, 1), (5, 3)])
def test_equals_its_loop_oracle(b, k):
    x = features(b=b, k=k)
    torch.testing.assert_close(loss(x), expected(x))
    leaves = (x.v, x.t, x.masked, x.s)
    torch.testing.assert_close(*(torch.autograd.grad(y, leaves) for y in (loss(x), expected(x))))


def test_without_any_masked_caption_it_is_clip():
    x = features()
    x.masked_m[:] = False
    assert loss(x).item() == close(oracles.clip(x.v, x.t, x.s).item())


def test_the_content_of_missing_masked_captions_does_not_matter():
    x = features()
    value = loss(x).item()
    with torch.no_grad():
        x.masked[~x.masked_m] = torch.nan
    assert loss(x).item() == close(value)
    assert all(g.isfinite().all() for g in torch.autograd.grad(loss(x), (x.v, x.t, x.masked, x.s)))
