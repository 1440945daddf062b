"""What all tests of studies need."""

from __future__ import annotations

import pytest

from open_clip_ext import _startup


@pytest.fixture(autouse=True)
def _armed() -> None:
    """As in an interpreter of its own: a run in this process has used the trigger up."""
    _startup.arm()
