"""`open-clip-ext eval run`: one model on benchmarks, into a result folder.

The folder holds `result.json` and a JSONL of rows per benchmark; docs/evaluation.md has the format.
`result.json` is written last, so a folder that has it is whole.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from open_clip_ext import __version__
from open_clip_ext.errors import InputError
from open_clip_ext.evaluation.items import Benchmark, Encoder, Row
from open_clip_ext.files import write_text

if TYPE_CHECKING:
    from open_clip_ext.evaluation.catalogue import Source

FORMAT = 1
PACKAGES = ("torch", "torchvision", "open_clip_torch", "timm", "numpy", "pillow", "ftfy")


def evaluate(
    encoder: Encoder,
    benchmarks: Sequence[Benchmark],
    *,
    allow_missing: bool = False,
    seen: Callable[[str], bool] | None = None,
    ties: str = "strict",
    intervals: bool = True,
) -> dict[str, Any]:
    """Score a model on benchmarks.

    Args:
        encoder: the model.
        benchmarks: with different names.
        allow_missing: leave out the items whose pictures are not there.
        seen: whether the picture of that path was trained on.
        ties: `strict`, or `argmax` for the order of the authors' code where items have one.
        intervals: with bootstrap intervals.

    Returns:
        What `result.json` has in `benchmarks`, with the rows as `rows`.

    Raises:
        InputError: pictures are missing, or a benchmark has nothing left.
    """
    return {b.name: _evaluate(encoder, b, allow_missing, seen, ties, intervals) for b in benchmarks}


def _evaluate(
    encoder: Encoder,
    benchmark: Benchmark,
    allow_missing: bool,
    seen: Callable[[str], bool] | None,
    ties: str,
    intervals: bool,
) -> dict[str, Any]:
    from open_clip_ext.evaluation.scoring import aggregate, bootstrap, composition

    items, missing = present(benchmark, allow_missing)
    score = benchmark.score or partial(composition.rows, ties=ties)  # type: ignore[arg-type]
    rows = score(encoder, items)
    if seen:
        for row in rows:
            row["seen"] = any(map(seen, row["pictures"]))
    notes = list(benchmark.notes)
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
    result = {
        "family": benchmark.family,
        "n": len(items),
        "missing": missing,
        "files": dict(benchmark.files),
        "notes": notes,
        "ties": ties,
        "primary": next(iter(scores)),
        "scores": scores,
        "subsets": subsets(rows),
        "items": f"items/{benchmark.name.replace('/', '_')}.jsonl",
        "rows": rows,
    }
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
            f"mend the path, or leave their items out with {flag}"
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


# --- the result folder ----------------------------------------------------------------------------


def write(
    out: Path, model: Mapping[str, Any], results: Mapping[str, Any], more: Mapping[str, Any] | None = None
) -> None:
    """Write a result folder: the rows first, `result.json` last; `more` are further fields of it."""
    (out / "items").mkdir(parents=True, exist_ok=True)
    benchmarks = {}
    for name, result in results.items():
        rows = result["rows"]
        benchmarks[name] = {key: value for key, value in result.items() if key != "rows"}
        write_text(out / result["items"], "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    content = {**header(), "model": dict(model), **(more or {}), "benchmarks": benchmarks}
    write_json(out / "result.json", content)


def header() -> dict[str, Any]:
    """What every file of results says first."""
    return {
        "format": FORMAT,
        "package": __version__,
        "versions": versions(),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file, which is whole at any time."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read(folder: Path) -> dict[str, Any]:
    """The `result.json` of a result folder.

    Raises InputError if it has none, or one of another format.
    """
    path = folder / "result.json"
    if not path.is_file():
        raise InputError(f"{folder}: no result of `open-clip-ext eval run` (it has no result.json)")
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        known = content["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a result of `open-clip-ext eval run` ({error})") from error
    if known != FORMAT:
        raise InputError(f"{path}: format {known}, but this version reads {FORMAT}; evaluate again")
    return content


def read_rows(folder: Path, result: Mapping[str, Any]) -> list[Row]:
    """The rows of one benchmark of a result folder, `result` being its entry in `benchmarks`.

    Raises InputError if they are not there or broken.
    """
    path = folder / result["items"]
    try:
        with path.open(encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; the result folder is not whole") from error
    except ValueError as error:
        raise InputError(f"{path}: broken JSON ({error})") from error


def versions() -> dict[str, str]:
    """The packages that numbers depend on."""
    found = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


# --- the command ----------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `eval run`."""
    from open_clip_ext.evaluation import catalogue, models

    models.add_arguments(parser)
    catalogue.add_source_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the result goes")
    parser.add_argument(
        "--train-manifest",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="what the model was trained on, to tell seen pictures from unseen ones: a picture's path per "
        "line, or CSV, TSV or JSONL with a field filepath",
    )
    parser.add_argument(
        "--compat",
        choices=("aro",),
        help="let the first of equal scores win, as argmax in ARO's code does, in place of the strict score",
    )
    add_encoding_arguments(parser)


