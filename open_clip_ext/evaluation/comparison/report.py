"""The report of a comparison as texts and tables, for the terminal, Markdown and the HTML page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open_clip_ext import tables
from open_clip_ext.evaluation import result_folder
from open_clip_ext.evaluation.comparison import published
from open_clip_ext.evaluation.comparison.measures import Measure, Paired, Score, extremes
from open_clip_ext.evaluation.comparison.paired import Comparison, spread
from open_clip_ext.evaluation.comparison.results import COMPOSITION
from open_clip_ext.evaluation.items import Row
from open_clip_ext.evaluation.scoring import bootstrap, overall

EXAMPLES = 6
MANY = 5  # models besides the base: the picture of all comes before the verdict on each
_SIGN = {True: "✓ ", False: "✗ ", None: ""}


@dataclass(frozen=True)
class Example:
    """An item that two models answer differently.

    Attributes:
        group: its subset.
        pictures: paths, each with whether it is the true one; None if the item has no single true one.
        captions: likewise.
        leads: the lead of the true one over the best false one, for the base and the model.
    """

    id: str
    group: str
    pictures: Sequence[tuple[str, bool | None]]
    captions: Sequence[tuple[str, bool | None]]
    leads: tuple[float, float]


@dataclass(frozen=True)
class Part:
    """A heading, paragraphs and a table.

    Attributes:
        key: identifies the part, for the page's figures.
        title: the heading.
        text: paragraphs.
        head: of the table; empty if there is none.
        body: of the table.
        level: of the heading.
        examples: the items in the lines of the table, if it lists items.
    """

    key: str
    title: str
    text: Sequence[str] = ()
    head: Sequence[str] = ()
    body: Sequence[Sequence[str]] = ()
    level: int = 2
    examples: Sequence[Example] = ()


def percent(score: Score) -> str:
    """`76.9 [75.0, 78.8]`."""
    return f"{100 * score.value:.1f} [{100 * score.low:.1f}, {100 * score.high:.1f}]"


def probability(p: float) -> str:
    """A p-value with three decimals, or `<0.001`."""
    return f"{p:.3f}" if p >= 0.001 else "<0.001"


def parts(found: Comparison) -> list[Part]:
    """The whole report."""
    return [
        verdicts(found),
        trade_off(found),
        *averages(found),
        differences(found),
        *(part for one in found.benchmarks for part in details(found, one)),
        *references(found),
        *conditions(found),
    ]


def verdicts(found: Comparison) -> Part:
    """A sentence per model."""
    base, *others = found.results
    lines = [
        f"**{other.label}** against {base.label}: **{verdict.word}**. {verdict.reasons}"
        for other, verdict in zip(others, found.verdicts, strict=True)
    ]
    return Part("verdict", "Verdict", [*lines, *found.notes])


def trade_off(found: Comparison) -> Part:
    """The families and the axes of the picture, one row per model."""
    shown = found.picture
    measures = dict(found.families)
    for axis in (shown.up, shown.across) if shown else ():
        if axis.measure not in measures.values():
            measures[axis.name] = axis.measure
    body = [
        [
            result.label,
            *(
                cell
                for measure in measures.values()
                for cell in (percent(measure.scores[k]), spread(measure.changes[k - 1]) if k else "")
            ),
        ]
        for k, result in enumerate(found.results)
    ]
    head = ["model", *(f"{word}{name}" for name in measures for word in ("", "change in "))]
    text = [
        f"{name[0].upper()}{name[1:]}: {measure.name}, strict."
        for name, measure in measures.items()
        if name not in found.averages
    ]
    if shown:
        text.append(f"The picture shows {shown.up.name} against {shown.across.name}.")
        best = ", ".join(found.results[k].label for k in shown.front)
        text.append(
            f"The broad line is the front of the best: {best}. No other model is at least as good in both "
            "scores and better in one. It goes by the scores alone, so look at the intervals, too."
        )
        if shown.published:
            text.append(
                f"Grey: {len(shown.published)} models of vl_compo, as published. Its prompts and treatment "
                "of ties are not known: take them as a backdrop, not as a ranking."
            )
    return Part("trade-off", "Composition against zero-shot", text, head, body)


def averages(found: Comparison) -> list[Part]:
    """vl_compo's averages over benchmarks, a row per average and model, and what is missing of the others."""
    base = found.results[0]
    body = [
        [name, other.label, percent(one.scores[0]), percent(one.scores[k + 1]), spread(one.changes[k])]
        for name, one in found.averages.items()
        for k, other in enumerate(found.results[1:])
    ]
    text = [f"{name}: {overall.AVERAGES[name].text}." for name in found.averages]
    text += [
        f"{name} is not given, because it is {overall.AVERAGES[name].text}, and all results must have them. "
        f"Missing: {', '.join(gone)}."
        for name, gone in found.missing.items()
    ]
    head = ["average", "model", base.label, "score", "difference"] if body else []
    return [Part("averages", "Averages over benchmarks", text, head, body)] if text else []


