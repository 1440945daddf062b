"""How companion texts are made: a recipe per file, each an entry point of `open_clip_ext.negatives`."""

from __future__ import annotations
