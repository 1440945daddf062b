"""Scorers other than the plain one, and where the parts of pictures that they look at come from."""

from __future__ import annotations