def differences(found: Comparison) -> Part:
    """The primary score of every benchmark, one row per benchmark and model."""
    body = []
    for one in found.benchmarks:
        for k, other in enumerate(found.results[1:]):
            change, flips = one.primary.changes[k], one.flips[k]
            body.append(
                [
                    one.name,
                    other.label,
                    percent(one.primary.scores[0]),
                    percent(one.primary.scores[k + 1]),
                    spread(change),
                    probability(change.p),
                    probability(one.holm[k]),
                    *([f"{flips.wins} / {flips.losses}", probability(flips.p)] if one.of_items else ["", ""]),
                    f"{one.primary.n:,}",
                    f"{one.primary.images:,}",
                ]
            )
    head = [
        "benchmark", "model", found.results[0].label, "score", "difference", "p", "p Holm",
        "won / lost", "p McNemar", "items", "images",
    ]  # fmt: skip
    text = [
        "Percent and percentage points with 95 % intervals. Intervals and p come from "
        f"{bootstrap.RESAMPLES:,} draws of images, each with all its items; p Holm is adjusted for the "
        f"{len(body)} comparisons of this table. Won and lost are items that one model gets right and the "
        "other does not; McNemar's exact p ignores that items share images. "
        "The intervals contain only the noise of the test set. That of the training seed takes several runs."
    ]
    return Part("differences", "Differences, benchmark by benchmark", text, head, body)


def details(found: Comparison, one: Paired) -> list[Part]:
    """One benchmark: its averages, its subsets, the items that changed."""
    labels = [result.label for result in found.results]
    entry = found.results[0].benchmarks[one.name]
    text = [f"{note}." for note in entry["notes"]]
    if entry["missing"]:
        total = entry["n"] + entry["missing"]
        text.append(f"{entry['n']:,} of {total:,} items: the pictures of the others are missing.")
    made = [_measures(f"averages/{one.name}", one.name, text, "average", labels, one.measures, 2)]
    if len(one.groups) > 1:
        left = f"The {len(one.groups)} subsets that changed most; {one.left:,} are left out."
        made.append(
            _measures(
                f"groups/{one.name}",
                f"{one.name} by subset ({one.metric})",
                [left] if one.left else [],
                "subset",
                labels,
                one.groups,
                3,
            )
        )
    for k, label in enumerate(labels[1:]):
        for word, places in zip(("lost", "won"), extremes(one, k, EXAMPLES), strict=True):
            if places:
                made.append(examples(one, k, labels, f"{label} {word}", places))
    return made


def _measures(
    key: str,
    title: str,
    text: Sequence[str],
    what: str,
    labels: Sequence[str],
    measures: Sequence[Measure],
    level: int,
) -> Part:
    base, *others = labels
    head = [what, "items", base, *(name for label in others for name in (label, f"{label} - {base}"))]
    body = [
        [
            measure.name, f"{measure.n:,}", percent(measure.scores[0]),
            *(
                cell
                for score, change in zip(measure.scores[1:], measure.changes, strict=True)
                for cell in (percent(score), spread(change))
            ),
        ]
        for measure in measures
    ]  # fmt: skip
    return Part(key, title, text, head, body, level)


def examples(one: Paired, k: int, labels: Sequence[str], title: str, places: Sequence[int]) -> Part:
    """Items that model k + 1 won or lost."""
    made = [_example(one, one.rows[0][i], one.rows[k + 1][i]) for i in places]
    head = ["captions", "id", *(f"lead, {label}" for label in (labels[0], labels[k + 1]))]
    body = [
        [
            " / ".join(f"{_SIGN[right]}{words}" for words, right in e.captions),
            e.id,
            *(f"{lead:+.3f}" for lead in e.leads),
        ]
        for e in made
    ]
    text = ["The largest changes of the lead of the true one over the best false one (cosine)."]
    return Part(f"examples/{one.name}", f"{one.name}: what {title}", text, head, body, 3, made)


def _example(one: Paired, base: Row, other: Row) -> Example:
    # If all captions of the set are candidates, a row has the right one first.
    truth = base.get("truth", ()) if one.family == COMPOSITION else (0,)
    pictures, captions = _marked(base["pictures"], ()), _marked(base["captions"], ())
    if len(pictures) == 1 and len(captions) > 1:
        captions = _marked(base["captions"], truth)
    elif len(captions) == 1 and len(pictures) > 1:
        pictures = _marked(base["pictures"], truth)
    return Example(str(base["id"]), base["group"], pictures, captions, (base["margin"], other["margin"]))


