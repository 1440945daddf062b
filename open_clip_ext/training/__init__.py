"""A `--loss` run: what it was asked for, what it keeps between steps, how its ranks stay together.

Nothing here names upstream's trainer; `open_clip_ext.host` leads it in there.
"""

from __future__ import annotations
