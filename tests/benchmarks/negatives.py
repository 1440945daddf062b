"""How many captions a second a recipe by rules does on one core, and how many while nobody else has it.

    python tests/benchmarks/negatives.py captions.csv
    python tests/benchmarks/negatives.py captions.csv --recipe degla-rules --runs 5

On a shared machine a core comes and goes. So a fixed loop is timed before and after every batch; a
batch between two that took no more than 8 % longer than the quickest ones had the core to itself.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import os
import sys
import tempfile
import time
from pathlib import Path

from open_clip_ext import cli
from open_clip_ext.negatives import make

BUSY = 1.08


def reference() -> float:
    """Seconds that a fixed piece of Python takes."""
    start = time.perf_counter()
    x = 0
    for i in range(20_000):
        x += i * i % 7
    return time.perf_counter() - start


def run(captions: str, recipe: str) -> list[tuple[int, float, float]]:
    """Of each batch of a whole run: its captions, its seconds, and the slower reference beside it."""
    rows = []
    batches = make._batches

    def timed(todo, size):
        before = reference()
        for batch in batches(todo, size):
            start = time.perf_counter()
            yield batch
            seconds, after = time.perf_counter() - start, reference()
            rows.append((len(batch), seconds, max(before, after)))
            before = after

    make._batches = timed
    try:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            out = str(Path(folder) / "store")
            words = ["negatives", "make", captions, "--recipe", recipe, "--cfg", "tagger=textblob"]
            if status := cli.main([*words, "--out", out]):
                sys.exit(status)
    finally:
        make._batches = batches
    return rows


def rate(rows) -> str:
    """Captions a second over some batches."""
    return f"{sum(n for n, *_ in rows) / sum(s for _, s, _ in rows):.0f}" if rows else "-"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("captions", help="anything that `negatives make` reads")
    parser.add_argument("--recipe", default="swap", help="a recipe by rules (default: swap)")
    parser.add_argument("--runs", type=int, default=3, help="whole runs (default: 3)")
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    runs = [run(args.captions, args.recipe) for _ in range(args.runs)]
    every = sorted(slower for rows in runs for *_, slower in rows)
    limit = BUSY * every[len(every) // 50]
    print(f"\n{args.recipe}, Python {sys.version.split()[0]}, captions a second on one core")
    names = [f"run {number}" for number in range(1, args.runs + 1)]
    for name, rows in zip([*names, "all"], [*runs, list(itertools.chain(*runs))], strict=True):
        alone = [row for row in rows if row[2] <= limit]
        print(f"{name}: {rate(rows)}; core to itself: {rate(alone)} ({len(alone)} of {len(rows)} batches)")


if __name__ == "__main__":
    main()
