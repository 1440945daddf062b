"""Compare several models with the first one on the same items.

Every difference is paired: both models answered the same items, and both are scored on the same resamples of
images. Results on different items are refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from open_clip_ext.evaluation.comparison import field
from open_clip_ext.evaluation.comparison.means import Columns, columns, measured, primaries
from open_clip_ext.evaluation.comparison.measures import Change, Measure, Paired, paired
from open_clip_ext.evaluation.comparison.picture import Picture, picture
from open_clip_ext.evaluation.comparison.results import COMPOSITION, ZERO_SHOT, Result, read, shared
from open_clip_ext.evaluation.scoring import bootstrap, overall

FEW = 50  # images
MANY = 6  # benchmarks, up to which a verdict names all


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
        averages: vl_compo's averages over benchmarks, of which all columns are there.
        missing: for each of the others that has a column, what is missing.
        picture: composition against recognition, if there are both.
        margin: how much zero-shot may fall, in [0, 1].
        verdicts: [M-1].
        notes: caveats for the reader.
    """

    results: Sequence[Result]
    benchmarks: Sequence[Paired]
    families: Mapping[str, Measure]
    averages: Mapping[str, Measure]
    missing: Mapping[str, Sequence[str]]
    picture: Picture | None
    margin: float
    verdicts: Sequence[Verdict]
    notes: Sequence[str]


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
    parts = measure.name.count(",") + 1
    name = measure.name if parts <= MANY else f"mean of the primary scores of {parts} benchmarks"
    return f"{name}, {measure.n:,} items, {measure.images:,} images"


def compare(folders: Sequence[Path], margin: float = 0.01, published: Path | None = None) -> Comparison:
    """Compare results with the first.

    Args:
        folders: of `eval run`, the base first.
        margin: how much zero-shot may fall, in [0, 1].
        published: vl_compo's results.csv, whose models become points of the picture.

    Raises:
        InputError: a folder is not a result folder, the results cannot be compared, or they lack what
            `published` needs.
    """
    from tqdm import tqdm

    results = read(folders)
    models = field.read(published) if published else []
    names, notes = shared(results)
    benchmarks = [
        paired(results, name) for name in tqdm(names, desc="comparing", unit="benchmark", disable=None)
    ]
    adjusted = iter(bootstrap.holm([change.p for one in benchmarks for change in one.primary.changes]))
    benchmarks = [replace(one, holm=[next(adjusted) for _ in one.primary.changes]) for one in benchmarks]
    families, averages, missing = _means(benchmarks)
    verdicts = [
        judged(families.get(COMPOSITION), families.get(ZERO_SHOT), margin, k) for k in range(len(results) - 1)
    ]
    notes += [*_few_images(benchmarks), *_other_conditions(results)]
    shown = picture(families, averages, benchmarks, models)
    return Comparison(results, benchmarks, families, averages, missing, shown, margin, verdicts, notes)


def _means(
    benchmarks: Sequence[Paired],
) -> tuple[dict[str, Measure], dict[str, Measure], dict[str, list[str]]]:
    """The families, vl_compo's averages, and what is missing of those that have some of their columns."""
    wanted: dict[str, dict[str, Columns]] = {}
    for kind in dict.fromkeys(one.family for one in benchmarks):
        wanted[kind] = {kind: primaries([one for one in benchmarks if one.family == kind])}
    missing: dict[str, list[str]] = {}
    for average in overall.AVERAGES:
        found, gone = columns(average, benchmarks)
        if gone and overall.started(average, [one.name for one in benchmarks]):
            missing[average] = gone
        elif not gone:
            mean = list(found.values())
            wanted[mean[0][0][0].family][average] = mean
    made = {name: one for own in wanted.values() for name, one in measured(own).items()}
    averages = {name: made[name] for name in overall.AVERAGES if name in made}
    return {kind: made[kind] for kind in wanted}, averages, missing


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
