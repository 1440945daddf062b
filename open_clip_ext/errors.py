"""Errors for users: each ends a run with one sentence and its own exit status."""

from __future__ import annotations

import atexit
import os
import pickle
import socket
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# Exit status of a run that was asked to stop, and has saved.
STOPPED = 85
# Environment variable with the name of a file for the error about wrong input. torchrun does not pass on
# exit statuses, and a launcher must not restart such a run.
REFUSED = "OPEN_CLIP_EXT_REFUSED"


class InputError(Exception):
    """The call or its input is wrong.

    Exit status 2; the message is one sentence that says what to do.
    """


class TrainingError(Exception):
    """The call was right, but the work failed.

    Exit status 1.
    """


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Turn our errors into one sentence on stderr and an exit status, without a traceback.

    With several processes the sentence names the node. An error about the input is also written to
    the file named by `REFUSED`.
    """
    try:
        yield
    except (InputError, TrainingError) as error:
        started()  # so that `_ended` does not write a second reason
        node = _node()
        print(f"open_clip_ext: {node}{error}", file=sys.stderr, flush=True)
        if isinstance(error, TrainingError):
            sys.exit(1)
        _refuse(f"{node}{error}")
        sys.exit(2)
    except BrokenPipeError:
        # The reader of our output has closed it, as `head` does. Without this Python complains again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


# Exceptions that a wrong flag or file causes in code that does not expect it. For a RuntimeError it depends
# on where it was raised, since torch also reports failures of the machine with it.
OF_INPUT = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, ImportError, LookupError, TypeError),
    *(ValueError, NotImplementedError, pickle.UnpicklingError),
    *(FileNotFoundError, IsADirectoryError, NotADirectoryError),
)


def start() -> None:
    """A run begins to read its flags.

    If the process ends between here and `started`, and not by a failure of the machine, its input counts
    as refused. Wrong flags and files end upstream in many ways: with an exception, with a message and a
    status, or with a message and status 0. All of them are written to the file named by `REFUSED`, for a
    launcher that restarts runs. Without that variable this does nothing.
    """
    if os.environ.get(REFUSED):
        atexit.register(_ended)


def started() -> None:
    """The first epoch begins: from now on an early end is a failure."""
    atexit.unregister(_ended)


def _ended() -> None:
    error = getattr(sys, "last_value", None)  # the uncaught exception
    if error is None:
        _refuse(f"{_node()}it ended before training, for the reason printed above; correct the flags")
    elif of_input(error):
        reason = (str(error).strip().splitlines() or [""])[0]
        _refuse(
            f"{_node()}{type(error).__name__} before training: {reason}; correct the flags or the files that "
            "they name"
        )


def of_input(error: BaseException) -> bool:
    """Whether an exception and all its causes concern the input of a run, and not the machine."""
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None and not of_input(before):
        return False
    if type(error) is not RuntimeError:
        return isinstance(error, OF_INPUT)
    frames = list(traceback.walk_tb(error.__traceback__))
    module = frames[-1][0].f_globals.get("__name__", "") if frames else ""
    reading = any(frame.f_code.co_name == "load_state_dict" for frame, _ in frames)
    return reading or module.startswith(("open_clip", "torch.serialization"))


def _node() -> str:
    """The name of this node, if there are several processes."""
    several = int(os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_NTASKS") or 1) > 1
    return f"{socket.gethostname()}: " if several else ""


def _refuse(sentence: str) -> None:
    """Tell the launcher not to try again. Only the first sentence is kept."""
    if path := os.environ.get(REFUSED):
        with suppress(OSError):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            with open(path, "x", encoding="utf-8") as file:
                file.write(f"{sentence}\n")
