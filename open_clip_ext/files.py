"""Atomic writes of files and folders, and hashes of files."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from open_clip_ext.errors import InputError

PART = ".part"


def atomic_write(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file in the same folder, flush it to the disk, and move it to `path`.

    Even after a kill or a power cut, `path` is either the old file or the complete new one. A killed write
    leaves a hidden file (see `remove_partial`). Neither a glob for checkpoints nor a sort by name takes it
    for the newest checkpoint.

    Raises what `write` raises, and OSError; `path` is then unchanged.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}{PART}")  # jobs may share a folder
    try:
        write(part)
        _to_disk(part)
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    _to_disk(path.parent)  # the new name


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder next to `path`; at the end flush it to the disk and move it to `path`.

    `path` must not exist, or be an empty folder. It is either that or complete. If the block raises, the
    temporary folder is removed; a killed process leaves it under a hidden name.
    """
    path = path.resolve()
    part = path.with_name(f".{path.name}.{os.getpid()}{PART}")
    part.mkdir()
    try:
        yield part
        for file in (*part.rglob("*"), part):
            _to_disk(file)
        os.replace(part, path)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    _to_disk(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write `text` in UTF-8 with `atomic_write`."""
    atomic_write(path, lambda part: part.write_text(text, encoding="utf-8"))


def remove_partial(folder: Path) -> None:
    """Remove the temporary files that killed writes left in `folder`."""
    for part in folder.glob(f".*{PART}"):
        part.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """The sha256 of a file, in hex.

    Raises InputError if it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
