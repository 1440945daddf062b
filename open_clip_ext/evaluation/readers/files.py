"""Shared code of readers: files are hashed when read, and errors name file, item and field."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from open_clip_ext import csv_files
from open_clip_ext.errors import InputError
from open_clip_ext.evaluation.items import Item, Picture
from open_clip_ext.files import sha256


class Fields(dict[str, Any]):
    """The fields of one item of a file.

    A missing field raises InputError with file, item and field.
    """

    def __init__(self, content: Any, where: str) -> None:
        if not isinstance(content, Mapping):
            raise InputError(f"{where}: expected fields, not {_short(content)}")
        super().__init__(content)
        self.where = where

    def __missing__(self, key: str) -> Any:
        known = ", ".join(map(str, self)) or "none"
        raise InputError(f"{self.where}: it has no field {key!r} (its fields: {known})")

    def text(self, key: str) -> str:
        """A field that must be a non-blank text."""
        value = self[key]
        if not isinstance(value, str) or not value.strip():
            raise InputError(f"{self.where}: {key} must be a text, not {_short(value)}")
        return value

    def number(self, key: str) -> float:
        """A field that must be a finite number, or a text that is one."""
        try:
            number = float(self[key])
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise InputError(f"{self.where}: {key} must be a number, not {_short(self[key])}")
        return number

    def texts(self, key: str) -> list[str]:
        """A field that must be a list of texts."""
        value = self[key]
        if not isinstance(value, list) or not value or not all(isinstance(v, str) and v for v in value):
            raise InputError(f"{self.where}: {key} must be a list of texts, not {_short(value)}")
        return value

    def entries(self, key: str) -> list[Any]:
        """A field that must be a list."""
        value = self[key]
        if not isinstance(value, list):
            raise InputError(f"{self.where}: {key} must be a list, not {_short(value)}")
        return value


class Annotations:
    """A folder with the files of a benchmark, or its only file.

    Attributes:
        files: the files read so far, path -> sha256.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: dict[str, str] = {}
        self._only: tuple[str, ...] = ()
        if not root.exists():
            raise InputError(f"annotations={root}: no such file or folder")

    def path(self, *names: str) -> Path:
        """The first of the named files that exists; `root` itself if it is a file."""
        if self.root.is_file():
            if self._only not in ((), names):
                raise InputError(
                    f"annotations={self.root}: is one file of several; give the folder with all of them"
                )
            self._only = names
            return self.root
        for name in names:
            if (path := self.root / name).is_file():
                return path
        if (self.root / names[0]).is_dir():
            raise InputError(f"{self.root / names[0]}: is a folder, but should be a file")
        raise InputError(f"annotations={self.root}: no {' or '.join(names)} there")

    def json(self, *names: str) -> Any:
        """A JSON file."""
        path, text = self._read(*names)
        try:
            return json.loads(text, object_pairs_hook=_unique)
        except ValueError as error:
            raise InputError(f"{path}: broken JSON ({error})") from error

    def items(self, *names: str, lines: bool = False) -> Iterator[tuple[str, Fields]]:
        """The items of a JSON list or dict, or of a file with one JSON object per line, with their keys."""
        path = self.path(*names)
        if lines or path.suffix == ".jsonl":
            yield from self._objects(*names)
            return
        content = self.json(*names)
        pairs = content.items() if isinstance(content, dict) else enumerate(_listed(content, path))
        for key, item in pairs:
            yield str(key), Fields(item, f"{path}, item {key}")

    def table(self, *names: str, delimiter: str = ",") -> Iterator[tuple[str, Fields]]:
        """The rows of a CSV file with a header, numbered from 1."""
        path, _ = self._read(*names)
        found = csv_files.parsed(path, delimiter)
        _, header = next(found)
        for number, (_, row) in enumerate(found, 1):
            where = f"{path}, row {number}"
            if len(row) != len(header):
                raise InputError(f"{where}: does not have as many columns as the header")
            yield str(number), Fields(dict(zip(header, row, strict=True)), where)

    def plain(self, *names: str) -> Any:
        """What `torch.save` wrote, if that is tensors, lists, dicts, texts and numbers.

        A file with anything else, which could run code when it is read, is refused unread.
        """
        import torch

        path = self.path(*names)
        self.files[str(path)] = sha256(path)
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged or hostile file can raise any
            asked = re.search(r"GLOBAL ([\w.]+)", str(error))
            why = f"it asks for {asked[1]}" if asked else type(error).__name__
            raise InputError(
                f"{path}: is not a file of torch.save with lists, dicts, texts, numbers and tensors alone "
                f"({why}); reading more than these could run code, so it was not read"
            ) from error

    def lines(self, *names: str) -> list[str]:
        """The lines of a text file."""
        return self._read(*names)[1].splitlines()

    def _objects(self, *names: str) -> Iterator[tuple[str, Fields]]:
        path, text = self._read(*names)
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                try:
                    content = json.loads(line, object_pairs_hook=_unique)
                except ValueError as error:
                    raise InputError(f"{path}, line {number}: broken JSON ({error})") from error
                yield str(number), Fields(content, f"{path}, line {number}")

    def _read(self, *names: str) -> tuple[Path, str]:
        """The path and text of a file, which is added to `files`."""
        path = self.path(*names)
        self.files[str(path)] = sha256(path)
        try:
            return path, path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start})") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of a JSON file. Refuses equal keys, of which the standard library would keep the last."""
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} occurs twice")
    return found


def _listed(content: Any, path: Path) -> list[Any]:
    if not isinstance(content, list):
        raise InputError(f"{path}: expected a list or dict of items, not {_short(content)}")
    return content


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def picture(images: Path, *names: str, box: tuple[float, float, float, float] | None = None) -> Picture:
    """The picture at the first of `names` that exists under `images`; at the first name if none does."""
    paths = [os.path.join(images, name) for name in names]
    return Picture(next((path for path in paths if os.path.isfile(path)), paths[0]), box)


def picture_below(images: Path, path: str) -> Picture:
    """The picture at the longest end of `path` that exists under `images`.

    For files whose paths are those of their authors' machine.
    """
    parts = PurePosixPath(path.replace("\\", "/")).parts
    parts = parts[1:] if parts[:1] == ("/",) else parts
    return picture(images, *("/".join(parts[i:]) for i in range(len(parts))))


def pair(row: Fields, key: str, picture: Picture, true: str, false: str, group: str = "") -> Item:
    """An item with one picture, a true caption and a false one."""
    return Item(key, (picture,), (row.text(true), row.text(false)), "i2t", (0,), group)