def _marked(choices: Sequence[str], truth: Sequence[int]) -> list[tuple[str, bool | None]]:
    """Choices, each with whether it is true; None if that is unknown or undefined."""
    return [(choice, place in truth if truth else None) for place, choice in enumerate(choices)]


def references(found: Comparison) -> list[Part]:
    """The numbers that papers print for these benchmarks."""
    known = published.of([one.name for one in found.benchmarks], found.families)
    if not known:
        return []
    text = [
        "Percent, as printed; not measured here and not comparable with the numbers above: other prompts, "
        "averages, treatment of ties, activations. Evaluate baselines again yourself."
    ]
    made = [Part("published", "Published numbers", text)]
    for table in known:
        models = table.models
        body = [
            [
                f"{line.measure} ({line.convention})" if line.convention else line.measure,
                *(str(line.values.get(m, "")) for m in models),
            ]
            for line in table.lines
        ]
        source = f"{table.title}: {table.where}. {table.convention[0].upper()}{table.convention[1:]}."
        made.append(
            Part(
                f"published/{table.benchmark}",
                f"{table.benchmark}, published",
                [source],
                ["measure", *models],
                body,
                3,
            )
        )
    return made


def conditions(found: Comparison) -> list[Part]:
    """The models and files behind the numbers."""
    results = found.results
    models = [result.content["model"] for result in results]
    facts = [*dict.fromkeys(key for model in models for key in model)]
    body = [[fact, *(_short(model.get(fact)) for model in models)] for fact in facts]
    packages = dict.fromkeys(name for result in results for name in result.content["versions"])
    body += [[name, *(_short(r.content["versions"].get(name)) for r in results)] for name in packages]
    body += [["evaluated", *(_short(r.content["created"]) for r in results)]]
    files = [
        [one.name, Path(file).name, digest]
        for one in found.benchmarks
        for file, digest in results[0].benchmarks[one.name]["files"].items()
    ]
    return [
        Part("models", "Models and software", (), ["", *(r.label for r in results)], body),
        Part("files", "Annotation files", (), ["benchmark", "file", "sha256"], files),
    ]


def _short(value: object) -> str:
    text = "" if value is None else value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text if len(text) <= 160 else f"{text[:157]}..."


def markdown(found: Comparison, made: Sequence[Part]) -> str:
    """The report as Markdown."""
    blocks = [f"# {heading(found)}"]
    for part in made:
        blocks.append(f"{'#' * part.level} {part.title}")
        blocks += [f"* {line}" for line in part.text] if part.key == "verdict" else part.text
        if part.body:
            blocks.append(tables.markdown(part.head, part.body))
    return "\n\n".join(blocks) + "\n"


def heading(found: Comparison) -> str:
    """The title of report and page."""
    base, *others = (result.label for result in found.results)
    models = ", ".join(others) if len(others) < MANY else f"{len(others)} models"
    return f"{models} against {base}"


def text(made: Sequence[Part]) -> str:
    """Differences, averages over benchmarks and the verdict for a terminal."""
    by_key = {part.key: part for part in made}
    table = by_key["differences"]
    blocks = [tables.aligned(table.head, table.body)]
    if part := by_key.get("averages"):
        blocks += [tables.aligned(part.head, part.body, words=2)] if part.body else []
        blocks.append("\n".join(part.text))
    blocks.append("\n".join(f"* {line.replace('**', '')}" for line in by_key["verdict"].text))
    return "\n\n".join(blocks)


def numbers(found: Comparison) -> dict[str, Any]:
    """What `compare.json` holds: families, averages over benchmarks and verdicts, scores in [0, 1]."""
    labels = [result.label for result in found.results]

    def scores(measure: Measure) -> dict[str, Any]:
        return {
            "of": measure.name,
            "items": measure.n,
            "scores": {
                label: {"value": score.value, "interval": [score.low, score.high]}
                for label, score in zip(labels, measure.scores, strict=True)
            },
            "changes": {
                label: {"value": change.value, "interval": [change.low, change.high], "p": change.p}
                for label, change in zip(labels[1:], measure.changes, strict=True)
            },
        }

    return {
        **result_folder.header(),
        "results": {result.label: str(result.folder) for result in found.results},
        "families": {name: scores(measure) for name, measure in found.families.items()},
        "averages": {name: scores(measure) for name, measure in found.averages.items()},
        "missing": {name: list(gone) for name, gone in found.missing.items()},
        "front": [labels[k] for k in found.picture.front] if found.picture else [],
        "margin": found.margin,
        "verdicts": {
            label: {"word": verdict.word, "reasons": verdict.reasons}
            for label, verdict in zip(labels[1:], found.verdicts, strict=True)
        },
    }
