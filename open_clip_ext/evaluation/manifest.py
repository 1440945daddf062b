"""Training manifests: which pictures a model was trained on, by file name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from open_clip_ext.errors import InputError
from open_clip_ext.evaluation.readers.files import Annotations

FIELDS = ("filepath", "filename", "image", "image_path", "path")
# The same photo is COCO_val2014_000000391895.jpg in 2014 and 000000391895.jpg in 2017.
COCO = re.compile(r"COCO_(?:train|val|test)20\d\d_(?=\d{12}$)")


@dataclass(frozen=True)
class Manifest:
    """The pictures of a training set.

    Attributes:
        keys: their keys, as `key` computes them.
        files: the manifest's files with their sha256.
    """

    keys: frozenset[str]
    files: dict[str, str]

    def has(self, path: str) -> bool:
        """Whether a picture is among them."""
        return key(path) in self.keys


def key(path: str) -> str:
    """A picture's file name without folder, suffix and the prefix of its COCO split."""
    return COCO.sub("", PurePath(path).stem)


def read(paths: Sequence[Path]) -> Manifest | None:
    """Read a manifest from files; None without files.

    A file has one path per line, or the field `filepath` (or filename, image, image_path, path) in CSV
    (`.csv`), TSV (`.tsv`), JSONL (`.jsonl`) or a JSON list (`.json`).

    Raises InputError if a file cannot be read, has no such field, or names no picture.
    """
    if not paths:
        return None
    keys: set[str] = set()
    files: dict[str, str] = {}
    for path in paths:
        if path.is_dir():
            raise InputError(f"--train-manifest {path}: is a folder, but should be a file")
        if not path.exists():
            raise InputError(f"--train-manifest {path}: no such file")
        source = Annotations(path)
        if path.suffix in (".csv", ".tsv"):
            rows = source.table(path.name, delimiter="\t" if path.suffix == ".tsv" else ",")
        elif path.suffix in (".json", ".jsonl"):
            rows = source.items(path.name)
        else:
            rows = None
        if rows is None:
            names = [line.strip() for line in source.lines(path.name)]
        else:
            names = [row.text(next((f for f in FIELDS if f in row), FIELDS[0])) for _, row in rows]
        found = {key(name) for name in names if name}
        if not found:
            raise InputError(f"--train-manifest {path}: names no picture")
        keys |= found
        files |= source.files
    return Manifest(frozenset(keys), files)
