"""`open-clip-ext study run`: train, evaluate and compare what a file names, and go on where it was."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from open_clip_ext.errors import TrainingError
from open_clip_ext.study import folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `study run`."""
    folder.add_arguments(parser)
    parser.add_argument(
        "--launch", type=Path, metavar="FOLDER",
        help="with --slurm: the project's launch folder (default: that of the installed source, or ./launch)",
    )  # fmt: skip
    parser.add_argument("--after", type=Path, help=argparse.SUPPRESS)  # the stage that the jobs before did
    parser.add_argument(
        "--slurm", nargs=argparse.REMAINDER, metavar="FLAG",
        help="submit the parts as jobs; what follows are flags of sbatch. Give it last",
    )  # fmt: skip


def main(args: argparse.Namespace) -> int:
    """Check, run, report."""
    return run(args.file, args.out, slurm=args.slurm, launch=args.launch, after=args.after)


def run(
    file: Path,
    out: Path | None = None,
    *,
    slurm: Sequence[str] | None = None,
    launch: Path | None = None,
    after: Path | None = None,
) -> int:
    """Check, run, report.

    Args:
        file: the study's.
        out: its folder; None for the file's name without .toml, beside it.
        slurm: flags of sbatch; None runs everything here.
        launch: the project's launch folder.
        after: the stage that the jobs before did.

    Returns:
        0.

    Raises:
        InputError: the study or its folder is wrong.
        TrainingError: a part failed; the others were done.
    """
    from open_clip_ext.study import check, disk, local, page, results
    from open_clip_ext.study import slurm as jobs

    study, out = folder.opened(file, out)
    with folder.at_work(study, out):
        check.check(study, here=slurm is None)
        if problem := disk.problem(study, out):
            print(f"open_clip_ext: {problem}", file=sys.stderr)
        if slurm is None:
            failed = local.run(study, out)
        else:
            tried = jobs.tried(after) if after else []
            if said := jobs.submit(study, out, slurm, (launch or _launch()).resolve(), tried):
                print(said)
                return 0
            failed = jobs.unfinished(study, out, tried)
        found = results.Results(study, out)
        if found.models:
            page.write(found)
            print(f"{page.text(found)}\n\n{out / page.PAGE}, {page.MARKDOWN}")
    if failed:
        raise TrainingError(
            f"{len(failed)} part(s) of the study failed, and are tried again by the next `study run`: "
            + "; ".join(f"{path.name}: {why}" for path, why in failed.items())
        )
    return 0


def _launch() -> Path:
    beside = Path(__file__).parents[2] / "launch"
    return beside if beside.is_dir() else Path("launch")
