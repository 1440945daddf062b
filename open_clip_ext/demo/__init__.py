"""The embedded example: compares the losses by training in a small world of drawn images.

`open-clip-ext demo` runs it (`run.py`). Importing this package is cheap.
"""

from __future__ import annotations
