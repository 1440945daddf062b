"""The ways a run can end early, each with one sentence and an exit status of its own."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# Exit status of a run that was asked to stop, and has saved.
STOPPED = 85
# Variable that names a file for the sentence on a wrong input: torchrun passes no exit status on, and a
# launcher must not start such a run again.
REFUSED = "OPEN_CLIP_EXT_REFUSED"


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

    With several processes it names the node. What is wrong with the input goes to the file that
    `REFUSED` names as well.
    """
    try:
        yield
    except (InputError, TrainingError) as error:
        several = int(os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_NTASKS") or 1) > 1
        node = f"{socket.gethostname()}: " if several else ""
        print(f"open_clip_ext: {node}{error}", file=sys.stderr, flush=True)
        if isinstance(error, TrainingError):
            sys.exit(1)
        if path := os.environ.get(REFUSED):
            with suppress(OSError):
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                Path(path).write_text(f"{node}{error}\n", encoding="utf-8")
        sys.exit(2)
    except BrokenPipeError:
        # Whoever read our output has enough, as `head` does. Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
