"""The search in chunks against loops over all pairs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from open_clip_ext.mining import search


def unit(n: int, width: int, seed: int) -> torch.Tensor:
    drawn = torch.randn(n, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(drawn, dim=-1).float()


def labels(n: int, seed: int) -> list[tuple[int, str]]:
    rng = np.random.default_rng(seed)
    return [(int(rng.integers(n)), f"label {rng.integers(n)}") for _ in range(2 * n)]


def share(pairs: list[tuple[int, str]], i: int, j: int) -> bool:
    of = [{label for picture, label in pairs if picture == k} for k in (i, j)]
    return not of[0].isdisjoint(of[1])


def loop(n, count, value, pairs):
    """The definition, one pair after the other."""
    partners, values = np.full((n, count), -1), np.full((n, count), -math.inf)
    for i in range(n):
        found = [(value(i, j), -j) for j in range(n) if j != i and not share(pairs, i, j)]
        for k, (v, j) in enumerate(sorted((x for x in found if x[0] > -math.inf), reverse=True)[:count]):
            partners[i, k], values[i, k] = -j, v
    return partners, values


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (4, 7), (100, 3), (100, 100)])
def test_the_nearest_pictures_are_those_of_a_loop(seed, rows, columns):
    n, pairs, x = 23, labels(23, seed), unit(23, 3, seed)

    def value(i, j):
        cosine = float(x[i] @ x[j])
        return cosine if cosine < 0.9 else -math.inf

    found = search.best(n, 4, search.nearest(x, 0.9), search.Alike(n, pairs), rows, columns)
    for one, other in zip(found, loop(n, 4, value, pairs), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_blind_pairs_are_those_of_a_loop(seed):
    n, pairs, a, b = 23, labels(23, seed), unit(23, 2, seed), unit(23, 5, seed + 100)

    def value(i, j):
        one, other = float(a[i] @ a[j]), float(b[i] @ b[j])
        return -other if one > 0.8 and other < 0.1 else -math.inf

    found = search.best(n, 3, search.blind(a, b, 0.8, 0.1), search.Alike(n, pairs), 4, 7)
    assert (found[0] >= 0).any()
    for one, other in zip(found, loop(n, 3, value, pairs), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_pictures_without_any_label_exclude_themselves_alone():
    alike = search.Alike(3, [])
    assert [alike(i).tolist() for i in range(3)] == [[0], [1], [2]]


def test_more_partners_than_pictures_are_asked_for():
    x = unit(3, 2, 0)
    partners, values = search.best(3, 5, search.nearest(x, 1.1), search.Alike(3, []))
    assert (partners >= 0).sum(1).tolist() == [2, 2, 2]
    assert np.isneginf(values[:, 2:]).all()
