"""`negatives merge`: one store of the shards of an array job."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("out", type=Path, metavar="OUT", help="the store to make, or to add to")
    parser.add_argument("shards", type=Path, nargs="+", metavar="STORE", help="the stores to bring together")


def main(args: argparse.Namespace) -> int:
    """Merge; repeating it changes nothing."""
    from open_clip_ext.negatives.store import Store, merge

    came, there = merge(args.out, args.shards)
    print(
        f"{args.out}: {came} entries came from {len(args.shards)} stores, {there} were there already; "
        f"{len(Store.open(args.out))} captions"
    )
    return 0
