"""A study's parts on this machine, some at a time."""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from queue import SimpleQueue

from open_clip_ext.study import parts as study_parts
from open_clip_ext.study import results, trainer
from open_clip_ext.study.parts import Part, Progress
from open_clip_ext.study.settings import Study

# Makes the process of a part; by default `trainer.Process`.
Start = Callable[..., trainer.Process]


def run(study: Study, out: Path, start: Start | None = None) -> dict[Path, str]:
    """Do what is left of a study.

    A part that fails is named, and the others go on.

    Args:
        study: the study.
        out: its folder.
        start: makes the process of a part.

    Returns:
        The folder of each part that failed, and why.
    """

    def known() -> tuple[list[Part], int]:
        chosen = results.chosen(study, out)
        return study_parts.every(study, out, chosen), study_parts.unknown(study, chosen)

    return _Run("study", known, study.at_once, study.folder, start).all()


def do(
    name: str, parts: Sequence[Part], at_once: int, cwd: Path, start: Start | None = None
) -> dict[Path, str]:
    """Do what is left of some parts, as `run` does.

    Args:
        name: of all of them, for the progress bar.
        parts: each after those that it needs.
        at_once: parts at a time.
        cwd: where they run.
        start: makes the process of a part.

    Returns:
        The folder of each part that failed, and why.
    """
    return _Run(name, lambda: (parts, 0), at_once, cwd, start).all()


class _Run:
    """Args: name, the parts and how many are not known yet, parts at a time, their folder, their process."""

    def __init__(
        self,
        name: str,
        known: Callable[[], tuple[Sequence[Part], int]],
        at_once: int,
        cwd: Path,
        start: Start | None,
    ) -> None:
        self.name, self.known, self.at_once, self.cwd = name, known, at_once, cwd
        self.start = start or trainer.Process
        self.progress = Progress()
        self.stopped = threading.Event()
        self.rows: SimpleQueue[int] = SimpleQueue()  # lines of the terminal below the bar of all parts
        for row in range(at_once):
            self.rows.put(row + 1)

    def all(self) -> dict[Path, str]:
        from tqdm import tqdm

        running: dict[Future[str], Part] = {}
        with (
            tqdm(desc=self.name, unit="part", disable=None, smoothing=0) as bar,
            ThreadPoolExecutor(self.at_once) as pool,
        ):
            try:
                while True:
                    known, left = self.known()
                    bar.total = len(known) + left
                    bar.n = sum(part.done for part in known)
                    bar.refresh()
                    busy = {part.folder for part in running.values()}
                    ready = [part for part in self.progress.ready(known) if part.folder not in busy]
                    for part in ready[: self.at_once - len(running)]:
                        running[pool.submit(self._do, part)] = part
                    if not running:
                        return self.progress.failed
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        part = running.pop(future)
                        if why := future.result():
                            self.progress.failed[part.folder] = why
                            tqdm.write(f"failed: {part.name}: {why}", file=sys.stderr)
            except BaseException:
                self.stopped.set()
                raise

    def _do(self, part: Part) -> str:
        """Do one part; why it failed, or nothing."""
        from tqdm import tqdm

        row = self.rows.get()
        try:
            with tqdm(
                total=100, desc=part.name, unit="%", position=row, leave=False, disable=None,
                bar_format="{desc}: {percentage:3.0f}% |{bar}| {elapsed}<{remaining}",
            ) as bar:  # fmt: skip

                def seen(share: float) -> None:
                    bar.n = 100 * share
                    bar.refresh()

                status = trainer.run(part.words, self.cwd, part.folder, seen, self.start, self.stopped.is_set)
        finally:
            self.rows.put(row)
        if part.done and not status:
            return ""
        if part.product.is_file() and not status:
            _put_away(part)
            return "it was trained without --loss: the plugin is not armed; see `open-clip-ext doctor`"
        why = trainer.reason(part.folder) or "it wrote no result"
        return f"{why} (status {status}; its output: {part.folder / trainer.OUTPUT})"


def _put_away(part: Part) -> None:
    """Keep a training of upstream's own loss from being resumed."""
    run = part.folder / study_parts.RUN
    aside = run.with_name(f"{run.name}.without-plugin")
    shutil.rmtree(aside, ignore_errors=True)
    os.replace(run, aside)
