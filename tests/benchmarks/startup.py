"""What the plugin costs each start of an interpreter: `python -c pass`, with and without it.

    python tests/benchmarks/startup.py --runs 200 --out startup.json

`empty` is a second environment without the plugin: what it differs by is noise.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import environments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200, help="starts of each interpreter")
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON, in place of a table")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        made = {
            name: environments.create(Path(folder) / name)
            for name in ("without", "empty", "with", "switched off")
        }
        wheel = environments.build_wheel(Path(folder) / "wheel")
        for name in ("with", "switched off"):
            made[name].install(wheel)
        taken = measure(made, args.runs)
    figures = summarize(taken)
    figures.update(runs=args.runs, python=platform.python_version(), machine=platform.machine())
    if args.json:
        print(json.dumps(figures))
        return
    print(f"Python {figures['python']}, {args.runs} starts each, microseconds")
    print(f"{'':<14}{'min':>9}{'median':>9}{'extra min':>11}{'extra median':>14}")
    for name in made:
        row = figures[name]
        print(
            f"{name:<14}{row['min']:>9.0f}{row['median']:>9.0f}"
            f"{row['extra_min']:>11.0f}{row['extra_median']:>14.0f}"
        )
    if args.out:
        args.out.write_text(json.dumps(figures, indent=2) + "\n")


def measure(made: dict[str, environments.Environment], runs: int) -> dict[str, list[float]]:
    """Microseconds of each start; they take turns, and who begins changes from round to round."""
    taken: dict[str, list[float]] = {name: [] for name in made}
    names = list(made)
    for run in range(-2, runs):
        for name in names[run % len(names) :] + names[: run % len(names)]:
            env = {"OPEN_CLIP_EXT": "0"} if name == "switched off" else {}
            begin = time.perf_counter_ns()
            subprocess.run([made[name].python, "-c", "pass"], env=env, check=True)
            if run >= 0:  # the first two rounds fill the caches
                taken[name].append((time.perf_counter_ns() - begin) / 1000)
    return taken


def summarize(taken: dict[str, list[float]]) -> dict[str, object]:
    """Minimum and median of each, and how much more they are than without the plugin."""
    base = taken["without"]
    return {
        name: {
            "min": min(values),
            "median": statistics.median(values),
            "extra_min": min(values) - min(base),
            # Neighbours share the machine's mood, so pairs are compared.
            "extra_median": statistics.median(b - a for a, b in zip(base, values, strict=True)),
        }
        for name, values in taken.items()
    }


if __name__ == "__main__":
    main()
