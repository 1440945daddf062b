"""What a run changes in upstream's model: its forward pass, the length of its texts, its weights."""

from __future__ import annotations
