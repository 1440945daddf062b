"""How similar the negatives of a store are to the pictures of their captions, under a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from open_clip_ext.mining.blocks import Array, Blocks
from open_clip_ext.mining.features import Model
from open_clip_ext.mining.selection import negatives
from open_clip_ext.negatives.rewrite import Entry


class Scorer:
    """Compares the negatives of captions with their pictures.

    Args:
        model: encodes texts.
        features: of the pictures, `[N, D]`.
        digests: the sha256 of each picture file.
        rows: the row of each picture by its name.
    """

    def __init__(
        self, model: Model, features: Array, digests: Sequence[bytes], rows: Mapping[str, int]
    ) -> None:
        self.model, self.features, self.digests, self.rows = model, features, digests, rows
        self._blocks = Blocks(model.folder, "score-block")

    def __call__(self, block: Sequence[Entry]) -> list[Array | None]:
        """The scores of the K valid negatives of each caption; None if none of its pictures is there.

        They are `[K, 2]`: similarity of the negative and of the caption to the picture. Of several pictures
        of one caption that one counts which the negative fits best, compared with the caption. The scores
        of a block are kept on disk: another rule, or the same after a kill, encodes no text again.
        """
        pictures = [[self.rows[image] for image in images if image in self.rows] for _, images, _ in block]
        texts = [[caption, *(text.text for text in negatives(its))] for caption, _, its in block]
        parts = [
            part
            for its, rows in zip(texts, pictures, strict=True)
            for part in (*(text.encode() for text in its), *(self.digests[row] for row in rows), b"")
        ]
        flat = self._blocks.get(parts, lambda: self._scores(texts, pictures))
        found: list[Array | None] = []
        at = 0
        for its, rows in zip(texts, pictures, strict=True):
            count = len(its) - 1 if rows else 0
            found.append(flat[at : at + count] if rows else None)
            at += count
        return found

    def _scores(self, texts: Sequence[Sequence[str]], pictures: Sequence[Sequence[int]]) -> Array:
        wanted = [(its, rows) for its, rows in zip(texts, pictures, strict=True) if rows and len(its) > 1]
        if not wanted:
            return np.empty((0, 2), np.float32)
        encoded = self.model.encoder().texts([text for its, _ in wanted for text in its]).numpy()
        found, at = [], 0
        for its, rows in wanted:
            found.append(similarities(self.features[rows], encoded[at], encoded[at + 1 : at + len(its)]))
            at += len(its)
        return np.concatenate(found)


def similarities(pictures: Array, caption: Array, texts: Array) -> Array:
    """Similarity of each negative, and of the caption, to the picture that speaks most for the negative.

    Args:
        pictures: unit-length features of the caption's pictures, `[P, D]`.
        caption: the caption's, `[D]`.
        texts: those of its negatives, `[K, D]`.

    Returns:
        `[K, 2]`.
    """
    own, theirs = pictures @ caption, pictures @ texts.T  # [P], [P, K]
    best = (theirs - own[:, None]).argmax(0)
    return np.stack([theirs[best, np.arange(len(texts))], own[best]], 1).astype(np.float32)
