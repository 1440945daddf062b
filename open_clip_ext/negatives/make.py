"""`negatives make`: captions in, a store of their negatives out."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""


def main(args: argparse.Namespace) -> int:
    """Make the negatives."""
    return 0
