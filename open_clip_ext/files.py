"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

PART = ".part"


def atomic_write(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, bring it to the disk, and move it to `path`.

    Whatever happens meanwhile, a kill or a power cut too, there is the old file or the new one at
    `path`. What is left of a killed write is a hidden file (`remove_partial`), which neither a glob for
    checkpoints nor a sort by name takes for the newest one.

    Raises what `write` raises, and OSError; `path` is then as it was.
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


def write_text(path: Path, text: str) -> None:
    """Write `text` in UTF-8 with `atomic_write`."""
    atomic_write(path, lambda part: part.write_text(text, encoding="utf-8"))


def remove_partial(folder: Path) -> None:
    """Remove what killed writes left in `folder`."""
    for part in folder.glob(f".*{PART}"):
        part.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
