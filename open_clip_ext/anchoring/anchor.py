"""The model that a run started from, frozen, and what it is asked about."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from open_clip_ext.anchoring import mixing, texts
from open_clip_ext.errors import InputError
from open_clip_ext.teacher import EMATeacher


class Draw(NamedTuple):
    """What was drawn for B samples, and the frozen model's features of it, unit length.

    Attributes:
        sources: of the blocks of pictures, as `mixing.draw` gives them; None if pictures do not count.
        texts: token ids `[B * R, L]`; None if texts do not count.
        features: `anchor_base_image_features [B, D]` and `anchor_base_text_features [B, R, D]`.
    """

    sources: Tensor | None
    texts: Tensor | None
    features: dict[str, Tensor]


class Anchor(nn.Module):
    """A frozen copy of a model, with the pictures and texts on which another one is held to it.

    Args:
        model: not wrapped in DDP or a compiler.
        grid: blocks along a side of a mixed picture; 0 for no pictures.
        reference: token ids `[N, L]` of the reference texts; None for no texts.
        each: reference texts for each sample, R.
    """

    def __init__(self, model: nn.Module, grid: int, reference: Tensor | None, each: int) -> None:
        super().__init__()
        self.base = EMATeacher(model, decay=1.0)  # never updated; what it is there for is the frozen copy
        self.grid, self.reference, self.each = grid, reference, each

    @torch.no_grad()
    def draw(self, images: Tensor) -> Draw:
        """Draw for the pictures `[B, 3, H, W]` of a batch, from torch's generator of the CPU."""
        sources = mixing.draw(len(images), self.grid) if self.grid else None
        ids, features = None, {}
        if sources is not None:
            mixed = mixing.mix(images, sources)
            features["anchor_base_image_features"] = self.module.encode_image(mixed.float(), normalize=True)
        if self.reference is not None:
            rows = torch.randint(len(self.reference), (len(images) * self.each,))
            ids = self.reference[rows].to(images.device)
            features["anchor_base_text_features"] = self._by_sample(
                self.module.encode_text(ids, normalize=True)
            )
        return Draw(sources, ids, features)

    def features(self, model: Any, images: Tensor, drawn: Draw) -> dict[str, Tensor]:
        """What another model makes of it: `anchor_image_features` and `anchor_text_features`."""
        features = {}
        if drawn.sources is not None:
            mixed = mixing.mix(images, drawn.sources)
            features["anchor_image_features"] = model.encode_image(mixed, normalize=True)
        if drawn.texts is not None:
            features["anchor_text_features"] = self._by_sample(model.encode_text(drawn.texts, normalize=True))
        return features

    @property
    def module(self) -> Any:
        """The frozen model."""
        return self.base.module

    def _by_sample(self, features: Tensor) -> Tensor:
        return features.reshape(-1, self.each, features.shape[-1])


def make(model: nn.Module, *, grid: int, each: int, file: str, tokenizer: Any) -> Anchor:
    """The anchor that a loss asks for.

    Args:
        model: that the run starts from.
        grid: as of `Anchor`.
        each: reference texts for each sample; 0 for none.
        file: with one text per line; empty for words of the vocabulary.
        tokenizer: a list of strings to token ids `[N, L]` int64.

    Raises InputError: see `texts`; or if a picture has fewer pixels along a side than blocks.
    """
    size = getattr(model.visual, "image_size", None)  # a number or a pair
    least = min(size) if isinstance(size, Sequence) else size
    if least is not None and grid > least:
        raise InputError(
            f"anchor_grid={grid}: a side of this model's pictures has {least} pixels; give at most as many"
        )
    reference = None
    if each:
        reference = tokenizer(texts.from_file(file) if file else texts.of_words(tokenizer))
        logging.info(
            f"open_clip_ext: anchors hold {len(reference):,} reference texts of {file or 'the vocabulary'}, "
            f"{len(reference.unique(dim=0)):,} of them different to the tokenizer"
        )
    return Anchor(model, grid, reference, each)
