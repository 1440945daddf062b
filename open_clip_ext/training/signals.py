"""Signals that ask a run to save and stop: SIGUSR1, and SIGTERM as batch systems send it."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ASKING = [getattr(signal, name) for name in ("SIGUSR1", "SIGTERM") if hasattr(signal, name)]


class Asked(BaseException):
    """A signal that came while `Signals.obeyed` lasted."""


class Signals:
    """Remembers the first signal that asks this process to stop.

    The process is asked in between two steps whether one came; until then it goes on. A process
    forked from it, such as upstream's remote sync, takes these signals as if we were not here.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._obeyed = False
        self._pid = os.getpid()

    def listen(self) -> None:
        """From now on, do not die of them."""
        for number in ASKING:
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        if self.received is None:
            self.received = signal.Signals(number).name
        if self._obeyed:
            raise Asked

    @contextmanager
    def obeyed(self) -> Iterator[None]:
        """While this lasts a signal raises `Asked`, and so does one that came before."""
        self._obeyed = True
        try:
            if self.received is not None:
                raise Asked
            yield
        finally:
            self._obeyed = False


def shield_worker_from_signals(worker: int) -> None:
    """A `worker_init_fn`: a signal to every process of a job must not cost the loader its workers.

    They are needed for the last step. Their parent ends them with SIGTERM, which they still obey. Only
    on Linux can they tell who sent it.
    """
    if sys.platform != "linux":
        return
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_obey, args=(os.getppid(),), daemon=True).start()


def _obey(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
