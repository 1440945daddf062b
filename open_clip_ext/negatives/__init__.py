"""Hard negatives of captions: made, imported, stored, looked at, and looked up while training."""

from __future__ import annotations
