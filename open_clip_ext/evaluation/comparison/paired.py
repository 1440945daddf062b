"""Compare several models with the first one on the same items.

Every difference is paired: both models answered the same items, and both are scored on the same resamples of
images. Results on different items are refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from open_clip_ext.errors import InputError
from open_clip_ext.evaluation import result_folder, scorer
from open_clip_ext.evaluation.items import Row
from open_clip_ext.evaluation.scoring import aggregate, bootstrap
from open_clip_ext.evaluation.scoring.aggregate import Mean, Pool, Tree
from open_clip_ext.evaluation.scoring.bootstrap import Replicates

COMPOSITION, ZERO_SHOT = "composition", "zero-shot"
FEW = 50  # images
# Most groups in a table or bar chart; more are unreadable.
GROUPS = 24


@dataclass(frozen=True)
class Result:
    """A result folder and its label in tables."""

    label: str
    folder: Path
    content: Mapping[str, Any]

    @property
    def benchmarks(self) -> Mapping[str, Mapping[str, Any]]:
        """The entries of its benchmarks."""
        found: Mapping[str, Mapping[str, Any]] = self.content["benchmarks"]
        return found


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
        family: composition, zero-shot or retrieval.
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
    def metric(self) -> str:
        """The metric of the primary measure."""
        return aggregate.split(self.primary.name)[0]


@dataclass(frozen=True)
class Verdict:
    """The verdict on one model against the first: a word, and the reasons."""

    word: str
    reasons: str


IMPROVED, NOT_SHOWN, WORSE = "improved while preserved", "not shown", "worse"


@dataclass(frozen=True)
class Comparison:
    """The content of the report and the page.

    Attributes:
        results: the first is the base.
        benchmarks: those that all results have.
        families: for each family the mean of its benchmarks' primary scores.
        margin: how much zero-shot may fall, in [0, 1].
        verdicts: [M-1].
        notes: caveats for the reader.
    """

    results: Sequence[Result]
    benchmarks: Sequence[Paired]
    families: Mapping[str, Measure]
    margin: float
    verdicts: Sequence[Verdict]
    notes: Sequence[str]


# --- reading, refusing ----------------------------------------------------------------------------


def read(folders: Sequence[Path]) -> list[Result]:
    """Read result folders; the label of each is its folder name, or the full path if that is ambiguous.

    Raises InputError if one is not a result folder, or is given twice.
    """
    if len(folders) < 2:
        raise InputError("compare: give at least two result folders, the base first")
    known: dict[Path, Path] = {}
    for folder in folders:
        if (twice := known.setdefault(folder.resolve(), folder)) is not folder:
            raise InputError(f"compare: {twice} and {folder} are the same folder")
    names = Counter(folder.resolve().name for folder in folders)
    found = []
    for folder in folders:
        name = folder.resolve().name
        content = result_folder.read(folder)
        _whole(content, RESULT, str(folder / "result.json"))
        found.append(Result(name if names[name] == 1 else str(folder), folder, content))
    return found


# Required fields of result.json, of a benchmark's entry in it, and of a row.
RESULT = ("model", "versions", "created", "benchmarks")
ENTRY = ("family", "n", "missing", "files", "notes", "primary", "scores", "items")
ROW = ("id", "group", "pictures", "captions", "correct", "margin")


def _whole(content: Mapping[str, Any], fields: Sequence[str], where: str) -> None:
    if gone := [field for field in fields if field not in content]:
        raise InputError(f"{where}: no {', '.join(gone)} in it; evaluate again")


def _rows(result: Result, name: str) -> list[Row]:
    entry = result.benchmarks[name]
    _whole(entry, ENTRY, f"{result.folder / 'result.json'}, {name}")
    rows = result_folder.read_rows(result.folder, entry)
    for number, row in enumerate(rows, 1):
        _whole(row, ROW, f"{result.folder / entry['items']}, line {number}")
    return rows


def shared(results: Sequence[Result]) -> tuple[list[str], list[str]]:
    """The benchmarks that all results have, and one sentence for each benchmark that some lack.

    Raises InputError if there is none.
    """
    names = [n for n in results[0].benchmarks if all(n in r.benchmarks for r in results)]
    if not names:
        had = "; ".join(f"{r.label} has {', '.join(r.benchmarks) or 'none'}" for r in results)
        raise InputError(f"compare: no benchmark is in all results ({had})")
    every = dict.fromkeys(name for result in results for name in result.benchmarks)
    return names, [
        f"{name} is left out: not in {', '.join(r.label for r in results if name not in r.benchmarks)}."
        for name in every
        if name not in names
    ]


# Keys of a benchmark's entry that must agree, with their names. The notes contain templates and splits.
CONDITIONS = {"ties": "treatment of ties", "notes": "notes"}


def aligned(results: Sequence[Result], name: str) -> list[list[Row]]:
    """The rows of a benchmark in every result, in the order of the first.

    Raises InputError if the results are of other files, templates, options or items.
    """
    base = results[0]
    found = [_rows(base, name)]
    order = [row["id"] for row in found[0]]
    for other in results[1:]:
        rows = {row["id"]: row for row in _rows(other, name)}
        _same_conditions(name, base, other)
        for here, there, ids in (
            (base, other, set(order) - set(rows)),
            (other, base, set(rows) - set(order)),
        ):
            if ids:
                raise InputError(
                    f"{name}: {len(ids)} items of {here.label} are not in {there.label} (first: "
                    f"{min(ids)}); evaluate both on the same items, with the same pictures there"
                )
        for row in found[0]:
            _same_item(name, base, row, other, rows[row["id"]])
        found.append([rows[key] for key in order])
    return found


def _same_conditions(name: str, base: Result, other: Result) -> None:
    one, two = base.benchmarks[name], other.benchmarks[name]
    scored = [scorer.described(entry) for entry in (one, two)]
    if scored[0] != scored[1]:
        raise InputError(
            f"{name}: {base.label} was scored by {scored[0]} and {other.label} by {scored[1]}; evaluate both "
            f"with the same {scorer.FLAG}"
        )
    mine, others = (
        {Path(path).name: digest for path, digest in sorted(entry["files"].items())} for entry in (one, two)
    )
    for file in sorted(mine.keys() | others.keys()):
        if mine.get(file) != others.get(file):
            raise InputError(
                f"{name}: {base.label} and {other.label} were not evaluated on the same {file} "
                f"(sha256 {_short(mine.get(file))} and {_short(others.get(file))}); evaluate both on one file"
            )
    for key, what in CONDITIONS.items():
        if one.get(key) != two.get(key):
            raise InputError(
                f"{name}: the {what} of {base.label} and {other.label} differ ({one.get(key)} and "
                f"{two.get(key)}); evaluate both with the same"
            )


def _same_item(name: str, base: Result, one: Row, other: Result, two: Row) -> None:
    # If all captions of the set are candidates, a row also has the nearest wrong one, which differs by model.
    fixed = base.benchmarks[name]["family"] == COMPOSITION
    pictures = [[Path(path).name for path in row["pictures"]] for row in (one, two)]
    for key, mine, others in (
        ("captions", *(row["captions"] if fixed else [] for row in (one, two))),
        ("pictures", *(own if fixed or len(own) == 1 else [] for own in pictures)),
        ("group", one["group"], two["group"]),
        ("metrics", list(one["correct"]), list(two["correct"])),
    ):
        if mine != others:
            raise InputError(
                f"{name}: item {one['id']} has other {key} in {base.label} ({mine}) than in {other.label} "
                f"({others}); evaluate both again with one version"
            )


def _short(digest: str | None) -> str:
    return digest[:12] if digest else "none"


# --- measuring ------------------------------------------------------------------------------------


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


def _prefixed(tree: Tree, name: str) -> Tree:
    """A benchmark's tree with its name in front of its groups."""
    if isinstance(tree, Pool):
        return Pool(tuple(f"{name}\n{group}" for group in tree.groups))
    return Mean(tuple(_prefixed(part, name) for part in tree.parts))


