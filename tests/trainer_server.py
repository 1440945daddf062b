"""A fork server: starts of Python that do not import torch and open_clip anew.

A fresh interpreter, in which the environment's start-up file is read as in any other, imports what every
trainer needs except upstream's main module, for which the plugin's finder waits. Each start is a fork of it
that runs a program through `runpy`, as `python` does. So finder, flags, training and exit status are those
of a real start (test_real_starts.py compares them); only the seed of `hash` is shared. As a script this
module is the server, of the client that started it (a descriptor) or of all that come (a socket's path);
imported it is the client.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

UPSTREAM = ("data", "distributed", "file_utils", "logger", "params", "scheduler", "train", "zero_shot")
PRELOADED = (
    *("torch", "torch.utils.tensorboard", "open_clip", "pandas", "webdataset"),
    *(f"open_clip_train.{name}" for name in UPSTREAM),
)


class Process:
    """A process that the server started, with what tests use of subprocess.Popen's interface."""

    def __init__(self, status: IO[bytes]) -> None:
        self._status = status
        self.pid = int(status.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        if self.returncode is None and select.select([self._status], [], [], 0)[0]:
            self.returncode = int(self._status.readline())
            self._status.close()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None and not select.select([self._status], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        status = self.poll()
        assert status is not None
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Client:
    """What a server starts for this process ends with it at the latest."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    @classmethod
    def of(cls, path: Path) -> Client:
        """Of the server that listens there."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.connect(str(path))
        return cls(connection)

    def start(
        self,
        argv: Sequence[object],
        stdout: IO[Any],
        stderr: IO[Any],
        environment: Mapping[str, str],
        folder: Path | None = None,
    ) -> Process:
        """`python *argv`, leader of a new session; `argv` begins with `-m MODULE` or with a script.

        In this process's working directory, or in `folder`.
        """
        request = {
            "argv": list(map(str, argv)),
            "cwd": str(folder or os.getcwd()),
            "environment": dict(environment),
            "ignored": [n for n in signal.valid_signals() if signal.getsignal(n) is signal.SIG_IGN],
        }
        read, write = os.pipe()
        files = [stdout.fileno(), stderr.fileno(), write]
        socket.send_fds(self._connection, [json.dumps(request).encode()], files)
        os.close(write)
        return Process(os.fdopen(read, "rb", buffering=0))


class Server(Client):
    """A server of this process alone; it ends with `close`, or with this process."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        super().__init__(ours)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # else forks would take it for a terminal if it is one
                env=environment,
                start_new_session=True,  # Ctrl-C is pytest's
            )

    def close(self) -> None:
        self._connection.shutdown(socket.SHUT_RDWR)  # which a fork of this process may hold too
        self._connection.close()
        self._process.wait()


def listen(path: Path) -> socket.socket:
    """Fork for each client that comes. Returns in the forks alone, with the connection to the client."""
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    path.unlink(missing_ok=True)
    server.bind(str(path))
    server.listen(64)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no one asks how a fork ended
    while True:
        connection, _ = server.accept()
        if os.fork():
            connection.close()
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        server.close()
        return connection


def serve(connection: socket.socket) -> dict[str, Any]:
    """Fork for each request. Returns in the forks alone, with what they have to run."""
    running: dict[int, tuple[int, int]] = {}  # descriptor of a process: its pid, where to write its status
    while True:
        ready, _, _ = select.select([connection.fileno(), *running], [], [])
        for ended in running.keys() & set(ready):
            pid, status = running.pop(ended)
            _, how = os.waitpid(pid, 0)
            os.write(status, b"%d\n" % os.waitstatus_to_exitcode(how))
            os.close(status)
            os.close(ended)
        if connection.fileno() not in ready:
            continue
        message, files, _, _ = socket.recv_fds(connection, 1 << 20, 3)
        if not message:  # the client is gone
            for pid, _ in running.values():
                os.killpg(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            sys.exit()
        stdout, stderr, status = files
        if pid := os.fork():
            running[os.pidfd_open(pid)] = pid, status
            os.close(stdout)
            os.close(stderr)
            continue
        os.setsid()
        os.write(status, b"%d\n" % os.getpid())
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        for inherited in (*files, connection.detach(), *running, *(s for _, s in running.values())):
            os.close(inherited)
        request: dict[str, Any] = json.loads(message)
        return request


def run(argv: list[str], cwd: str, environment: dict[str, str], ignored: list[int]) -> None:
    """As `python *argv` in a fresh interpreter."""
    import numpy

    from open_clip_ext import _startup

    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background of a shell ignores it
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
    numpy.random.seed()  # else all forks would draw the same
    if not _startup.enabled():
        _startup.disarm()
    sys.path[1:1] = filter(None, environment.get("PYTHONPATH", "").split(":"))
    if argv[0] == "-m":
        sys.argv, sys.path[0] = argv[1:], cwd
        runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = argv, str(Path(argv[0]).parent)
        runpy.run_path(argv[0], run_name="__main__")


if __name__ == "__main__":
    for module in PRELOADED:
        importlib.import_module(module)
    # A fork lacks the threads of a computation. That of pyarrow's allocator knows how to be forked.
    threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    assert len(threads) - threads.count("jemalloc_bg_thd") == 1, threads
    gc.freeze()
    where = sys.argv[1]
    run(**serve(socket.socket(fileno=int(where)) if where.isdigit() else listen(Path(where))))
