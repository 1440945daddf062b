"""What is written in more than one file is the same in all of them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from open_clip_ext import __version__

ROOT = Path(__file__).parents[1]


def text(name: str) -> str:
    return (ROOT / name).read_text()


def test_changelog_and_citation_are_of_this_version():
    assert re.search(r"^## (\S+)", text("CHANGELOG.md"), re.MULTILINE).group(1) == __version__
    assert re.search(r"^version: (\S+)", text("CITATION.cff"), re.MULTILINE).group(1) == __version__


def test_pre_commit_and_make_run_the_same_ruff():
    extras = tomllib.loads(text("pyproject.toml"))["project"]["optional-dependencies"]
    (pinned,) = [name for name in extras["test"] if name.startswith("ruff")]
    (hook,) = re.findall(r"ruff-pre-commit\n +rev: v(\S+)", text(".pre-commit-config.yaml"))
    assert pinned == f"ruff=={hook}"


def test_the_oldest_python_is_named_alike():
    project = tomllib.loads(text("pyproject.toml"))
    oldest = project["project"]["requires-python"].removeprefix(">=")
    assert project["tool"]["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"
    assert f"Python {oldest} and later" in text("README.md")
