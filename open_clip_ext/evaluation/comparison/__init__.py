"""Results against each other: paired differences with intervals, a verdict, tables, a page with pictures."""

from __future__ import annotations
