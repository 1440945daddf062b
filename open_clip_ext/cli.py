"""`open-clip-ext`: parse, call, print."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from open_clip_ext import __version__
from open_clip_ext.errors import reported


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
    doctor.set_defaults(call=_doctor)
    demo = commands.add_parser("demo", help="the embedded example, end to end")
    from open_clip_ext.demo import run as demo_run

    demo_run.add_arguments(demo)
    demo.set_defaults(call=demo_run.main)
    negatives = commands.add_parser("negatives", help="make, import, look at and export hard negatives")
    from open_clip_ext.negatives import cli as negatives_cli

    negatives_cli.add_arguments(negatives)

    args = parser.parse_args(argv)
    with reported():
        return int(args.call(args))


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


def _doctor(args: argparse.Namespace) -> int:
    from open_clip_ext import _startup, registry
    from open_clip_ext.host import seams

    problems = 0

    def check(what: str, problem: str) -> None:
        nonlocal problems
        problems += bool(problem)
        print(f"{'FAIL' if problem else 'ok':<5} {what}{': ' + problem if problem else ''}")

    print(f"open_clip_ext {__version__}, {seams.upstream()}, Python {sys.version.split()[0]}")
    if not _startup.enabled():
        unarmed = "OPEN_CLIP_EXT=0 turns it off"
    elif not (_startup.armed() or seams.hooked()):
        unarmed = "no start-up file was read here; train with `python -m open_clip_ext`"
    else:
        unarmed = ""
    check("armed in this interpreter", unarmed)
    for seam in seams.SEAMS:
        check(f"{seam.module}.{seam.name}", seam.misfit())
    for name, entry in registry.entries().items():
        try:
            registry.load(name)
            check(f"loss {name}", "")
        except Exception as error:
            check(f"loss {name} ({entry.value})", str(error))
    print("all well" if not problems else f"{problems} problem(s): do not train with --loss here")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
