"""A study's page."""

from __future__ import annotations

from open_clip_ext.files import write_text
from open_clip_ext.study import report
from open_clip_ext.study.results import Results

FILE = "study.md"


def write(found: Results) -> None:
    """Write the report into the study's folder."""
    write_text(found.out / FILE, report.markdown(found))


def text(found: Results) -> str:
    """For a terminal."""
    return report.text(found)
