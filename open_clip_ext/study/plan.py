"""`open-clip-ext study plan`: what a study would run, how long that takes, and what it needs on disk."""

from __future__ import annotations

import argparse
from contextlib import chdir

from open_clip_ext.study import folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `study plan`."""
    folder.add_arguments(parser)
    parser.add_argument("--commands", action="store_true", help="print the command of each part that is left")
    parser.add_argument(
        "--measure", action="store_true",
        help="time some steps of trainings whose speed is not known yet, here, with the GPUs that they need",
    )  # fmt: skip
    parser.add_argument(
        "--no-check", action="store_true", help="do not look whether data and benchmarks exist"
    )


def main(args: argparse.Namespace) -> int:
    """Check and print; 1 if the disk would not hold it.

    Raises:
        InputError: the study or its folder is wrong.
        TrainingError: a training could not be timed.
    """
    import shlex

    from open_clip_ext.study import check, disk, measure, parts, results, status

    study, out = folder.opened(args.file, args.out)
    with chdir(study.folder):
        if not args.no_check:
            check.check(study, here=args.measure)
        if args.measure:
            with folder.at_work(study, out):
                measure.measure(study, out)
        chosen = results.chosen(study, out)
        known = parts.every(study, out, chosen)
        print(status.table(known, parts.unknown(study, chosen)))
        for line in status.estimate(study, chosen, known, measure.remembered(out)):
            print(line)
        print(disk.text(study, out))
        if args.commands:
            print(f"\ncd {shlex.quote(str(study.folder))}")
            for part in known:
                if not part.done:
                    print(f"\n# {part.name}\n{shlex.join(part.words)}")
        if problem := disk.problem(study, out):
            print(f"\n{problem}")
            return 1
    return 0
