"""Fixtures of the evaluation's tests; what they are made of is in fakes.py."""

from __future__ import annotations

import pytest
from fakes import write_pictures


@pytest.fixture
def pictures(tmp_path) -> list[str]:
    """Eight drawn photos."""
    return write_pictures(tmp_path / "pictures", 8)
