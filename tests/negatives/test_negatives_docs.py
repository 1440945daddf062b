"""The commands in the docs on negatives are ones that there are."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pytest

from open_clip_ext import plugins
from open_clip_ext.negatives import cli
from open_clip_ext.negatives.llm import DeGLA
from open_clip_ext.negatives.records import GROUP

DOCS = Path(__file__).parents[2] / "docs"
COMMANDS = [
    (page.name, command.replace("\\\n", " "))
    for page in sorted(DOCS.glob("negatives*.md"))
    for command in re.findall(
        r"^ {4}(open-clip-ext negatives (?:.*\\\n)*.*)$", page.read_text(), re.MULTILINE
    )
]


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_a_command_in_the_docs_can_be_called(page, command):
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    words = shlex.split(command, comments=True)[2:]
    args = parser.parse_args(words)
    if recipe := getattr(args, "recipe", None):
        generator = plugins.load(plugins.entries(GROUP), recipe, "--recipe", "generator")
        plugins.parse_options(plugins.options(generator), args.cfg, "--cfg", recipe)


def test_there_are_commands():
    assert {page for page, _ in COMMANDS} >= {"negatives-llm.md", "negatives-looking.md"}


def test_the_options_of_degla_are_all_in_its_table():
    table = re.findall(r"^\| (`.*?) \|", (DOCS / "negatives-llm.md").read_text(), re.MULTILINE)
    named = set(re.findall(r"`(\w+)`", " ".join(table)))
    assert named == {name for name in plugins.options(DeGLA) if name != "seed"}
