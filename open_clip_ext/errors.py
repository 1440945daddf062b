"""The ways a run can end early, each with one sentence and an exit status of its own."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Exit status of a run that was asked to stop, and has saved.
STOPPED = 85


class InputError(Exception):
    """The call or its input is wrong.

    Exit status 2; the message is one sentence that says what to do.
    """


class TrainingError(Exception):
    """The work itself failed.

    Exit status 1.
    """


@contextmanager
def reported() -> Iterator[None]:
    """Turn our errors into one sentence on stderr and an exit status, without a traceback.

    With several processes it names the node.
    """
    try:
        yield
    except (InputError, TrainingError) as error:
        several = int(os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_NTASKS") or 1) > 1
        node = f"{socket.gethostname()}: " if several else ""
        print(f"open_clip_ext: {node}{error}", file=sys.stderr, flush=True)
        sys.exit(2 if isinstance(error, InputError) else 1)
    except BrokenPipeError:
        # Whoever read our output has enough, as `head` does. Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
