"""What a launcher is told when a run ends before training."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

# What upstream does over wrong flags and files, and what a machine does.
INPUT = {
    "raise KeyError('title')": "KeyError before training: 'title'; correct the flags or the files",
    "assert False, 'Unknown optimizer nope'": "AssertionError before training: Unknown optimizer nope;",
    "open('nowhere.csv')": "FileNotFoundError before training: [Errno 2] No such file or directory:",
    "sys.exit(1)": "it ended before training, for the reason printed above; correct the flags",
    "sys.exit(0)": "it ended before training, for the reason printed above",
    "pass": "it ended before training, for the reason printed above",
    "load_state_dict()": "RuntimeError before training: size mismatch",
}
FAILURES = {
    "raise RuntimeError('CUDA error: uncorrectable ECC error encountered')": 1,
    "raise OSError(116, 'Stale file handle')": 1,
    "raise ConnectionResetError": 1,
    "raise MemoryError": 1,
    "download()": 1,
    "raise KeyboardInterrupt": -2,
    "os.kill(os.getpid(), 9)": -9,
    "started(); raise KeyError('title')": 1,
    "started(); sys.exit(1)": 1,
    "with exit_on_error(): raise TrainingError('the optimizer took no step')": 1,
}
PROGRAM = """
import os, sys
from open_clip_ext.errors import InputError, TrainingError, exit_on_error, start, started

def load_state_dict():
    raise RuntimeError("size mismatch")

def download():
    try:
        raise TimeoutError
    except Exception as error:
        raise ValueError("could not be downloaded") from error

start()
"""


@pytest.fixture
def ended(tmp_path):
    """The status of a run in which `what` happens, and what it leaves for the launcher."""

    def ended(what: str) -> tuple[int, str | None]:
        path = tmp_path / "logs" / "run.refused"
        command = [sys.executable, "-c", PROGRAM + textwrap.dedent(what)]
        env = {"OPEN_CLIP_EXT_REFUSED": str(path)}
        status = subprocess.run(command, env=env, stderr=subprocess.DEVNULL, timeout=100).returncode
        return status, path.read_text() if path.exists() else None

    return ended


@pytest.mark.parametrize(("what", "sentence"), INPUT.items(), ids=INPUT)
def test_an_end_over_the_input_is_refused(ended, what, sentence):
    assert ended(what)[1].startswith(sentence)


@pytest.mark.parametrize(("what", "status"), FAILURES.items(), ids=FAILURES)
def test_a_failure_is_not(ended, what, status):
    assert ended(what) == (status, None)


def test_a_sentence_of_ours_is_the_reason(ended):
    assert ended("with exit_on_error(): raise InputError('no such column')") == (2, "no such column\n")
