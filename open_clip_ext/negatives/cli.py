"""`open-clip-ext negatives`: the commands around a store, each in a module of its own."""

from __future__ import annotations

import argparse
from importlib import import_module

# The command, the module that has its `add_arguments` and `main`, and its line in the help.
COMMANDS = (
    ("make", "make", "make negatives for the captions of a file"),
    ("merge", "merge", "bring the stores of several shards together"),
    ("import", "importers", "bring negatives that others released into a store"),
    ("export", "export", "write a CSV or webdataset shards with the negatives inside"),
    ("stats", "stats", "what is in a store"),
    ("show", "show", "look at a store, in a browser or a terminal"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands."""
    commands = parser.add_subparsers(dest="negatives_command", required=True, metavar="COMMAND")
    for name, module, text in COMMANDS:
        command = commands.add_parser(name, help=text, description=text.capitalize() + ".")
        part = import_module(f"open_clip_ext.negatives.{module}")
        part.add_arguments(command)
        command.set_defaults(call=part.main)
