"""`open-clip-ext doctor`: is the plugin armed, does upstream fit, and can a run start on this node?"""

from __future__ import annotations

import argparse
import contextlib
import io
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence

from open_clip_ext import __version__

GPUS = "GPUs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command; the launcher gives them, a person needs none."""
    parser.add_argument(
        "--quiet", action="store_true", help="Nothing but the first problem, with the node's name."
    )
    parser.add_argument(
        "--no-start-up",
        action="store_true",
        help="The run is started by `python -m open_clip_ext`, which needs no start-up file.",
    )
    parser.add_argument("--nodes", metavar="N", type=int, default=1, help="Nodes of the run.")
    parser.add_argument("--node", metavar="I", type=int, default=0, help="Which of them this is, from 0.")
    parser.add_argument("--processes", metavar="P", type=int, default=1, help="Processes on each node.")
    parser.add_argument(
        "--meet",
        metavar="HOST:PORT",
        help="Where the nodes will meet: node 0 waits there, and all come. Do it on every node at once.",
    )
    parser.add_argument(
        "flags",
        metavar="-- FLAGS",
        nargs=argparse.REMAINDER,
        help="Flags of open_clip_train.main: would that run start here?",
    )


def main(args: argparse.Namespace) -> int:
    """Check and print; 1 if there is a problem."""
    problems = 0
    if not args.quiet:
        from open_clip_ext.host import seams

        print(f"open_clip_ext {__version__}, {seams.upstream()}, Python {sys.version.split()[0]}")
    for what, problem in _checks(args):
        problems += bool(problem)
        if not args.quiet:
            print(f"{'FAIL' if problem else 'ok':<5} {what}{': ' + problem if problem else ''}")
        elif problem:
            print(f"open_clip_ext: {platform.node()}: {what}: {problem}", file=sys.stderr)
            return 1
    if not args.quiet:
        print("all well" if not problems else f"{problems} problem(s): do not train with --loss here")
    return 1 if problems else 0


def _checks(args: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """What is looked at, and what is wrong with it; empty if nothing is."""
    if args.meet:  # first: it takes all nodes, and the imports of some may be slow
        from open_clip_ext.cluster.rendezvous import check_rendezvous

        yield f"rendezvous at {args.meet}", check_rendezvous(args.meet, args.node, args.nodes)
    if not args.no_start_up:
        yield "armed in this interpreter", _unarmed()

    from open_clip_ext import host, registry
    from open_clip_ext.host import seams, signatures

    missing = ", ".join(seams.missing_packages())
    yield "upstream's packages", f"not installed: {missing}; install them with pip" if missing else ""
    adapter, wrong = host.choose(signatures.read)
    for seam in adapter.seams:
        yield f"{seam.module}.{seam.name}", wrong.get(seam, "")
    for name, entry in registry.entries().items():
        try:
            registry.load(name)
            yield f"loss {name}", ""
        except Exception as error:
            yield f"loss {name} ({entry.value})", str(error)
    flags = args.flags[1:] if args.flags[:1] == ["--"] else args.flags
    if flags:
        yield from _run(flags, args, adapter.refused)


def problems(flags: Sequence[str], processes: int) -> Iterator[tuple[str, str]]:
    """What keeps a run with these flags of upstream's from starting here: what was looked at, a sentence."""
    from open_clip_ext import host
    from open_clip_ext.host import signatures

    if unarmed := _unarmed():
        yield "armed in this interpreter", unarmed
        return
    adapter, wrong = host.choose(signatures.read)
    for seam, problem in wrong.items():
        yield f"{seam.module}.{seam.name}", problem
    here = argparse.Namespace(nodes=1, node=0, processes=processes)
    for what, problem in _run(flags, here, adapter.refused):
        if problem:
            yield what, problem


def _unarmed() -> str:
    from open_clip_ext import _startup
    from open_clip_ext.host import seams

    if not _startup.enabled():
        return "OPEN_CLIP_EXT=0 turns it off"
    if not (_startup.armed() or seams.hooked()):
        return "no start-up file was read here; train with `python -m open_clip_ext`"
    return ""


def _run(
    flags: Sequence[str], args: argparse.Namespace, refused: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """Whether a run with these flags of upstream's could start on this node."""
    try:
        from open_clip_ext.host import preflight
    except (ImportError, SyntaxError) as error:
        yield "flags", f"upstream's trainer cannot be imported ({error})"
        return
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            run, settings = preflight.parse(flags, refused)
    except SystemExit:  # with the sentence in its last line
        last = (printed.getvalue().strip().splitlines() or ["they ask for help, not for a run"])[-1]
        yield "flags", last.removeprefix("open_clip_ext: ").rpartition(": error: ")[2]
        return
    yield "flags", ""
    if run.device.startswith("cuda"):
        import torch

        seen = torch.cuda.device_count()
        few = f"torch sees {seen} GPU(s), and {args.processes} process(es) would start; look at the driver"
        yield GPUS, few if seen < args.processes else ""
    problems = list(preflight.problems(run, settings, args.nodes * args.processes))
    for problem in problems or preflight.samples(run, settings):
        yield "run", problem
    if args.node == 0:
        for problem in preflight.checkpoint(run, settings):
            yield "run", problem
