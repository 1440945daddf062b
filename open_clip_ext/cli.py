"""`open-clip-ext`: parse, call, print."""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
from collections.abc import Sequence
from typing import Any

from open_clip_ext import __version__
from open_clip_ext.errors import exit_on_error

# A command, the module with its `add_arguments(parser)` and `main(args) -> int`, its line in the help.
# These modules are light: they import what they need when they are called.
COMMANDS = (
    ("losses", "losses.listing", "the registered losses and their options"),
    ("doctor", "cluster.doctor", "is the plugin armed, does upstream fit, and can a run start here?"),
    ("demo", "demo.run", "the embedded example, end to end"),
    ("merge", "evaluation.merge", "interpolate two checkpoints"),
    ("traffic", "cluster.traffic", "what GPUs send each other in a step, computed"),
)
NEGATIVES = (
    ("make", "negatives.make", "make negatives for the captions of a file"),
    ("merge", "negatives.merge", "bring the stores of several shards together"),
    ("import", "negatives.importers", "bring negatives that others released into a store"),
    ("export", "negatives.export", "write a CSV or webdataset shards with the negatives inside"),
    ("stats", "negatives.stats", "what is in a store"),
    ("show", "negatives.show", "look at a store, in a browser or a terminal"),
)
EVALUATION = (
    ("list", "evaluation.catalogue", "the registered benchmarks and their options"),
    ("run", "evaluation.run", "a model or checkpoint on benchmarks"),
    (
        "compare",
        "evaluation.comparison.compare",
        "results against each other: differences, a verdict, a page",
    ),
    ("wiseft", "evaluation.wiseft", "a sweep of weight interpolations"),
)
GROUPS = (
    ("negatives", NEGATIVES, "make, import, look at and export hard negatives"),
    ("eval", EVALUATION, "benchmarks: did composition improve, and what did it cost?"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status.

    0: done; 1: the work failed; 2: the call or its input is wrong; 130: interrupted.
    """
    args = parser().parse_args(argv)
    try:
        with exit_on_error():
            status = int(args.call(args))
            sys.stdout.flush()  # here, where a closed pipe is no traceback
            return status
    except KeyboardInterrupt:
        print("open_clip_ext: interrupted; what was finished is safe", file=sys.stderr)
        return 128 + signal.SIGINT


def parser() -> argparse.ArgumentParser:
    """The parser of all commands, which sets `call` to the chosen one's function."""
    made = argparse.ArgumentParser(
        prog="open-clip-ext",
        description="Hard-negative fine-tuning of CLIP with the stock open_clip trainer.",
    )
    made.add_argument("--version", action="version", version=f"open_clip_ext {__version__}")
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add(commands, COMMANDS)
    for group, members, text in GROUPS:
        parts = commands.add_parser(group, help=text, description=text.capitalize())
        _add(parts.add_subparsers(dest="part", required=True, metavar="COMMAND"), members)
    return made


def _add(commands: Any, members: Sequence[tuple[str, str, str]]) -> None:
    for name, module, text in members:
        part = importlib.import_module(f"open_clip_ext.{module}")
        parser = commands.add_parser(name, help=text, description=part.__doc__)
        part.add_arguments(parser)
        parser.set_defaults(call=part.main)


if __name__ == "__main__":
    sys.exit(main())
