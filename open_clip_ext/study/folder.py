"""A study's output folder: whose it is, and that only one process works in it."""

from __future__ import annotations

import argparse
import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

from open_clip_ext.errors import InputError
from open_clip_ext.files import write_text
from open_clip_ext.study import settings, trainer
from open_clip_ext.study.settings import Study

NOTE, LOCK = "study.json", "lock"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the study's file and its output folder."""
    parser.add_argument("file", type=Path, metavar="STUDY.toml", help="the study")
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER",
        help="where everything goes (default: the file's name without .toml, beside it)",
    )  # fmt: skip


def opened(file: Path, out: Path | None = None) -> tuple[Study, Path]:
    """The study and its output folder, which may not exist yet.

    Args:
        file: the study's.
        out: the folder; None for the file's name without .toml, beside it.

    Raises InputError if the file is no study, or the folder is another's.
    """
    study = settings.read(file)
    out = (out or study.file.with_suffix("")).resolve()
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: not a folder; name another")
    note = out / NOTE
    if note.is_file():
        try:
            owner = json.loads(note.read_text(encoding="utf-8"))["file"]
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise InputError(
                f"{note}: broken ({error}); if {study.file} is the study of this folder, write "
                f"{_note(study, out)} into it"
            ) from error
        # A study may be moved with its folder: what matters is the way from one to the other.
        if (out / owner).resolve() != study.file:
            raise InputError(
                f"--out {out}: holds the study {(out / owner).resolve()}; give each its own folder"
            )
    elif out.is_dir() and any(path.name != LOCK and not path.name.startswith(".") for path in out.iterdir()):
        raise InputError(f"--out {out}: is not empty and holds no study; name another folder")
    return study, out


@contextmanager
def at_work(study: Study, out: Path) -> Iterator[None]:
    """Make the folder this study's, alone with it, and work in the folder of the study's file.

    Raises InputError if another process works in it, or nothing can be written there.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock_file = (out / LOCK).open("w")
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written ({error}); name another folder") from error
    with lock_file as lock, chdir(study.folder), ended_by_sigterm():
        if not trainer.locked(lock.fileno()):
            raise InputError(f"--out {out}: another `study run` is at work there; wait for it, or end it")
        write_text(out / NOTE, _note(study, out) + "\n")
        yield


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """End on SIGTERM as on Ctrl-C, so that trainings are told to save and stop, with its own exit status."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say what a signal does
        return

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _note(study: Study, out: Path) -> str:
    return json.dumps({"file": os.path.relpath(study.file, out)})
