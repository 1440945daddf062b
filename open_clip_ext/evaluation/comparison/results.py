"""Result folders that are to be compared: read, and refused if they are of other items or conditions."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open_clip_ext.errors import InputError
from open_clip_ext.evaluation import result_folder, scorer
from open_clip_ext.evaluation.items import Row

COMPOSITION, ZERO_SHOT = "composition", "zero-shot"


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
    wanted = set(ROW)
    for number, row in enumerate(rows, 1):
        if (
            not wanted <= row.keys()
        ):  # a text for each of millions of rows would take longer than reading them
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
    pictures = [[os.path.basename(path) for path in row["pictures"]] for row in (one, two)]
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
