"""The command `open-clip-ext`: parses arguments, calls a module, prints."""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
from collections.abc import Sequence
from typing import Any

from open_clip_ext import __version__
from open_clip_ext.errors import exit_on_error

# A command; the module with its `add_arguments(parser)` and `main(args) -> int`; its help text.
# Importing these modules is cheap: they import heavy packages only when called.
COMMANDS = (
    ("losses", "losses.listing", "list the registered losses and their options"),
    ("doctor", "cluster.doctor", "is the plugin armed, does upstream fit, and can a run start here?"),
    ("demo", "demo.run", "run the embedded example, end to end"),
    ("merge", "evaluation.merge", "interpolate two checkpoints"),
    ("export", "export.run", "write a folder that transformers and open_clip load, with a model card"),
    ("traffic", "cluster.traffic", "compute what GPUs send each other in a step"),
)
NEGATIVES = (
    ("make", "negatives.make", "make negatives for the captions of a file"),
    ("merge", "negatives.merge", "merge the stores of several shards"),
    ("import", "negatives.importers", "import released negatives into a store"),
    ("export", "negatives.export", "write a CSV or webdataset shards with the negatives inside"),
    (
        "select",
        "mining.select",
        "keep the negatives of a store that are hard, or that texts do not give away",
    ),
    ("mine", "mining.mine", "give each picture similar ones of the data as hard images"),
    ("stats", "negatives.stats", "summarise a store"),
    ("show", "negatives.show", "show a store, in a browser or a terminal"),
)
EVALUATION = (
    ("list", "evaluation.catalogue", "list the registered benchmarks and scorers, and their options"),
    ("run", "evaluation.run", "score a model or checkpoint on benchmarks"),
    (
        "compare",
        "evaluation.comparison.compare",
        "compare results: differences, a verdict, an HTML page",
    ),
    ("wiseft", "evaluation.wiseft", "sweep over weight interpolations"),
)
STUDY = (
    ("run", "study.run", "train, evaluate and compare what a file names; goes on where it was"),
    ("plan", "study.plan", "what would run, how long it takes, what it needs on disk"),
    ("status", "study.status", "what is done, at work, failed and left"),
)
GROUPS = (
    ("negatives", NEGATIVES, "make, import, inspect and export hard negatives"),
    ("eval", EVALUATION, "benchmarks: did composition improve, and what did it cost?"),
    ("study", STUDY, "several methods, bases and seeds, from one file to one page"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status.

    0: done; 1: the work failed; 2: the call or its input is wrong; 130: interrupted.
    """
    args = parser().parse_args(argv)
    try:
        with exit_on_error():
            status = int(args.call(args))
            sys.stdout.flush()  # here a closed pipe causes no traceback
            return status
    except KeyboardInterrupt:
        print("open_clip_ext: interrupted; what was finished is safe", file=sys.stderr)
        return 128 + signal.SIGINT


def parser() -> argparse.ArgumentParser:
    """The parser of all commands. It sets `call` to the function of the chosen command."""
    made = argparse.ArgumentParser(
        prog="open-clip-ext",
        description="Hard-negative fine-tuning losses for open_clip's trainer, and tools around them.",
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
