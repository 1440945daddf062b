"""Class names and templates, from files of the user, from open_clip or from clip-benchmark."""

from __future__ import annotations

import json
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

from open_clip_ext.errors import InputError
from open_clip_ext.files import sha256


def read_lines(path: Path, files: dict[str, str]) -> list[str]:
    """The non-blank lines of a text file, whose sha256 is added to `files`.

    Raises InputError if it cannot be read or has no lines.
    """
    files[str(path)] = sha256(path)
    try:
        found = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not text in UTF-8") from error
    if not found:
        raise InputError(f"{path}: no line in it")
    return found


def read_templates(path: Path | None, files: dict[str, str]) -> tuple[str, ...]:
    """The templates in a file, or OpenAI's for ImageNet if `path` is None."""
    if path:
        return tuple(read_lines(path, files))
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    return tuple(template("{c}") for template in OPENAI_IMAGENET_TEMPLATES)


def of_clip_benchmark(kind: str, name: str) -> tuple[str, ...] | None:
    """The names or templates that clip-benchmark has for its data set `name`, or None.

    Args:
        kind: `classnames` or `zeroshot_classification_templates`.
        name: as clip-benchmark calls the data set.

    Raises InputError if clip-benchmark is not installed.
    """
    try:
        source = package_files("clip_benchmark") / "datasets" / f"en_{kind}.json"
    except ModuleNotFoundError as error:
        raise InputError(
            f"{name}: its class names and templates are in the package clip-benchmark; "
            "pip install 'open_clip_ext[retained]'"
        ) from error
    known: dict[str, Any] = json.loads(source.read_text(encoding="utf-8"))
    return tuple(known[name]) if name in known else None
