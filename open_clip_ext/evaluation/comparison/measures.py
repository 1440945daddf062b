"""Scores of several models on the same items, and their paired differences from the first model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from open_clip_ext.errors import InputError
from open_clip_ext.evaluation.comparison.results import Result, aligned
from open_clip_ext.evaluation.items import Row
from open_clip_ext.evaluation.scoring import aggregate, bootstrap
from open_clip_ext.evaluation.scoring.aggregate import Pool
from open_clip_ext.evaluation.scoring.bootstrap import Replicates

# Most groups in a table or bar chart; more are unreadable.
GROUPS = 24


@dataclass(frozen=True)
class Score:
    """A model's score with its 95 % interval, in [0, 1]."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Change:
    """A paired difference from the first model, in [-1, 1].

    Attributes:
        value: the difference.
        low: lower end of its 95 % interval.
        high: upper end.
        p: two-sided, from the same replicates.
    """

    value: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Measure:
    """One aggregation of one benchmark, or the mean of several: M models on the same items.

    Attributes:
        name: of the aggregation.
        n: number of items used.
        images: number of resampled images.
        scores: [M].
        changes: [M-1], of all models but the first.
    """

    name: str
    n: int
    images: int
    scores: Sequence[Score]
    changes: Sequence[Change]


@dataclass(frozen=True)
class Flips:
    """Numbers of items that only one of two models gets right, by the primary metric."""

    wins: int
    losses: int

    @property
    def p(self) -> float:
        """The exact McNemar p, which ignores that items share images."""
        return bootstrap.mcnemar(self.wins, self.losses)


@dataclass(frozen=True)
class Paired:
    """One benchmark in M results.

    Attributes:
        name: of the benchmark.
        family: composition, zero-shot, retrieval or another.
        rows: [M][n], the items of the first result in its order.
        measures: one per aggregation, the primary one first.
        groups: one per group, at most `GROUPS`: those that changed most, in the order of the rows.
        left: number of groups left out.
        flips: [M-1].
        holm: [M-1], p of the primary aggregation, adjusted for all comparisons shown.
    """

    name: str
    family: str
    rows: Sequence[Sequence[Row]]
    measures: Sequence[Measure]
    groups: Sequence[Measure]
    left: int
    flips: Sequence[Flips]
    holm: Sequence[float] = ()

    @property
    def primary(self) -> Measure:
        """The measure used in verdicts."""
        return self.measures[0]

    @property
    def of_items(self) -> bool:
        """Whether a row is an item; of an area under the curve it is a pair, and an item is in hundreds."""
        return self.metric != "auc"

    @property
    def metric(self) -> str:
        """The metric of the primary measure."""
        return aggregate.split(self.primary.name)[0]


def measure(name: str, found: Replicates) -> Measure:
    """Scores and paired changes from replicates."""
    scores = [
        Score(float(value), *bootstrap.interval(drawn))
        for value, drawn in zip(found.value, found.drawn.T, strict=True)
    ]
    differences = found.drawn[:, 1:] - found.drawn[:, :1]
    changes = [
        Change(float(value - found.value[0]), *bootstrap.interval(drawn), bootstrap.p_value(drawn))
        for value, drawn in zip(found.value[1:], differences.T, strict=True)
    ]
    return Measure(name, found.items, found.clusters, scores, changes)


def paired(results: Sequence[Result], name: str) -> Paired:
    """One benchmark, checked, aligned and measured."""
    rows = aligned(results, name)
    entry = results[0].benchmarks[name]
    primary = entry["primary"]
    names = [primary, *(a for a in entry["scores"] if a != primary)]
    found = bootstrap.of_rows(name, rows, names)
    measures = [_as_recorded(results, name, measure(a, found[a])) for a in names]
    if unseen := _unseen(name, rows, primary):
        measures.append(unseen)
    metric, _ = aggregate.split(primary)
    _, places = bootstrap.taking_part(primary, rows[0])
    flips = []
    for other in rows[1:]:
        pairs = Counter(
            (bool(rows[0][i]["correct"][metric]), bool(other[i]["correct"][metric])) for i in places
        )
        flips.append(Flips(wins=pairs[False, True], losses=pairs[True, False]))
    return Paired(name, entry["family"], rows, measures, *_groups(name, rows, primary), flips)


def _groups(name: str, rows: Sequence[Sequence[Row]], primary: str) -> tuple[list[Measure], int]:
    """The groups that changed most, by the metric of the primary aggregation, and how many are left out."""
    metric, _ = aggregate.split(primary)
    _, places = bootstrap.taking_part(primary, rows[0])
    groups = [rows[0][i]["group"] for i in places]
    correct = [[own[i]["correct"][metric] for i in places] for own in rows]
    right: dict[str, list[int]] = {group: [0] * len(rows) for group in groups}
    for m, own in enumerate(correct):
        for group, one in zip(groups, own, strict=True):
            right[group][m] += one
    sizes = Counter(groups)
    by_change = sorted(right, key=lambda g: -max(abs(x - right[g][0]) / sizes[g] for x in right[g]))
    shown = [group for group in right if group in set(by_change[:GROUPS])]
    drawn = bootstrap.replicates(
        [bootstrap.cluster(name, rows[0][i]) for i in places],
        groups,
        correct,
        [partial(aggregate.apply, Pool((group,))) for group in shown],
    )
    measures = [replace(measure(g, one), n=sizes[g]) for g, one in zip(shown, drawn, strict=True)]
    return measures, len(right) - len(shown)


def extremes(one: Paired, k: int, count: int) -> tuple[list[int], list[int]]:
    """Items that model k + 1 lost, and items that it won, with the largest change of margin first.

    Returned as indices into `one.rows[0]`, at most `count` each.
    """
    base, other = one.rows[0], one.rows[k + 1]

    def flipped(to: int) -> list[int]:
        places = [
            i
            for i, (a, b) in enumerate(zip(base, other, strict=True))
            if one.metric in a["correct"] and b["correct"][one.metric] == to != a["correct"][one.metric]
        ]
        return sorted(places, key=lambda i: -abs(other[i]["margin"] - base[i]["margin"]))[:count]

    return flipped(0), flipped(1)


def _as_recorded(results: Sequence[Result], name: str, computed: Measure) -> Measure:
    """A measure with the intervals that `eval run` recorded, which come from other draws.

    Raises InputError if a recorded score does not agree with the rows.
    """
    scores = []
    for result, score in zip(results, computed.scores, strict=True):
        recorded = result.benchmarks[name]["scores"].get(computed.name, {})
        if abs(recorded.get("value", score.value) - score.value) > 1e-9:
            raise InputError(
                f"{result.folder}: {name} {computed.name} is {recorded['value']:.6f} in result.json and "
                f"{score.value:.6f} by its rows; evaluate again"
            )
        scores.append(Score(score.value, *recorded.get("interval", (score.low, score.high))))
    return replace(computed, scores=scores)


def _unseen(name: str, rows: Sequence[Sequence[Row]], primary: str) -> Measure | None:
    """The primary measure on items that no model was trained on, if a manifest says which; otherwise None."""
    keep = [not any(row.get("seen") for row in alike) for alike in zip(*rows, strict=True)]
    part = [[row for row, kept in zip(own, keep, strict=True) if kept] for own in rows]
    if all(keep) or aggregate.absent(primary, part[0]):
        return None
    found = bootstrap.of_rows(name, part, [primary])[primary]
    return measure(f"{primary}, unseen images", found)
