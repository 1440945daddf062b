"""Test-set noise: the percentile bootstrap over images, the exact McNemar test, Holm's correction.

Items share pictures (up to 22 items of SugarCrepe one photograph), so pictures are resampled, each with all
its items. Compared models are scored on the same draws. Other noise, such as that of the training seed, is
in no interval here: measuring it takes several trainings.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from open_clip_ext.evaluation.items import Row
from open_clip_ext.evaluation.scoring import aggregate

Array = npt.NDArray[np.float64]
# Groups in sorted order, their sums of correct items [..., G] and of items [..., G] -> scores [...].
Aggregate = Callable[[Sequence[str], Array, Array], Array]

RESAMPLES = 10_000
AT_ONCE = 2**22  # counts, or sums, at once


@dataclass(frozen=True)
class Replicates:
    """Scores of M models on R resamples of the images.

    Attributes:
        value: [M], on the original items.
        drawn: [R, M], on the resamples.
        items: the number of items.
        clusters: the number of images.
    """

    value: Array
    drawn: Array
    items: int
    clusters: int


def replicates(
    clusters: Sequence[str],
    groups: Sequence[str],
    correct: Sequence[Sequence[int]],
    aggregates: Sequence[Aggregate],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Replicates]:
    """Scores under resampling of the clusters, for several aggregations on the same draws.

    A draw takes C of the C clusters with replacement (Efron & Tibshirani, An Introduction to the
    Bootstrap, 1993, chapter 6). Clusters with the same counts are drawn together, multinomially, which
    gives the same distribution and makes the result independent of the order of the items.

    Args:
        clusters: [n], the image of each item.
        groups: [n], the subset of each item.
        correct: [M, n], 0 or 1 for each model and item.
        aggregates: functions from sums per group to scores.
        resamples: R.
        seed: of the draws.
    """
    names = sorted(set(groups))
    place = {name: g for g, name in enumerate(names)}
    content: dict[str, dict[int, list[int]]] = {}
    for cluster, group, *right in zip(clusters, groups, *correct, strict=True):
        sums = content.setdefault(cluster, {}).setdefault(place[group], [0] * (1 + len(correct)))
        for k, one in enumerate((1, *right)):
            sums[k] += one
    kinds = Counter(tuple(sorted((g, *sums) for g, sums in own.items())) for own in content.values())
    ordered = sorted(kinds)
    # One row per kind and group, sorted by group: a group's sums are then a product with consecutive rows.
    table = np.array(sorted((g, kind, *sums) for kind, own in enumerate(ordered) for g, *sums in own))
    of_kind, contained = table[:, 1], table[:, 2:].astype(np.float64)
    ends = np.searchsorted(table[:, 0], np.arange(len(names) + 1))
    sizes = np.array([kinds[own] for own in ordered])

    def scores(counts: npt.NDArray[np.int64]) -> list[Array]:
        """Counts of the kinds [r, K] -> per aggregation [r, M]."""
        weights = counts.astype(np.float64)  # integers, so all sums are exact
        made = np.stack(
            [weights[:, of_kind[start:end]] @ contained[start:end] for start, end in pairwise(ends)], axis=-1
        )  # [r, 1 + M, G]
        right = made[:, 1:]
        items = np.broadcast_to(made[:, :1], right.shape)
        return [of(names, right, items) for of in aggregates]

    generator = np.random.default_rng(seed)
    total = int(sizes.sum())
    chunk = max(1, AT_ONCE // max(len(table), len(names) * (1 + len(correct))))
    parts = [
        scores(generator.multinomial(total, sizes / total, size=min(chunk, resamples - done)))
        for done in range(0, resamples, chunk)
    ]
    return [
        Replicates(value[0], np.concatenate(drawn), len(clusters), total)
        for value, *drawn in zip(scores(sizes[None]), *parts, strict=True)
    ]


def cluster(benchmark: str, row: Row) -> str:
    """The cluster of a row: its first picture, or the row itself if it has no picture."""
    return str(row["pictures"][0]) if row["pictures"] else f"{benchmark}\n{row['id']}"


def taking_part(
    name: str, rows: Sequence[Row], sizes: Mapping[str, int] | None = None
) -> tuple[aggregate.Tree, list[int]]:
    """The tree of an aggregation, and the indices of the rows it uses.

    Args:
        name: of the aggregation.
        rows: of one benchmark.
        sizes: items per group of the whole benchmark, if `rows` are only a part of it.
    """
    metric, _ = aggregate.split(name)
    places = [i for i, row in enumerate(rows) if metric in row["correct"]]
    tree = aggregate.plan(name, sizes or Counter(rows[i]["group"] for i in places))
    counting = set(aggregate.leaves(tree))
    return tree, [i for i in places if rows[i]["group"] in counting]


def of_rows(
    benchmark: str,
    rows: Sequence[Sequence[Row]],
    names: Sequence[str],
    sizes: Mapping[str, int] | None = None,
) -> dict[str, Replicates]:
    """Replicates of one benchmark's aggregations. Those over the same rows use the same draws.

    Args:
        benchmark: its name.
        rows: of M models, the same items in the same order.
        names: aggregations.
        sizes: items per group of the whole benchmark, if `rows` are only a part of it.
    """
    alike: dict[tuple[str, tuple[int, ...]], dict[str, aggregate.Tree]] = {}
    for name in names:
        tree, places = taking_part(name, rows[0], sizes)
        alike.setdefault((aggregate.split(name)[0], tuple(places)), {})[name] = tree
    found: dict[str, Replicates] = {}
    for (metric, chosen), trees in alike.items():
        base = [rows[0][i] for i in chosen]
        drawn = replicates(
            [cluster(benchmark, row) for row in base],
            [row["group"] for row in base],
            [[own[i]["correct"][metric] for i in chosen] for own in rows],
            [partial(aggregate.apply, tree) for tree in trees.values()],
        )
        found.update(zip(trees, drawn, strict=True))
    return {name: found[name] for name in names}


def interval(drawn: Array, level: float = 0.95) -> tuple[float, float]:
    """The percentile interval of one score's replicates [R].

    Draws without any item of the group, which small groups may have, are left out.
    """
    tail = (1 - level) / 2
    low, high = np.nanquantile(drawn, (tail, 1 - tail))
    return float(low), float(high)


def p_value(drawn: Array) -> float:
    """Two-sided p of "no difference" from the replicates [R] of a difference.

    Twice the smaller share of replicates on either side of 0, zero included, with one added to both counts
    so that p is never 0. It is the level at which the percentile interval just touches 0.
    """
    sides = ((drawn <= 0).sum(), (drawn >= 0).sum())
    return float(min(1.0, 2 * (min(sides) + 1) / (np.isfinite(drawn).sum() + 1)))


def mcnemar(wins: int, losses: int) -> float:
    """Exact two-sided McNemar p: wins and losses as tosses of a fair coin.

    It assumes that items are independent, and so ignores that items share images.
    """
    n, fewer = wins + losses, min(wins, losses)
    logs = [math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in range(fewer + 1)]
    return min(1.0, 2 * math.fsum(math.exp(log - n * math.log(2)) for log in logs))


def holm(ps: Sequence[float]) -> list[float]:
    """The p-values adjusted for their number (Holm, Scandinavian Journal of Statistics 1979)."""
    adjusted, floor = [0.0] * len(ps), 0.0
    for rank, k in enumerate(sorted(range(len(ps)), key=lambda k: ps[k])):
        floor = max(floor, min(1.0, (len(ps) - rank) * ps[k]))
        adjusted[k] = floor
    return adjusted
