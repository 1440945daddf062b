"""A part's process: started, followed, ended; and why it failed."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from open_clip_ext.study import parts

OUTPUT, LOCK = "output.txt", "lock"
# `Train Epoch: 3 [ 128/512 (25%)]`, counted from 0.
PROGRESS = re.compile(r"Train Epoch: (\d+) \[.*?\((\d+)%\)\]")
ERROR = re.compile(r"[\w.]*(Error|Exception|Interrupt)\b")
POLL = 0.3  # seconds


class Process:
    """A started command, whose output goes to a file.

    Args:
        words: of the command.
        folder: that it runs in.
        output: what it prints goes there.
        lock: a file descriptor that it keeps open, so that the lock ends with it.
    """

    def __init__(self, words: Sequence[str], folder: Path, output: IO[str], lock: int) -> None:
        self._process = subprocess.Popen(
            list(words), cwd=folder, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            env=environment(), process_group=0, pass_fds=(lock,),
        )  # fmt: skip

    def wait(self, seconds: float) -> int | None:
        """Its exit status; None if it runs on after that time."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def stop(self) -> None:
        """Ask it to save and stop, if it runs, and end it if it does not."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


def environment() -> dict[str, str]:
    """That of a part; one thread for each process unless the user says otherwise."""
    return {"OMP_NUM_THREADS": "1", **os.environ}


def run(
    words: Sequence[str],
    cwd: Path,
    folder: Path,
    seen: Callable[[float], None] = lambda share: None,
    start: Callable[[Sequence[str], Path, IO[str], int], Process] | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> int:
    """Run a command to its end, its output in `folder`.

    A process that a killed study left behind may still be at work in that folder. This waits for its end
    first: the process holds the lock, not we.

    Args:
        words: of the command.
        cwd: where it runs.
        folder: of the part; made if it is not there.
        seen: is told the share of a training that its log shows, from 0 to 1.
        start: makes the process; by default `Process`.
        stopped: whether to stop it.

    Returns:
        Its exit status.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = Log(folder / OUTPUT, words)
    with (folder / OUTPUT).open("a") as output, (folder / LOCK).open("w") as lock:
        while not locked(lock.fileno()):
            if stopped():
                return 1
            time.sleep(POLL)
        process = (start or Process)(words, cwd, output, lock.fileno())
        try:
            while (status := process.wait(POLL)) is None:
                if stopped():
                    process.stop()
                seen(log.share())
            return status
        finally:
            process.stop()


def locked(file: int) -> bool:
    """Lock an open file; False if somebody else has. The lock lasts while any copy of it is open."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class Log:
    """How far a training is, by what it printed since it was started."""

    def __init__(self, path: Path, words: Sequence[str]) -> None:
        self._path = path
        self._at = path.stat().st_size if path.exists() else 0
        self._epochs = parts.epochs(words)
        self._share = 0.0

    def share(self) -> float:
        """From 0 to 1; 0 for what is no training."""
        with self._path.open(errors="replace") as lines:
            lines.seek(self._at)
            found = PROGRESS.findall(lines.read())
            self._at = lines.tell()
        if found:
            epoch, percent = map(int, found[-1])
            self._share = (epoch + percent / 100) / self._epochs
        return self._share


def reason(folder: Path) -> str:
    """The error at the end of a part's output; empty if there is none, as of one that was told to stop."""
    lines = [line for line in (folder / OUTPUT).read_text(errors="replace").splitlines() if line.strip()]
    ours = next((line for line in reversed(lines) if line.startswith("open_clip_ext:")), "")
    errors = [line for line in lines if ERROR.match(line)]
    return ours.removeprefix("open_clip_ext: ") or (errors[-1].strip() if errors else "")
