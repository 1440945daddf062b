"""Features by key, in memory and in a folder that several runs and processes may share."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from open_clip_ext.errors import InputError
from open_clip_ext.files import atomic_write


class FeatureStore:
    """Features of pictures or of texts by key.

    In the folder there is one file per batch. Files are written atomically, so a kill loses only the
    current batch, and processes may share the folder. A feature that is there is never replaced.

    Args:
        kind: `pictures` or `texts`.
        folder: None keeps the features in memory alone.

    Raises InputError if the folder cannot be made.
    """

    def __init__(self, kind: str, folder: Path | None) -> None:
        self.kind, self.folder = kind, folder
        self.features: dict[bytes, NDArray[np.float32]] = {}
        self._read: set[str] = set()
        if folder is not None:
            with cache_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
            self.refresh()

    def refresh(self) -> None:
        """Read the files that other processes have written since the last time."""
        if self.folder is not None:
            for path in sorted(self.folder.glob(f"{self.kind}-*.safetensors")):
                if path.name not in self._read:
                    self._read.add(path.name)
                    self._read_file(path)

    def has(self, keys: Sequence[bytes]) -> bool:
        """Whether all of these features are there."""
        return all(key in self.features for key in keys)

    def rows(self, keys: Sequence[bytes]) -> NDArray[np.float32]:
        """The features `[N, D + 1]` of these keys, all of which are there; see `Encoder._forward`."""
        return np.stack([self.features[key] for key in keys])

    def add(self, keys: Sequence[bytes], rows: NDArray[np.float32]) -> int:
        """Keep the features `rows [N, D + 1]` that are not there yet; return how many these are."""
        new = [place for place, key in enumerate(keys) if key not in self.features]
        keys, rows = [keys[place] for place in new], rows[new]
        self.features.update(zip(keys, rows, strict=True))
        if self.folder is not None and new:
            from safetensors.numpy import save

            content: dict[str, NDArray[Any]] = {
                "keys": np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), -1),
                "rows": rows,
            }
            name = f"{self.kind}-{hashlib.sha256(b''.join(keys)).hexdigest()[:32]}.safetensors"
            self._read.add(name)
            with cache_errors(self.folder):
                atomic_write(self.folder / name, lambda part: part.write_bytes(save(content)))
        return len(new)

    def _read_file(self, path: Path) -> None:
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            content = load(path.read_bytes())
            keys, rows = content["keys"], content["rows"]
        except (SafetensorError, KeyError):
            return  # a broken file is ignored: its batch is encoded and written again; and so are older ones
        for key, row in zip((key.tobytes() for key in keys), rows, strict=True):
            self.features.setdefault(key, row)


@contextlib.contextmanager
def cache_errors(folder: Path) -> Iterator[None]:
    """Turn an OSError into an InputError that names the folder."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{folder}: features cannot be kept there ({error.strerror}); name another --cache, or none"
        ) from error
