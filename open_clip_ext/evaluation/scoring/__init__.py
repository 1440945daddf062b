"""From similarities to scores: composition, classification and retrieval; averages and intervals."""

from __future__ import annotations
