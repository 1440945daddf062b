"""The result folder, which `eval run` writes and comparisons read.

It holds `result.json` and a JSONL of rows per benchmark; docs/evaluation.md has the format.
`result.json` is written last, so a folder that has it is complete.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from open_clip_ext import __version__
from open_clip_ext.errors import InputError
from open_clip_ext.evaluation.items import Row
from open_clip_ext.files import write_text

FORMAT = 1
# The packages that numbers depend on.
PACKAGES = ("torch", "torchvision", "open_clip_torch", "timm", "numpy", "pillow", "ftfy")


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
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
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
