"""From rows to a score, by every average that papers of the field use.

The same rows give averages up to four points apart, so an aggregation has a name and states itself. A
name is a shape, after a metric and a space if the metric is not `accuracy`: `macro`, `group micro`.
A shape is a tree of unweighted means over pooled groups; it is applied to sums and counts per
group, so that a bootstrap can apply it to thousands of resampled sums at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from open_clip_ext import plugins
from open_clip_ext.errors import InputError
from open_clip_ext.evaluation.items import Row

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Pool:
    """All items of some groups together: sum / count."""

    groups: tuple[str, ...]


@dataclass(frozen=True)
class Mean:
    """The unweighted mean of parts."""

    parts: tuple[Pool | Mean, ...]


Tree = Pool | Mean


@dataclass(frozen=True)
class Shape:
    """A way to average.

    Attributes:
        text: what it is and who uses it.
        build: the tree for the groups of a benchmark, given their sizes.
    """

    text: str
    build: Callable[[Mapping[str, int]], Tree]


def macro(parts: Iterable[Tree | str]) -> Mean:
    """The mean of groups or trees."""
    return Mean(tuple(Pool((part,)) if isinstance(part, str) else part for part in parts))


SHAPES: dict[str, Shape] = {
    "micro": Shape("all items together", lambda sizes: Pool(tuple(sizes))),
    "macro": Shape("the mean over groups", lambda sizes: macro(sizes)),
}


def split(name: str) -> tuple[str, str]:
    """`(metric, shape)` of an aggregation's name."""
    metric, _, shape = name.rpartition(" ")
    return metric or "accuracy", shape


def plan(name: str, sizes: Mapping[str, int]) -> Tree:
    """The tree of an aggregation.

    Args:
        name: of the aggregation.
        sizes: items per group of the whole benchmark.

    Raises InputError if its shape is unknown.
    """
    _, shape = split(name)
    if shape not in SHAPES:
        raise InputError(f"aggregation {name}: no shape {shape}{plugins.nearest(shape, SHAPES)}")
    return SHAPES[shape].build(sizes)


def apply(tree: Tree, groups: Sequence[str], sums: Floats, counts: Floats) -> Floats:
    """The value `[...]` of a tree on sums and counts `[..., G]` of the groups.

    Groups without items are left out of the means; a value with no item at all is NaN.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        if isinstance(tree, Pool):
            places = [i for i, group in enumerate(groups) if group in set(tree.groups)]
            return np.asarray(sums[..., places].sum(-1) / counts[..., places].sum(-1))
        values = np.stack([apply(part, groups, sums, counts) for part in tree.parts])
        there = ~np.isnan(values)
        return np.asarray(np.where(there, values, 0).sum(0) / there.sum(0))


def leaves(tree: Tree) -> list[str]:
    """The groups that count in a tree."""
    if isinstance(tree, Pool):
        return list(tree.groups)
    return [group for part in tree.parts for group in leaves(part)]


def absent(name: str, rows: Iterable[Row]) -> list[str]:
    """The groups that an aggregation is made of and that have no row."""
    sizes = Counter(row["group"] for row in of_metric(name, rows))
    return [group for group in dict.fromkeys(leaves(plan(name, sizes))) if not sizes[group]]


def of_metric(name: str, rows: Iterable[Row]) -> list[Row]:
    """The rows that have the metric of an aggregation."""
    metric, _ = split(name)
    return [row for row in rows if metric in row["correct"]]


def score(name: str, rows: Iterable[Row], sizes: Mapping[str, int] | None = None) -> dict[str, Any]:
    """`{"value", "n", "ties", "half"}` of an aggregation.

    Args:
        name: of the aggregation.
        rows: of one benchmark.
        sizes: items per group of the whole benchmark, where `rows` are a part of it.

    `n` counts the rows that take part, `ties` those of them that a tie decides, and `half` is the
    expected value if ties were broken at random.
    """
    metric, _ = split(name)
    chosen = of_metric(name, rows)
    tree = plan(name, sizes or Counter(row["group"] for row in chosen))
    part = set(leaves(tree))
    chosen = [row for row in chosen if row["group"] in part]
    groups = sorted({row["group"] for row in chosen})
    place = {group: i for i, group in enumerate(groups)}
    table = np.zeros((3, len(groups)))
    for row in chosen:
        table[:, place[row["group"]]] += (row["correct"][metric], row["half"][metric], 1)
    strict, half = apply(tree, groups, table[:2], np.stack([table[2]] * 2))
    ties = sum(row["correct"][metric] != row["half"][metric] for row in chosen)
    return {"value": float(strict), "n": len(chosen), "ties": int(ties), "half": float(half)}