def family(benchmarks: Sequence[Paired]) -> Measure:
    """The mean of the primary scores of several benchmarks; images that they share are resampled together."""
    clusters: list[str] = []
    groups: list[str] = []
    correct: list[list[int]] = [[] for _ in benchmarks[0].rows]
    trees = []
    for one in benchmarks:
        tree, places = bootstrap.taking_part(one.primary.name, one.rows[0])
        base = [one.rows[0][i] for i in places]
        clusters += [bootstrap.cluster(one.name, row) for row in base]
        groups += [f"{one.name}\n{row['group']}" for row in base]
        for own, rows in zip(correct, one.rows, strict=True):
            own += [rows[i]["correct"][one.metric] for i in places]
        trees.append(_prefixed(tree, one.name))
    of = partial(aggregate.apply, Mean(tuple(trees)))
    [found] = bootstrap.replicates(clusters, groups, correct, [of])
    name = ", ".join(f"{one.name} {one.primary.name}" for one in benchmarks)
    return measure(name if len(benchmarks) == 1 else f"mean of {name}", found)


# --- the verdict ----------------------------------------------------------------------------------


def points(value: float) -> str:
    """A difference in points, signed."""
    return f"{100 * value:+.2f}"


def spread(change: Change) -> str:
    """`+1.20 [+0.30, +2.10]`."""
    return f"{points(change.value)} [{points(change.low)}, {points(change.high)}]"


