"""`open-clip-ext`: parse, call, print."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Any

from open_clip_ext import __version__
from open_clip_ext.errors import reported

EVALUATION = (
    ("list", "evaluation.catalogue", "the registered benchmarks and their options"),
    ("run", "evaluation.run", "a model or checkpoint on benchmarks"),
    ("compare", "evaluation.compare", "results against each other: differences, a verdict, a page"),
    ("wiseft", "evaluation.wiseft", "a sweep of weight interpolations"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status.

    0: done; 1: the work failed; 2: the call or its input is wrong.
    """
    parser = argparse.ArgumentParser(prog="open-clip-ext", description=__doc__)
    parser.add_argument("--version", action="version", version=f"open_clip_ext {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    losses = commands.add_parser("losses", help="the registered losses and their options")
    losses.set_defaults(call=_losses)
    doctor = commands.add_parser("doctor", help="is the plugin armed, and does the installed upstream fit?")
    from open_clip_ext import doctor as doctor_command

    doctor_command.add_arguments(doctor)
    doctor.set_defaults(call=doctor_command.main)
    traffic = commands.add_parser("traffic", help="what GPUs send each other in a step, computed")
    from open_clip_ext import traffic as traffic_command

    traffic_command.add_arguments(traffic)
    traffic.set_defaults(call=traffic_command.main)
    demo = commands.add_parser("demo", help="the embedded example, end to end")
    from open_clip_ext.demo import run as demo_run

    demo_run.add_arguments(demo)
    demo.set_defaults(call=demo_run.main)
    negatives = commands.add_parser("negatives", help="make, import, look at and export hard negatives")
    from open_clip_ext.negatives import cli as negatives_cli

    negatives_cli.add_arguments(negatives)

    evaluation = commands.add_parser(
        "eval", help="benchmarks: did composition improve, and what did it cost?"
    )
    parts = evaluation.add_subparsers(dest="part", required=True, metavar="PART")
    for part, module, text in EVALUATION:
        _add_part(parts, part, module, text)
    _add_part(commands, "merge", "evaluation.merge", "interpolate two checkpoints")

    args = parser.parse_args(argv)
    with reported():
        status = int(args.call(args))
        sys.stdout.flush()  # here, where a closed pipe is no traceback
        return status


def _add_part(commands: Any, name: str, module: str, text: str) -> None:
    """A command whose module has `add_arguments(parser)` and `main(args) -> int`, and is light to import."""
    part = importlib.import_module(f"open_clip_ext.{module}")
    parser = commands.add_parser(name, help=text, description=part.__doc__)
    part.add_arguments(parser)
    parser.set_defaults(call=part.main)


def _losses(args: argparse.Namespace) -> int:
    from open_clip_ext import registry
    from open_clip_ext.errors import InputError

    for name, entry in registry.entries().items():
        try:
            loss = registry.load(name)
        except InputError as error:
            print(f"{name}\n  {error}\n")
            continue
        companions = " ".join(f"{kind}={n}" for kind, n in loss.companions.items())  # type: ignore[attr-defined]
        print(f"{name}\n  from        {entry.value} ({entry.dist.name if entry.dist else 'unknown'})")
        print(f"  paper       {getattr(loss, 'paper', '') or '-'}")
        print(f"  companions  {companions or 'none'}")
        for option in registry.options(loss).values():
            print(f"  {option.name + '=' + str(option.default):<26}  {registry.describe(option.hint)}")
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
