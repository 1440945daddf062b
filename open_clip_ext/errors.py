"""The ways a run can end early, each with one sentence and an exit status of its own."""

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
def exit_on_error() -> Iterator[None]:
    """Turn our errors into one sentence on stderr and an exit status, without a traceback.

    With several processes it names the node. What is wrong with the input goes to the file that
    `REFUSED` names as well.
    """
    try:
        yield
    except (InputError, TrainingError) as error:
        started()  # this is the reason
        node = _node()
        print(f"open_clip_ext: {node}{error}", file=sys.stderr, flush=True)
        if isinstance(error, TrainingError):
            sys.exit(1)
        _refuse(f"{node}{error}")
        sys.exit(2)
    except BrokenPipeError:
        # Whoever read our output has enough, as `head` does. Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


# What a wrong flag or file raises in code that does not expect it. Of a RuntimeError it depends on where:
# torch raises it for the machine's failures too.
OF_INPUT = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, ImportError, LookupError, TypeError),
    *(ValueError, NotImplementedError, pickle.UnpicklingError),
    *(FileNotFoundError, IsADirectoryError, NotADirectoryError),
)


def start() -> None:
    """A run reads its flags: from here until `started`, an end that is no failure is refused.

    Upstream ends there over wrong flags and files in many ways: with an exception, with a message and a
    status, or with a message and status 0. A launcher that starts runs again is told of all of them in
    the file that `REFUSED` names; without one nothing happens.
    """
    if os.environ.get(REFUSED):
        atexit.register(_ended)


def started() -> None:
    """Its first epoch begins."""
    atexit.unregister(_ended)


def _ended() -> None:
    error = getattr(sys, "last_value", None)  # what nothing has caught
    if error is None:
        _refuse(f"{_node()}it ended before training, for the reason printed above; correct the flags")
    elif of_input(error):
        reason = (str(error).strip().splitlines() or [""])[0]
        _refuse(
            f"{_node()}{type(error).__name__} before training: {reason}; correct the flags or the files that "
            "they name"
        )


def of_input(error: BaseException) -> bool:
    """Whether an exception, and each that led to it, is about what a run was given, not about the machine."""
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
    """Tell the launcher not to try again; the first one to do so is heard."""
    if path := os.environ.get(REFUSED):
        with suppress(OSError):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            with open(path, "x", encoding="utf-8") as file:
                file.write(f"{sentence}\n")
