"""`open-clip-ext eval compare`: from result folders to a verdict, a Markdown report and an HTML page."""

from __future__ import annotations

import argparse
from pathlib import Path

from open_clip_ext.errors import InputError
from open_clip_ext.evaluation import result_folder
from open_clip_ext.files import write_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `eval compare`."""
    parser.add_argument(
        "results", nargs="+", type=Path, metavar="FOLDER", help="result folders of `eval run`, the base first"
    )
    parser.add_argument(
        "--margin", type=float, default=1.0, metavar="POINTS",
        help="how far zero-shot may fall and still count as preserved, in percentage points "
        "(default: %(default)g)",
    )  # fmt: skip
    parser.add_argument(
        "--published", type=Path, metavar="FILE",
        help="results.csv of ytaek-oh/vl_compo, whose 202 models are drawn as grey points behind the results",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, default=Path("open-clip-ext-comparison"), metavar="FOLDER",
        help="folder for compare.md, compare.html and compare.json (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--no-pictures", action="store_true",
        help="leave images out of the page, if they may not be redistributed",
    )  # fmt: skip


def main(args: argparse.Namespace) -> int:
    """Compare, write the report and the page, and print the first part of the report."""
    if not 0 <= args.margin <= 100:
        raise InputError(f"--margin {args.margin:g}: give percentage points from 0 to 100")
    if args.out.exists() and not args.out.is_dir():
        raise InputError(f"--out {args.out}: not a folder; name another")
    from open_clip_ext.evaluation.comparison import page, paired, report

    found = paired.compare(args.results, args.margin / 100, args.published)
    args.out.mkdir(parents=True, exist_ok=True)
    made = report.parts(found)
    write_text(args.out / "compare.md", report.markdown(found, made))
    write_text(args.out / "compare.html", page.html(found, made, pictures=not args.no_pictures))
    result_folder.write_json(args.out / "compare.json", report.numbers(found))
    print(report.text(made))
    print(f"\n{args.out / 'compare.md'}, compare.html, compare.json")
    return 0
