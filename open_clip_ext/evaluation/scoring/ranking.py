"""Rank candidates: is a true one among the first k? Used by classification and retrieval.

Shapes: Q queries, C candidates, D embedding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

import torch
from torch import Tensor

from open_clip_ext.errors import InputError

# Similarities kept at once: 128 MiB in fp32. The full N x N matrix is never computed.
AT_ONCE = 2**25


@dataclass(frozen=True)
class Ranked:
    """The rank of a query's best true candidate.

    Attributes:
        above: number of false candidates with a higher similarity than the best true one.
        tied: number of false candidates with the same similarity.
        peers: number of true candidates with that similarity, itself included.
        margin: similarity of the best true candidate minus that of the best false one.
        best: the best true candidate.
        rival: the best false candidate.
    """

    above: int
    tied: int
    peers: int
    margin: float
    best: int
    rival: int

    def correct(self, k: int) -> bool:
        """Whether a true candidate is among the first k, with all ties decided against it."""
        return self.above + self.tied < k

    def expected(self, k: int) -> float:
        """The probability that a true candidate is among the first k if ties are broken at random.

        `k - above` of the `tied + peers` candidates that share the rank are among the first k. The result is
        one minus the hypergeometric probability that none of them is true.
        """
        places = k - self.above
        if places <= 0:
            return 0.0
        if places > self.tied:  # more than the false ones can fill
            return 1.0
        return 1 - comb(self.tied, places) / comb(self.tied + self.peers, places)


def first(queries: Tensor, candidates: Tensor, count: int) -> Iterator[list[int]]:
    """The first `count` candidates of each query, and all others that tie with the last of them.

    Args:
        queries: `[Q,D]`.
        candidates: `[C,D]`.
        count: at least 1.

    Raises InputError if so many tie that they are no choice.
    """
    for _, similar in _similarities(queries, candidates):
        last = similar.topk(min(count, len(candidates))).values[:, -1:]
        for row in similar >= last:
            ids = row.nonzero()[:, 0].tolist()
            if len(ids) > MOST_TIES * count:
                raise InputError(
                    f"{len(ids):,} candidates are equally similar to one query, so there are no first "
                    f"{count} to rank again; this model does not tell them apart"
                )
            yield ids


# More candidates than this for each that was asked for are not ranked again.
MOST_TIES = 10
# For a query the candidates that are ranked again, and their new similarities.
Again = tuple[Sequence[int], Sequence[float]]


def rank(
    queries: Tensor,
    candidates: Tensor,
    true: Sequence[Sequence[int]],
    again: Sequence[Again] | None = None,
) -> Iterator[Ranked]:
    """Rank all candidates for each query by inner product, a chunk of queries at a time.

    Args:
        queries: `[Q,D]`.
        candidates: `[C,D]`; at least one of them is false for each query.
        true: for each query the candidates that are true, at least one.
        again: for each query the candidates that stand in front of all others, by other similarities. The
            others are moved below the last of these by 1, with their distances kept; margins show it.

    Raises InputError if all candidates of a query are true.
    """
    for start, similar in _similarities(queries, candidates):
        truths = true[start : start + len(similar)]
        if again is not None:
            similar = _reordered(similar, again[start : start + len(similar)])
        rows = torch.tensor([row for row, ids in enumerate(truths) for _ in ids])
        ids = torch.tensor([index for ids in truths for index in ids])
        is_true = torch.zeros(similar.shape, dtype=torch.bool)
        is_true[rows, ids] = True
        is_true = is_true.to(similar.device)
        best, best_id = similar.masked_fill(~is_true, -torch.inf).max(1)
        rival, rival_id = similar.masked_fill(is_true, -torch.inf).max(1)
        if rival.isinf().any():
            raise InputError("there is nothing to choose from: every candidate is a right answer")
        level = similar == best[:, None]
        yield from (
            Ranked(*values)
            for values in zip(
                ((similar > best[:, None]) & ~is_true).sum(1).tolist(),
                (level & ~is_true).sum(1).tolist(),
                (level & is_true).sum(1).tolist(),
                (best - rival).tolist(),
                best_id.tolist(),
                rival_id.tolist(),
                strict=True,
            )
        )


def _similarities(queries: Tensor, candidates: Tensor) -> Iterator[tuple[int, Tensor]]:
    """The first query of a chunk, and the similarities `[q,C]` of its queries."""
    # Equal candidates share one column. Otherwise the last bits of a product, which depend on its position in
    # the matrix, would decide between them.
    distinct, column = torch.unique(candidates, dim=0, return_inverse=True)
    step = max(1, AT_ONCE // len(candidates))
    for start in range(0, len(queries), step):
        yield start, (queries[start : start + step] @ distinct.T)[:, column]


def _reordered(similar: Tensor, again: Sequence[Again]) -> Tensor:
    made = similar.double()
    for row, (ids, scores) in zip(made, again, strict=True):
        found = torch.tensor(scores, dtype=row.dtype)
        rest = torch.ones(len(row), dtype=torch.bool)
        rest[list(ids)] = False
        if rest.any():
            row[rest] += found.min() - 1 - row[rest].max()
        row[list(ids)] = found
    return made


def metrics(found: Ranked, places: Mapping[str, int]) -> dict[str, Any]:
    """The fields of a row for the outcome of a query.

    Args:
        found: the rank of its best true candidate.
        places: metrics with the k of each.
    """
    correct = {name: int(found.correct(k)) for name, k in places.items()}
    half = {name: found.expected(k) for name, k in places.items()}
    return {"correct": correct, "half": half, "margin": found.margin, "tied": correct != half}
