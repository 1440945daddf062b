"""The embedded example: a small drawn world in which the losses are compared by training.

`open-clip-ext demo` runs it (`run.py`). Nothing heavy is imported here.
"""

from __future__ import annotations