def add_encoding_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say how pictures and captions are encoded."""
    parser.add_argument(
        "--allow-missing",
        action="store_true",
        help="leave out the items whose pictures are not there, and report n of N",
    )
    parser.add_argument(
        "--cache",
        metavar="FOLDER",
        help=f"where features are kept between runs, or `none` (default: {default_cache()})",
    )
    parser.add_argument(
        "--batch-size", type=int, default=64, metavar="N", help="pictures at a time (default: %(default)s)"
    )


def main(args: argparse.Namespace) -> int:
    """Read, score, write, print."""
    from open_clip_ext.evaluation import catalogue, manifest, models
    from open_clip_ext.evaluation.encode import Encoder

    claim(args)
    # All that can be wrong is looked at before the model is loaded.
    found = catalogue.read(catalogue.sources(args.benchmark, args.data))
    benchmarks = [benchmark for _, benchmark in found.values()]
    for benchmark in benchmarks:
        present(benchmark, args.allow_missing)
    seen = manifest.read(args.train_manifest)
    loaded = models.from_arguments(args)
    encoder = Encoder(
        loaded.model,
        loaded.preprocess,
        loaded.tokenizer,
        precision=args.precision,
        cache=cache_folder(args),
        batch=args.batch_size,
    )
    results = evaluate(
        encoder,
        benchmarks,
        allow_missing=args.allow_missing,
        seen=seen.has if seen else None,
        ties="argmax" if args.compat else "strict",
    )
    note_sources(results, found)
    write(args.out, loaded.record, results, {"train_manifest": seen.files} if seen else {})
    print(table(results))
    print(f"\n{args.out / 'result.json'}")
    return 0


def default_cache() -> str:
    """The folder for features of this user."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(root, "open_clip_ext", "features")


def note_sources(results: Mapping[str, Any], found: Mapping[str, tuple[Source, Benchmark]]) -> None:
    """Add to results what they were read with."""
    for name, (source, _) in found.items():
        results[name]["reader"] = source.name
        results[name]["options"] = {key: str(value) for key, value in source.options.items()}


def cache_folder(args: argparse.Namespace) -> Path | None:
    """Where features are kept, from the flags of `add_encoding_arguments`."""
    return None if args.cache == "none" else Path(args.cache or default_cache())


def claim(args: argparse.Namespace, file: str = "result.json") -> None:
    """Refuse a batch of no picture, and a place where a result would be lost or cannot be written."""
    if args.batch_size < 1:
        raise InputError(f"--batch-size {args.batch_size}: give at least 1")
    if args.out.exists() and not args.out.is_dir():
        raise InputError(f"--out {args.out}: not a folder; name another")
    if (args.out / file).exists():
        raise InputError(f"--out {args.out}: holds a result already; name another folder, or remove it")


def table(results: Mapping[str, Any]) -> str:
    """Every average of every benchmark, in percent, the primary one first."""
    from open_clip_ext import tables

    body = []
    notes = []
    for name, result in results.items():
        for place, (average, score) in enumerate(result["scores"].items()):
            body.append(_line(name if place == 0 else "", average, score))
        for part, scores in result.get("seen", {}).items():
            body += [_line(f"  {part} in training", *found) for found in list(scores.items())[:1]]
        if result["missing"]:
            total = result["n"] + result["missing"]
            notes.append(f"{name}: {result['n']:,} of {total:,} items; the others lack a picture")
        notes += [f"{name}: {note}" for note in result["notes"]]
    head = ["benchmark", "average", "score", "95 % interval", "ties", "ties by lot", "items"]
    return "\n".join([tables.aligned(head, body), *notes])


def _line(label: str, average: str, score: Mapping[str, Any]) -> list[str]:
    interval = " to ".join(f"{100 * end:.2f}" for end in score.get("interval", ()))
    value, half = (f"{100 * score[key]:.2f}" for key in ("value", "half"))
    return [label, average, value, interval, f"{score['ties']:,}", half, f"{score['n']:,}"]
