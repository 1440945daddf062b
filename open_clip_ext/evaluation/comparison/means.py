"""Means over several benchmarks, with intervals: families, and vl_compo's averages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from open_clip_ext.evaluation.comparison.measures import Measure, Paired, measure
from open_clip_ext.evaluation.scoring import aggregate, bootstrap, overall
from open_clip_ext.evaluation.scoring.aggregate import Mean, Pool, Tree

# A benchmark and an aggregation of it; the parts of a column; the columns of a mean.
Part = tuple[Paired, str]
Column = Sequence[Part]
Columns = Sequence[Column]


def primaries(benchmarks: Sequence[Paired]) -> Columns:
    """The columns of a family: the primary score of each benchmark."""
    return [[(one, one.primary.name)] for one in benchmarks]


def columns(average: str, benchmarks: Sequence[Paired]) -> tuple[dict[str, Column], list[str]]:
    """The whole columns of an average over benchmarks, and a text for each other column."""
    known = {one.name: one for one in benchmarks}
    have = {one.name: [measure.name for measure in one.measures] for one in benchmarks}
    found, missing = overall.find(average, have)
    whole: dict[str, Column] = {
        column: [(known[name], shape) for name, shape in parts] for column, parts in found.items()
    }
    return whole, missing


def named(mean: Columns) -> str:
    """A mean by its parts: `mean of sugarcrepe micro, valse valse11`."""
    parts = [f"{one.name} {shape}" for column in mean for one, shape in column]
    return parts[0] if len(parts) == 1 else f"mean of {', '.join(parts)}"


def measured(wanted: Mapping[str, Columns]) -> dict[str, Measure]:
    """The mean over columns, each the mean over its parts, for several means."""
    return {
        name: replace(
            measure(named(wanted[name]), one), n=len(_used(wanted[name])), images=_images(wanted[name])
        )
        for name, one in replicates(wanted).items()
    }


def replicates(wanted: Mapping[str, Columns], *, seed: int = 0) -> dict[str, bootstrap.Replicates]:
    """The same means on resampled images.

    All are scored on the same draws: images that benchmarks share are resampled together, and a benchmark
    that several means use is resampled once.
    """
    every = [part for mean in wanted.values() for column in mean for part in column]
    known = {one.name: one for one, _ in every}
    places: dict[tuple[str, str], set[int]] = {}
    for name, shape in dict.fromkeys((one.name, shape) for one, shape in every):
        _, used = bootstrap.taking_part(shape, known[name].rows[0])
        places.setdefault((name, aggregate.split(shape)[0]), set()).update(used)
    clusters: list[str] = []
    groups: list[str] = []
    correct: list[list[int]] = [[] for _ in every[0][0].rows]
    for (name, metric), taken in places.items():
        base = known[name].rows[0]
        clusters += [bootstrap.cluster(name, base[i]) for i in sorted(taken)]
        groups += [f"{name}\n{metric}\n{base[i]['group']}" for i in sorted(taken)]
        for own, rows in zip(correct, known[name].rows, strict=True):
            own += [rows[i]["correct"][metric] for i in sorted(taken)]
    trees = [partial(aggregate.apply, _tree(mean)) for mean in wanted.values()]
    return dict(zip(wanted, bootstrap.replicates(clusters, groups, correct, trees, seed=seed), strict=True))


def _tree(mean: Columns) -> Tree:
    """The tree of a mean over groups that are named by benchmark, metric and group."""

    def of(part: Part) -> Tree:
        one, shape = part
        tree, _ = bootstrap.taking_part(shape, one.rows[0])
        return _prefixed(tree, f"{one.name}\n{aggregate.split(shape)[0]}")

    return Mean(tuple(Mean(tuple(map(of, column))) for column in mean))


def _prefixed(tree: Tree, name: str) -> Tree:
    """A benchmark's tree with its name in front of its groups."""
    if isinstance(tree, Pool):
        return Pool(tuple(f"{name}\n{group}" for group in tree.groups))
    return Mean(tuple(_prefixed(part, name) for part in tree.parts))


def _used(mean: Columns) -> list[tuple[Paired, int]]:
    """The rows of a mean."""
    return [
        (one, place)
        for column in mean
        for one, shape in column
        for place in bootstrap.taking_part(shape, one.rows[0])[1]
    ]


def _images(mean: Columns) -> int:
    return len({bootstrap.cluster(one.name, one.rows[0][place]) for one, place in _used(mean)})
