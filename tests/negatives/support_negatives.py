"""What several tests of negatives share: a third party's generator, and stores compared by content."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from open_clip_ext.negatives.store import Store

ENTRY_POINTS = "[open_clip_ext.negatives]\n{name} = {module}:{class_name}\n"


def install(folder: Path, name: str, source: str, class_name: str) -> dict[str, str]:
    """A package of a third party with one generator; the environment in which it is installed."""
    module = f"their_{name.replace('-', '_')}"
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / f"{module}.py").write_text(source)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        ENTRY_POINTS.format(name=name, module=module, class_name=class_name)
    )
    return {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "open_clip_ext.cli", "negatives", *map(str, arguments)]


def run(
    *arguments: object, env: Mapping[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), env=env, capture_output=True, text=True, timeout=300, check=False, **options
    )


def sentence(finished: subprocess.CompletedProcess[str]) -> str:
    """The one sentence on which a command ended."""
    last = finished.stderr.strip().splitlines()[-1]
    assert last.startswith("open_clip_ext: "), finished.stderr
    return last.removeprefix("open_clip_ext: ")


def content(path: Path) -> tuple[Any, ...]:
    """All that a store says, whatever the order of writing."""
    store = Store.open(path)
    return (
        sorted((caption, images, texts) for caption, images, texts in store.entries()),
        store.generators(),
        store.tally(),
    )