def judged(composition: Measure | None, kept: Measure | None, margin: float, k: int = 0) -> Verdict:
    """The verdict on model k + 1: did composition improve while zero-shot was preserved?

    Improved: the interval of the composition change is above 0 and that of the zero-shot change above
    -margin. Worse: composition's interval is below 0 or zero-shot's below -margin. Everything else is "not
    shown", which does not mean "worse".
    """
    up = held = None
    first, second = "No composition benchmark was run", "no zero-shot benchmark was run"
    if composition:
        change = composition.changes[k]
        up = 1 if change.low > 0 else -1 if change.high < 0 else 0
        word = {1: "improved", 0: "is not shown to have changed", -1: "fell"}[up]
        first = f"Composition {word}: {spread(change)} points ({_ground(composition)})"
    if kept:
        change = kept.changes[k]
        held = 1 if change.low > -margin else -1 if change.high <= -margin else 0
        word = {1: "is kept within", 0: "is not shown to be kept within", -1: "fell by more than"}[held]
        limit = f"the {100 * margin:g}-point margin"
        second = f"zero-shot {word} {limit}: {spread(change)} points ({_ground(kept)})"
    word = IMPROVED if up == held == 1 else WORSE if -1 in (up, held) else NOT_SHOWN
    return Verdict(word, f"{first}; {second}.")


def _ground(measure: Measure) -> str:
    return f"{measure.name}, {measure.n:,} items, {measure.images:,} images"


def compare(folders: Sequence[Path], margin: float = 0.01) -> Comparison:
    """Compare results with the first.

    Args:
        folders: of `eval run`, the base first.
        margin: how much zero-shot may fall, in [0, 1].

    Raises:
        InputError: a folder is not a result folder, or the results cannot be compared.
    """
    from tqdm import tqdm

    results = read(folders)
    names, notes = shared(results)
    benchmarks = [
        paired(results, name) for name in tqdm(names, desc="comparing", unit="benchmark", disable=None)
    ]
    adjusted = iter(bootstrap.holm([change.p for one in benchmarks for change in one.primary.changes]))
    benchmarks = [replace(one, holm=[next(adjusted) for _ in one.primary.changes]) for one in benchmarks]
    families = {
        kind: family([one for one in benchmarks if one.family == kind])
        for kind in dict.fromkeys(one.family for one in benchmarks)
    }
    verdicts = [
        judged(families.get(COMPOSITION), families.get(ZERO_SHOT), margin, k) for k in range(len(results) - 1)
    ]
    notes += [*_few_images(benchmarks), *_other_conditions(results)]
    return Comparison(results, benchmarks, families, margin, verdicts, notes)


def _few_images(benchmarks: Sequence[Paired]) -> list[str]:
    """Percentile intervals over few images are too narrow.

    In a simulation, 95 % intervals covered 0.91 with 10 images, 0.93 with 20, 0.94 with 50 and 0.95 with 80.
    """
    few = [f"{one.name} has {one.primary.images} images" for one in benchmarks if one.primary.images < FEW]
    return [f"Intervals over fewer than {FEW} images are too narrow: {', '.join(few)}."] if few else []


def _other_conditions(results: Sequence[Result]) -> list[str]:
    """What differs between the models besides their weights, one sentence each."""
    said = []
    for key, shown, what in (
        ("config", "name", "architecture"),
        *((key, key, key) for key in ("activation", "precision")),
        ("preprocess", "preprocess", "preprocessing"),
    ):
        models = {result.label: result.content["model"] for result in results}
        if len({repr(model.get(key)) for model in models.values()}) > 1:
            values = ", ".join(f"{label} {model.get(shown)}" for label, model in models.items())
            said.append(f"The {what} differs: {values}.")
    return said
