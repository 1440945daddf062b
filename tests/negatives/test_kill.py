"""Kill -9 at any moment: nothing is lost but what is in flight, and the finished store is the same."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections import Counter

import pytest
from support_negatives import command, content, install, run
from test_make import captions, write

# Takes 5 ms for a caption, and writes down each one that it makes.
SLOW = """
import os, time

from open_clip_ext.negatives.records import Candidate


class Slow:
    version, types, batch_size = "1", ("reversed",), 64

    def __init__(self, *, seed: int = 0, log: str = ""):
        self.log = log

    def identity(self):
        return {}

    def generate(self, captions):
        with open(self.log, "a") as file:
            for index, caption in enumerate(captions):
                time.sleep(0.005)
                print(caption, file=file, flush=True)
                yield index, [Candidate("reversed", " ".join(reversed(caption.split())))]
"""


def kill_while_it_writes(arguments, env, log, lines: int, rng) -> bool:
    """Start it, and kill it at a random moment after it has made some more; whether it was killed."""
    process = subprocess.Popen(
        command(*arguments), env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while process.poll() is None and (not log.exists() or log.read_text().count("\n") < lines):
            time.sleep(0.02)
        time.sleep(rng.random() * 0.05)
    finally:
        process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


@pytest.mark.real_start
def test_a_slow_generator_repeats_nothing_but_the_caption_in_flight(tmp_path):
    env = install(tmp_path / "site", "slow", SLOW, "Slow")
    source = write(tmp_path / "c.csv", captions(200))
    log, rng, kills = tmp_path / "log", random.Random(0), 0

    def arguments(out, log):
        return "make", source, "--recipe", "slow", "--out", tmp_path / out, "--cfg", f"log={log}"

    for lines in (1, 40, 80, 120):
        kills += kill_while_it_writes(arguments("s", log), env, log, lines, rng)
    assert kills == 4
    assert run(*arguments("s", log), env=env).returncode == 0
    made = Counter(log.read_text().split("\n")[:-1])
    assert set(made) == set(captions(200))
    assert sum(made.values()) - 200 <= kills
    assert run(*arguments("whole", tmp_path / "log2"), env=env).returncode == 0
    assert content(tmp_path / "s") == content(tmp_path / "whole")


@pytest.mark.real_start
def test_a_fast_recipe_ends_with_the_same_store(tmp_path):
    source = write(tmp_path / "c.csv", captions(3000))
    out, rng = tmp_path / "s", random.Random(0)
    arguments = ("make", source, "--recipe", "swap", "--out", out, "--cfg", "tagger=textblob")
    grown = 0
    for _ in range(3):
        process = subprocess.Popen(command(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and size(out) <= grown:
            time.sleep(0.001)
        time.sleep(rng.random() * 0.2)
        process.kill()
        assert process.wait() == -signal.SIGKILL, "it finished before it could be killed"
        grown = size(out)
    finished = run(*arguments)
    assert finished.returncode == 0, finished.stderr
    assert "captions are done already" in finished.stderr
    assert (
        run(
            "make", source, "--recipe", "swap", "--out", tmp_path / "w", "--cfg", "tagger=textblob"
        ).returncode
        == 0
    )
    assert content(out) == content(tmp_path / "w")


def size(path) -> int:
    log = path.with_name(path.name + "-wal")
    return sum(file.stat().st_size for file in (path, log) if file.exists())
