"""What every interpreter runs at start-up, so: standard library only, and silent.

`arm()` puts a finder at the head of `sys.meta_path` that finds nothing. It waits for one name,
`open_clip_train.main`, which `python -m`, torchrun and `import` all ask for before upstream's code
runs. Then it steps aside and installs the host adapter. A hook after the import would come too
late: under `python -m` upstream's main module is executed by runpy and never passes through an
import.
"""

from __future__ import annotations

import os
import sys

ENTRY_POINTS = ("open_clip_train.main", "open_clip_train.legacy_main")


class Trigger:
    """A finder that finds nothing and installs the plugin when upstream's trainer is asked for."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Called for every import; must be cheap and must never raise."""
        if name in ENTRY_POINTS:
            disarm()
            install()


def enabled() -> bool:
    """False under the kill switch `OPEN_CLIP_EXT=0`."""
    return os.environ.get("OPEN_CLIP_EXT", "1") != "0"


def armed() -> bool:
    """Whether the trigger waits in this interpreter."""
    return any(
        type(finder).__name__ == "Trigger" and type(finder).__module__ == __name__ for finder in sys.meta_path
    )


def arm() -> None:
    """Put the trigger in place, once."""
    if enabled() and not armed():
        sys.meta_path.insert(0, Trigger())


def disarm() -> None:
    """Take the trigger out."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, Trigger)]


def install() -> None:
    """Install the host adapter; also the entry point of a patched upstream (`patches/`).

    Exits rather than raises: runpy turns an ImportError that escapes from a finder into a message
    of its own.
    """
    if not enabled():
        return
    try:
        from open_clip_ext import host

        host.install()
    except Exception as error:
        # A run that did not ask for us must not suffer from us.
        message = f"open_clip_ext: could not start ({type(error).__name__}: {error})"
        if any(arg == "--loss" or arg.startswith("--loss=") for arg in sys.argv[1:]):
            print(f"{message}; run `open-clip-ext doctor`", file=sys.stderr)
            sys.exit(2)
        print(f"{message}; training goes on without it", file=sys.stderr)
