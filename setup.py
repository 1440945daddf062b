"""Packaging: pyproject.toml holds the metadata; this adds two start-up files beside the package.

`open_clip_ext.pth` (read by every Python) and `open_clip_ext.start` (PEP 829, Python 3.15 and on,
where it replaces the first) arm a finder that waits until `open_clip_train.main` is asked for.
"""

from __future__ import annotations

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

STARTUP_FILES = {
    # One line, as site requires. Whatever goes wrong, the interpreter must start as without us.
    "open_clip_ext.pth": 'import sys; exec("try:\\n from open_clip_ext._startup import arm; arm()'
    '\\nexcept Exception: pass")\n',
    "open_clip_ext.start": "open_clip_ext._startup:arm\n",
}


class BuildPyWithStartup(build_py):
    """Puts the start-up files at the root of the wheel, of an editable one too (PEP 660)."""

    def run(self) -> None:
        """Build the package, then write the files."""
        super().run()
        # An editable build collects its extra files from where `install` would put them.
        editable = getattr(self, "editable_mode", False)
        root = self.get_finalized_command("install").install_lib if editable else self.build_lib
        Path(root).mkdir(parents=True, exist_ok=True)
        for name, text in STARTUP_FILES.items():
            (Path(root) / name).write_text(text, encoding="utf-8")


setup(cmdclass={"build_py": BuildPyWithStartup})
