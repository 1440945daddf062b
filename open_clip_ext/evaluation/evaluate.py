"""A model scored on benchmarks: which items are there, rows of each, averages and intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from open_clip_ext.errors import InputError
from open_clip_ext.evaluation import cost
from open_clip_ext.evaluation.items import Benchmark, Encoder, Row
from open_clip_ext.evaluation.scorer import COSINE, PLAIN, Chosen, described


def evaluate(
    encoder: Encoder,
    benchmarks: Sequence[Benchmark],
    *,
    allow_missing: bool = False,
    seen: Callable[[str], bool] | None = None,
    ties: str = "strict",
    intervals: bool = True,
    scorer: Chosen = COSINE,
) -> dict[str, Any]:
    """Score a model on benchmarks.

    Args:
        encoder: the model.
        benchmarks: with different names.
        allow_missing: leave out the items whose pictures are not there.
        seen: whether the picture of that path was trained on.
        ties: `strict`, or `argmax` for the order of the authors' code where items have one.
        intervals: with bootstrap intervals.
        scorer: what turns pictures and captions into similarities.

    Returns:
        What `result.json` has in `benchmarks`, with the rows as `rows`.

    Raises:
        InputError: pictures are missing, a benchmark has nothing left or does not take the scorer.
    """
    return {b.name: _evaluate(encoder, b, allow_missing, seen, ties, intervals, scorer) for b in benchmarks}


def _evaluate(
    encoder: Encoder,
    benchmark: Benchmark,
    allow_missing: bool,
    seen: Callable[[str], bool] | None,
    ties: str,
    intervals: bool,
    scorer: Chosen,
) -> dict[str, Any]:
    from open_clip_ext.evaluation.scoring import aggregate, bootstrap, composition

    scorer.accept(benchmark)
    items, missing = present(benchmark, allow_missing)
    score = scorer.bound(benchmark.score or partial(composition.rows, ties=ties))  # type: ignore[arg-type]
    asked = cost.Asked(encoder)
    rows = score(asked, items)
    if seen:
        for row in rows:
            row["seen"] = any(map(seen, row["pictures"]))
    notes = list(benchmark.notes)
    if scorer.name != PLAIN:
        notes.append(f"scored by {described({'scorer': scorer.record()})}")
    if gone := sorted({item.group for item in benchmark.items} - {item.group for item in items}):
        notes.append(f"no item left of {_some(gone)}")
    scores: dict[str, Any] = {}
    for name in benchmark.aggregations:
        if gone := aggregate.absent(name, rows):
            notes.append(f"{name} is not given: no item of {_some(gone)}")
            continue
        scores[name] = aggregate.score(name, rows)
    if intervals:
        for name, made in bootstrap.of_rows(benchmark.name, [rows], list(scores)).items():
            scores[name]["interval"] = list(bootstrap.interval(made.drawn[:, 0]))
    if not scores:
        raise InputError(f"{benchmark.name}: none of its averages can be given: {'; '.join(notes)}")
    result: dict[str, Any] = {
        "family": benchmark.family,
        "n": len(items),
        "missing": missing,
        "files": {**benchmark.files, **scorer.files},
        "notes": notes,
        "ties": ties,
        "scorer": scorer.record(),
        "cost": asked.counts(),
        "primary": next(iter(scores)),
        "scores": scores,
        "subsets": subsets(rows),
        "items": f"items/{benchmark.name.replace('/', '_')}.jsonl",
        "rows": rows,
    }
    if scorer.name != PLAIN:
        result["cost"]["plain"] = cost.plain(items)
        result["counts"] = scorer.counts()
    if seen:
        parts = {"seen": [r for r in rows if r["seen"]], "unseen": [r for r in rows if not r["seen"]]}
        result["seen"] = {
            part: {
                name: aggregate.score(name, chosen) for name in scores if not aggregate.absent(name, chosen)
            }
            for part, chosen in parts.items()
            if chosen
        }
    return result


def _some(names: Sequence[str]) -> str:
    """Names for a sentence, the first three of many."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def present(
    benchmark: Benchmark, allow_missing: bool, flag: str = "--allow-missing"
) -> tuple[list[Any], int]:
    """The items whose pictures are there, and how many are not.

    Raises InputError if one is missing and that is not allowed, or if none is left.
    """
    pictures = {picture.path: picture for item in benchmark.items for picture in item.pictures}
    paths = pictures.keys()
    gone = sorted(path for path, picture in pictures.items() if not picture.exists())
    lost = set(gone)
    items = [i for i in benchmark.items if not any(picture.path in lost for picture in i.pictures)]
    if gone and not allow_missing:
        raise InputError(
            f"{benchmark.name}: {len(gone)} of {len(paths)} pictures are not there (first: {gone[0]}); "
            f"fix the path, or leave their items out with {flag}"
        )
    if not items:
        raise InputError(f"{benchmark.name}: none of its {len(paths)} pictures is there (first: {gone[0]})")
    return items, len(benchmark.items) - len(items)


def subsets(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """`{group: {metric: {"value", "n", "ties", "half"}}}`."""
    from open_clip_ext.evaluation.scoring import aggregate

    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["group"], []).append(row)
    return {
        group: {
            metric: aggregate.score(f"{metric} micro", chosen)
            for metric in dict.fromkeys(name for row in chosen for name in row["correct"])
        }
        for group, chosen in groups.items()
    }
