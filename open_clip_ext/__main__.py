"""`python -m open_clip_ext ...` is `python -m open_clip_train.main ...` with the plugin installed.

For cases in which Python does not read start-up files: `python -S`, `PYTHONPATH`, `pip install --target`.
"""

from __future__ import annotations

import runpy
import sys

from open_clip_ext import _startup

if __name__ == "__main__":
    if not _startup.enabled():
        print(
            "open_clip_ext: OPEN_CLIP_EXT=0 turns the plugin off; unset it, or run open_clip_train.main",
            file=sys.stderr,
        )
        sys.exit(2)
    _startup.arm()
    runpy.run_module("open_clip_train.main", run_name="__main__", alter_sys=True)
