"""Arrays that are computed block by block and kept on disk, so that a killed command loses one block."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from open_clip_ext.evaluation.feature_store import cache_errors
from open_clip_ext.files import atomic_write

Array = NDArray[np.float32]


class Blocks:
    """A folder of arrays, each under a name made of all that it depends on.

    Args:
        folder: made if it is not there; None keeps nothing.
        kind: a word for the names of the files.
    """

    def __init__(self, folder: Path | None, kind: str) -> None:
        self.folder, self.kind = folder, kind
        if folder is not None:
            with cache_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)

    def get(self, parts: Iterable[bytes], compute: Callable[[], Array]) -> Array:
        """The array that was kept for `parts`, or that `compute` returns, which is then kept.

        Files are written atomically; a broken one is ignored and written again. Raises InputError if the
        folder cannot be written.
        """
        if self.folder is None:
            return compute()
        digest = hashlib.sha256()
        for part in parts:
            digest.update(len(part).to_bytes(8, "big") + part)
        path = self.folder / f"{self.kind}-{digest.hexdigest()[:32]}.safetensors"
        found = _read(path)
        if found is None:
            from safetensors.numpy import save

            found = compute()
            content: dict[str, Any] = {"rows": np.ascontiguousarray(found)}
            with cache_errors(self.folder):
                atomic_write(path, lambda part: part.write_bytes(save(content)))
        return found


def _read(path: Path) -> Array | None:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return load(path.read_bytes())["rows"]
    except (OSError, SafetensorError, KeyError):
        return None
