"""A study's results as tables and sentences, for the terminal and the page."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from open_clip_ext import tables
from open_clip_ext.study.results import Difference, Model, Results, Score
from open_clip_ext.study.settings import BASE

ITSELF = "itself, mixed"
VERDICTS = ("higher", "lower", "not shown")


@dataclass(frozen=True)
class Part:
    """A heading, sentences and a table.

    Attributes:
        key: identifies the part, for the page's figures.
        title: the heading.
        text: sentences.
        head: of the table; empty if there is none.
        body: of the table.
        folded: parts below it that are shown on demand.
    """

    key: str
    title: str
    text: Sequence[str] = ()
    head: Sequence[str] = ()
    body: Sequence[Sequence[str]] = ()
    folded: Sequence[Part] = ()


def parts(found: Results) -> list[Part]:
    """The whole report."""
    return [summary(found), *comparisons(found), benchmarks(found), *chosen(found), runs(found)]


def summary(found: Results) -> Part:
    """A row for each model and a column for each family, with what a training costs."""
    body = []
    for model in found.models:
        cost = found.cost(model.method) if model.method != BASE and not model.mixed else None
        body.append(
            [
                _indented(model),
                *(_score(found, model, family) for family in families(found)),
                _weights(model),
                *((f"{cost.step:.3g}", f"{cost.hours:.2g}") if cost else ("", "")),
            ]
        )
    head = ["", *families(found), "weight", "s per step", "hours"]
    return Part("summary", "Summary", [_conditions(found), *_gaps(found)], head, body)


def families(found: Results) -> list[str]:
    """The columns that are means over benchmarks."""
    return [column for column in found.columns if column not in found.benchmarks]


def differences(found: Results) -> dict[str, dict[str, list[tuple[str, Difference]]]]:
    """By reference and family, the difference of each method from it."""
    by_name = {model.name: model for model in found.models}
    made: dict[str, dict[str, list[tuple[str, Difference]]]] = {}
    for reference in (BASE, *found.study.reference, ITSELF):
        for family in families(found):
            for model in found.models:
                other = by_name.get(f"{model.method}, mixed" if reference == ITSELF else reference)
                if model.method in (BASE, reference) or model.mixed or other is None:
                    continue
                if (difference := found.difference(model, other, family)) is not None:
                    made.setdefault(reference, {}).setdefault(family, []).append((model.name, difference))
    return made


def comparisons(found: Results) -> Iterator[Part]:
    """Each method against its references and against itself mixed with the base, with a sentence."""
    for reference, by_family in differences(found).items():
        body, said = [], []
        for family, own in by_family.items():
            words: dict[str, list[str]] = {}
            for name, difference in own:
                words.setdefault(difference.word, []).append(f"{name} ({100 * difference.mean:+.1f})")
                body.append([family, name, *_difference(difference)])
            parts = "; ".join(f"{word}: {', '.join(words[word])}" for word in VERDICTS if word in words)
            said.append(f"{family.capitalize()}, against {reference}. {parts[0].upper()}{parts[1:]}.")
        head = ["family", "method", "difference [95 % interval]", "lowest run", "highest run", ""]
        yield Part(f"against/{reference}", f"Against {reference}", said, head, body)


def benchmarks(found: Results) -> Part:
    """Every benchmark, a row for each model; folded, each by its subsets."""
    names = list(found.benchmarks)
    body = [[_indented(model), *(_score(found, model, name) for name in names)] for model in found.models]
    by_subset = list(filter(None, (subsets(found, name) for name in names)))
    return Part("benchmarks", "Benchmark by benchmark", (), ["", *names], body, by_subset)


def subsets(found: Results, benchmark: str) -> Part | None:
    """A benchmark's subsets, a row for each model; None if it has only one.

    At most `GROUPS`: those in which a method is furthest from the base.
    """
    from open_clip_ext.evaluation.comparison.measures import GROUPS

    metric, scores = found.subsets(benchmark)
    if len(scores) < 2:
        return None
    changed = {
        name: max(abs(score.mean - own[BASE].mean) for score in own.values()) for name, own in scores.items()
    }
    most = sorted(changed, key=lambda name: -changed[name])[:GROUPS]
    shown = [name for name in scores if name in most]
    text = (
        [f"The {len(shown)} of {len(scores):,} subsets that changed most."]
        if len(shown) < len(scores)
        else []
    )
    body = [[_indented(m), *(_cell(scores[name][m.name], m) for name in shown)] for m in found.models]
    return Part(f"subsets/{benchmark}", f"{benchmark} by subset ({metric})", text, ["", *shown], body)


def chosen(found: Results) -> Iterator[Part]:
    """The values that were chosen, if any were to be."""
    body = [
        [method, base, *(f"{flag} {value}" for flag, value in values.items())]
        for (method, base), values in found.chosen.items()
    ]
    if body:
        yield Part("chosen", "Chosen on the dev benchmarks", (), ["method", "base", "value"], body)


def runs(found: Results) -> Part:
    """Every run by itself."""
    body = [
        [
            model.name,
            base,
            str(seed) if model.method != BASE else "",
            f"{model.weights[base, seed]:g}",
            *(f"{100 * found.of_run(model, (base, seed), family):.1f}" for family in families(found)),
        ]
        for model in found.models
        for base, seed in model.folders
    ]
    return Part("runs", "Run by run", (), ["", "base", "seed", "weight", *families(found)], body)


def text(found: Results) -> str:
    """The summary and the sentences, for a terminal."""
    table = summary(found)
    said = "\n".join(f"* {line}" for part in comparisons(found) for line in part.text)
    above = "\n".join(table.text)
    return f"{above}\n\n{tables.aligned(table.head, table.body)}\n\n{said}"


def markdown(found: Results) -> str:
    """The whole report in Markdown."""
    blocks = [f"# {found.study.title}", *found.study.notes]
    for part in parts(found):
        blocks += [f"## {part.title}", *part.text]
        if part.body:
            blocks.append(tables.markdown(part.head, part.body))
        for one in part.folded:
            table = tables.markdown(one.head, one.body)
            title = f"<details><summary>{html.escape(one.title)}</summary>"
            blocks += [title, *one.text, table, "</details>"]
    return "\n\n".join(blocks) + "\n"


def _conditions(found: Results) -> str:
    bases, seeds = len(found.study.bases), len(found.study.seeds)
    many = any(len(model.folders) > 1 for model in found.models)
    spread = "; ± standard deviation over runs" if many else "; one run, so the spread over runs is unknown"
    return f"Percent, {_count(bases, 'base')}, {_count(seeds, 'seed')} of the trainer each{spread}."


def _gaps(found: Results) -> Iterator[str]:
    """A sentence each if benchmarks or runs are missing: rows of other runs cannot be compared."""
    if found.left_out:
        yield f"Left out, because not every base reports them: {', '.join(found.left_out)}."
    if not found.missing:
        return
    gone = "; ".join(
        f"{name} ({', '.join(f'{base} seed {seed}' for base, seed in runs)})"
        for name, runs in found.missing.items()
    )
    yield (
        f"Without a result yet: {gone}. Rows of this table are means over different runs, then; the "
        "differences below are over the runs that both have."
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number > 1 else ''}"


def _indented(model: Model) -> str:
    return f"  {model.name}" if model.mixed else model.name


def _score(found: Results, model: Model, column: str) -> str:
    return _cell(found.score(model, column), model)


def _cell(score: Score, model: Model) -> str:
    spread = f" ±{100 * score.deviation:.1f}" if len(model.folders) > 1 else ""
    return f"{100 * score.mean:.1f}{spread}"


def _weights(model: Model) -> str:
    """Of the tuned model; of a mixture that of each run, as they are chosen for each."""
    if not model.mixed:
        return ""
    values = sorted(set(model.weights.values()))
    return f"{values[0]:g}" if len(values) == 1 else f"{values[0]:g} to {values[-1]:g}"


def _difference(difference: Difference) -> list[str]:
    low, high = 100 * difference.low, 100 * difference.high
    return [
        f"{100 * difference.mean:+.1f} [{low:+.1f}, {high:+.1f}]",
        f"{100 * min(difference.runs):+.1f}",
        f"{100 * max(difference.runs):+.1f}",
        difference.word,
    ]
