"""Upstream's training loaders with companion texts, resumable in the middle of an epoch, by kind of data."""

from __future__ import annotations
