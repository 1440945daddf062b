"""Ranks against a loop that sorts, and what ties come to."""

from __future__ import annotations

import itertools
import random

import pytest
import torch

from open_clip_ext.evaluation.scoring import ranking
from open_clip_ext.evaluation.scoring.ranking import rank


def unit(rows: int, width: int = 6, seed: int = 0) -> torch.Tensor:
    drawn = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(drawn, dim=-1)


def some_truths(queries: int, candidates: int) -> list[list[int]]:
    rng = random.Random(0)
    return [rng.sample(range(candidates), rng.randint(1, 4)) for _ in range(queries)]


@pytest.mark.parametrize("at_once", [1, 100, 2**25])
def test_ranks_are_those_of_a_loop_that_sorts(monkeypatch, at_once):
    monkeypatch.setattr(ranking, "AT_ONCE", at_once)
    queries, candidates = unit(40), unit(60, seed=1)
    true = some_truths(40, 60)
    for query, truths, found in zip(queries, true, rank(queries, candidates, true), strict=True):
        scores = [float((query * candidate).sum()) for candidate in candidates]
        order = sorted(range(60), key=lambda index: -scores[index])
        place = next(place for place, index in enumerate(order) if index in truths)
        false = [index for index in order if index not in truths]
        assert (found.best, found.rival, found.tied) == (order[place], false[0], 0)
        assert found.margin == pytest.approx(scores[order[place]] - scores[false[0]], abs=1e-6)
        assert [found.correct(k) for k in (1, 5, 10)] == [place < k for k in (1, 5, 10)]


def test_a_constant_model_is_never_right_and_its_expectation_is_chance():
    queries, candidates = unit(1).expand(7, 6), unit(1).expand(29, 6)
    for found in rank(queries, candidates, [[i, i + 1] for i in range(7)]):
        assert not found.correct(10)
        assert found.expected(1) == pytest.approx(2 / 29)
        assert found.correct(28)  # where 27 false ones are in front, the 28th must be true
        assert found.margin == 0


def test_equal_candidates_tie_wherever_they_stand():
    """The last bits of a matrix product depend on the place in the matrix."""
    queries = unit(64, width=512)
    candidates = unit(1, width=512, seed=1).repeat(1037, 1)
    for found in rank(queries, candidates, [[i] for i in range(64)]):
        assert (found.above, found.tied, found.peers) == (0, 1036, 1)


def test_the_expectation_is_that_of_lots():
    queries = torch.tensor([[1.0, 0.0]])
    candidates = torch.tensor([[0.9, 0], [0.5, 0], [0.5, 1], [0.5, 2], [0.5, 3], [0.1, 0]])
    found = next(rank(queries, candidates, [[1, 4]]))  # one above, two true and two false at 0.5
    rng = random.Random(0)
    for k in (1, 2, 3, 4):
        wins = 0
        for _ in range(4000):
            lots = rng.sample([1, 2, 3, 4], 4)
            wins += bool({1, 4} & set([0, *lots][:k]))
        assert found.expected(k) == pytest.approx(wins / 4000, abs=0.03)
    assert [found.correct(k) for k in (3, 4)] == [False, True]


@pytest.mark.parametrize("tied", range(4))
@pytest.mark.parametrize("peers", range(1, 4))
@pytest.mark.parametrize("above", range(3))
@pytest.mark.parametrize("k", [1, 2, 5, 10])
def test_the_expectation_is_that_of_every_order(tied, peers, above, k):
    """More places than share the similarity are no exception."""
    orders = set(itertools.permutations([False] * tied + [True] * peers))
    found = ranking.Ranked(above=above, tied=tied, peers=peers, margin=0, best=0, rival=1)
    won = [any(order[: max(0, k - above)]) for order in orders]
    assert found.expected(k) == pytest.approx(sum(won) / len(won))
