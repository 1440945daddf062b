"""Options that several commands of `open-clip-ext eval` have in common."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from open_clip_ext.errors import InputError


def add_encoding_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say how pictures and captions are encoded."""
    parser.add_argument(
        "--allow-missing",
        action="store_true",
        help="leave out the items whose pictures are not there, and report n of N",
    )
    parser.add_argument(
        "--cache",
        metavar="FOLDER",
        help=f"where features are kept between runs, or `none` (default: {default_cache()})",
    )
    parser.add_argument(
        "--batch-size", type=int, default=64, metavar="N", help="pictures at a time (default: %(default)s)"
    )


def cache_folder(args: argparse.Namespace) -> Path | None:
    """Where features are kept, from the flags of `add_encoding_arguments`."""
    return None if args.cache == "none" else Path(args.cache or default_cache())


def default_cache() -> str:
    """The folder for features of this user."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(root, "open_clip_ext", "features")


def claim(args: argparse.Namespace, file: str = "result.json") -> None:
    """Refuse a batch of no picture, and a place where a result would be lost or cannot be written."""
    if args.batch_size < 1:
        raise InputError(f"--batch-size {args.batch_size}: give at least 1")
    if args.out.exists() and not args.out.is_dir():
        raise InputError(f"--out {args.out}: not a folder; name another")
    if (args.out / file).exists():
        raise InputError(f"--out {args.out}: holds a result already; name another folder, or remove it")
