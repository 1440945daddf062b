"""Reports that the processes of a distributed evaluation leave for the first of them, in files on disk."""

from __future__ import annotations

import json
import math
import os
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

from open_clip_ext.errors import InputError, TrainingError
from open_clip_ext.evaluation.feature_store import cache_errors
from open_clip_ext.files import write_text


def patience() -> float:
    """Seconds to wait for a silent part: `OPEN_CLIP_EXT_PEER_TIMEOUT`, as in training.

    Raises InputError if that is no number of seconds.
    """
    given = os.environ.get("OPEN_CLIP_EXT_PEER_TIMEOUT", "300")
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise InputError(f"OPEN_CLIP_EXT_PEER_TIMEOUT={given}: give a number of seconds above 0")
    return seconds


def name(index: int, count: int) -> str:
    """A part for people, who count from 1."""
    return f"part {index + 1} of {count}"


def _path(board: Path, index: int, count: int) -> Path:
    return board / f"{index + 1}-of-{count}.json"


class Report:
    """What a part says of itself, from the beginning of its work to the end.

    A thread repeats it several times within the patience of the first part.
    """

    def __init__(self, board: Path, index: int, count: int, total: int, missing: int) -> None:
        self.path = _path(board, index, count)
        self.content: dict[str, Any] = {
            "host": socket.gethostname(), "process": os.getpid(), "beat": 0,
            "total": total, "done": total - missing, "state": "running", "why": "",
        }  # fmt: skip
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._repeat, daemon=True)

    def add(self, count: int) -> None:
        """So many more inputs are encoded."""
        self.content["done"] += count

    def __enter__(self) -> Report:
        with cache_errors(self.path.parent):
            self._write()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        if error is None:
            self.content["state"] = "done"
        else:
            wrong = isinstance(error, InputError)
            why = str(error) if wrong else f"{type(error).__name__}: {error}"
            self.content |= {"state": "refused" if wrong else "failed", "why": why}
        with suppress(OSError) if error else cache_errors(self.path.parent):
            self._write()

    def _repeat(self) -> None:
        while not self._over.wait(min(5.0, patience() / 6)):
            self.content["beat"] += 1
            with suppress(OSError):  # the next one may succeed
                self._write()

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.path, json.dumps(self.content))


class Others:
    """What the first part knows of the others, and the bar of all.

    Args:
        board: where the reports are.
        there: the number of inputs of each part whose features were there at the start.
        bar: to be kept up to date.
    """

    def __init__(self, board: Path, there: Sequence[int], bar: tqdm[Any]) -> None:
        self.board, self.bar, self.count = board, bar, len(there)
        self.counted = list(there)  # in the bar
        # Reports of an earlier run may lie there. What changes from now on is of this one.
        self.reports = {index: self._read(index) for index in range(1, self.count)}
        self.heard: dict[int, float] = {}  # when a report last changed
        self._looked = 0.0

    def own(self, count: int) -> None:
        """So many more inputs are encoded here."""
        self.bar.update(count)
        if time.monotonic() - self._looked > 1:
            self.look()

    def look(self) -> None:
        """Read all reports."""
        self._looked = time.monotonic()
        for index, before in self.reports.items():
            report = self._read(index)
            if report and report != before:
                self.reports[index], self.heard[index] = report, self._looked
                self.bar.update(max(0, report["done"] - self.counted[index]))
                self.counted[index] = max(report["done"], self.counted[index])

    def wait(self) -> None:
        """Wait until all parts are done. A `done` of an earlier run counts: it remains true.

        Raises:
            InputError: one has refused its input.
            TrainingError: one has failed, or is silent for too long.
        """
        start, limit = time.monotonic(), patience()
        while True:
            self.look()
            waiting = [index for index, report in self.reports.items() if report.get("state") != "done"]
            if not waiting:
                return
            silent = [i for i in waiting if time.monotonic() - max(start, self.heard.get(i, 0)) > limit]
            for index in waiting:
                report = self.reports[index]
                if report.get("why") and (index in self.heard or index in silent):
                    kind = InputError if report["state"] == "refused" else TrainingError
                    raise kind(f"{name(index, self.count)} on {report['host']}: {report['why']}")
            if silent:
                raise TrainingError(self._sentence(silent, limit))
            time.sleep(min(0.5, limit / 10))

    def _sentence(self, silent: Sequence[int], limit: float) -> str:
        named, hint = [], ""
        for index in silent:
            if report := self.reports[
                index
            ]:  # an earlier run's, if it never came; then it says where to look
                named.append(
                    f"{name(index, self.count)} (process {report['process']} on {report['host']}, "
                    f"{report['done']:,} of {report['total']:,} pictures and texts done)"
                )
            else:
                named.append(name(index, self.count))
                hint = "all processes need the same call, and a --cache folder that all of them see; "
        return (
            f"{', '.join(named)}: no sign of life for {limit:g} s; {hint}run the same command again: "
            "it encodes only what is missing"
        )

    def _read(self, index: int) -> dict[str, Any]:
        try:
            report: dict[str, Any] = json.loads(_path(self.board, index, self.count).read_text("utf-8"))
            return report
        except (OSError, ValueError):
            return {}
