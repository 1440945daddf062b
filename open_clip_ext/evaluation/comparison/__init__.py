"""Compare results: paired differences with intervals, a verdict, tables, an HTML page with pictures."""

from __future__ import annotations
