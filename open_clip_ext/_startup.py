"""Code that every interpreter runs at start-up. It uses only the standard library and prints nothing.

`arm()` puts a meta-path finder at the head of `sys.meta_path`, used only as a trigger: it never resolves
a module. It waits for the name `open_clip_train.main`, which `python -m`, torchrun and `import` all look
up before upstream's code runs. Then it removes itself and installs the host adapter. A hook after the
import would be too late, because under `python -m` runpy executes upstream's main module without importing
it.
"""

from __future__ import annotations

import os
import sys

ENTRY_POINTS = ("open_clip_train.main", "open_clip_train.legacy_main")


class Trigger:
    """A meta-path finder used only as a trigger; it never resolves a module.

    It installs the plugin when upstream's trainer is looked up.
    """

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Called for every import; must be cheap and must never raise."""
        if name in ENTRY_POINTS:
            disarm()
            install()


def enabled() -> bool:
    """False if the kill switch `OPEN_CLIP_EXT=0` is set."""
    return os.environ.get("OPEN_CLIP_EXT", "1") != "0"


def armed() -> bool:
    """Whether the trigger is in place in this interpreter."""
    return any(
        type(finder).__name__ == "Trigger" and type(finder).__module__ == __name__ for finder in sys.meta_path
    )


def arm() -> None:
    """Put the trigger in place, at most once."""
    if enabled() and not armed():
        sys.meta_path.insert(0, Trigger())


def disarm() -> None:
    """Remove the trigger."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, Trigger)]


def install() -> None:
    """Install the host adapter; also the entry point of a patched upstream (`patches/`).

    Exits instead of raising, because runpy replaces an ImportError from a finder by its own message.
    """
    if not enabled():
        return
    try:
        from open_clip_ext import host

        host.install()
    except Exception as error:
        # A run without `--loss` must not fail because of the plugin.
        message = f"open_clip_ext: could not start ({type(error).__name__}: {error})"
        if any(arg == "--loss" or arg.startswith("--loss=") for arg in sys.argv[1:]):
            print(f"{message}; run `open-clip-ext doctor`", file=sys.stderr)
            sys.exit(2)
        print(f"{message}; training continues without it", file=sys.stderr)
