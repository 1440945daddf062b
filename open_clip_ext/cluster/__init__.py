"""Commands for a cluster: what is wrong on a node before a run starts there, and what a run will send."""

from __future__ import annotations
