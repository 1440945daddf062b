"""Features of all pictures of a data set under a model."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from open_clip_ext.errors import InputError
from open_clip_ext.evaluation import options
from open_clip_ext.evaluation.encode import WORKERS, Encoder, digest, fingerprint
from open_clip_ext.evaluation.items import Picture
from open_clip_ext.evaluation.models import Loaded
from open_clip_ext.mining.blocks import Array, Blocks

BLOCK = 1024  # pictures, or captions


class Model:
    """A model, the folder of its features, and encoders that forget what they have encoded.

    Args:
        loaded: the model.
        args: with the flags of `evaluation.options` and the precision.
    """

    def __init__(self, loaded: Loaded, args: argparse.Namespace) -> None:
        self.loaded, self.precision, self.batch = loaded, args.precision, args.batch_size
        cache = options.cache_folder(args)
        self.folder = cache / fingerprint(loaded.model, loaded.preprocess, args.precision) if cache else None

    def encoder(self) -> Encoder:
        """A new encoder: what an old one has encoded would fill the memory."""
        return Encoder(
            self.loaded.model,
            self.loaded.preprocess,
            self.loaded.tokenizer,
            precision=self.precision,
            batch=self.batch,
        )

    def pictures(self, pictures: Sequence[Picture]) -> tuple[Array, list[bytes]]:
        """Unit-length features `[N, D]` of all pictures, and the sha256 of each file.

        They are kept block by block. Raises InputError if a picture cannot be read, does not decode, or has
        features that are not finite.
        """
        blocks = Blocks(self.folder, "picture-block")
        features: Array = np.empty((0, 0), np.float32)
        digests: list[bytes] = []
        with (
            ThreadPoolExecutor(WORKERS) as pool,
            tqdm(total=len(pictures), desc="pictures", unit="picture", disable=None) as bar,
        ):
            for at in range(0, len(pictures), BLOCK):
                part = pictures[at : at + BLOCK]
                hashes = list(pool.map(digest, part))
                rows = blocks.get(hashes, self._encode(part))
                if not at:
                    features = np.empty((len(pictures), rows.shape[1]), np.float32)
                features[at : at + len(part)] = rows
                digests += hashes
                bar.update(len(part))
        return features, digests

    def _encode(self, part: Sequence[Picture]) -> Callable[[], Array]:
        return lambda: self.encoder().pictures(part).numpy()


def present(paths: Sequence[str], allow_missing: bool) -> list[str]:
    """Those of the picture files that are there.

    Raises InputError if none is, or if one is not and that is not allowed.
    """
    there = [path for path in paths if Path(path).is_file()]
    if len(there) == len(paths):
        return there
    gone = next(path for path in paths if not Path(path).is_file())
    count = f"{len(paths) - len(there):,} of {len(paths):,} pictures are not there, such as {gone}"
    if not there:
        raise InputError(f"{count}; name their folder with --images")
    if not allow_missing:
        raise InputError(f"{count}; name their folder with --images, or leave them out with --allow-missing")
    return there
