"""`fork.py *argv` is `python *argv` without its imports: a fork of the server of the node that this runs on.

The fork gets the signals that this process gets, and this process ends as the fork does.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from trainer_server import Client


def connect(folder: Path) -> Client:
    """Wait for the server too, which a node starts when it comes up."""
    for _ in range(600):
        try:
            return Client.of(folder / os.uname().nodename)
        except (FileNotFoundError, ConnectionRefusedError):
            time.sleep(0.1)
    sys.exit(f"{os.uname().nodename}: no server in {folder}")


if __name__ == "__main__":
    client = connect(Path(os.environ["FORKS"]))
    process = client.start(sys.argv[1:], sys.stdout, sys.stderr, os.environ)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda number, _: process.send_signal(number))
    status = process.wait()
    if status < 0:
        if status != -signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)
