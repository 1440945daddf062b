"""Companion images on their way through upstream's training loaders, whatever kind of data they read.

Upstream's readers yield one image. Which companions a caption gets is drawn as its sample is read, so that
no other image is opened. Their place is next to that image, in `[1+M, 3, H, W]`, and what goes on to the
collate function is packed: the caption and the texts that were drawn.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from open_clip_ext.data import Companions
from open_clip_ext.errors import InputError
from open_clip_ext.host.loaders.companions import LoaderState, pack, unpack
from open_clip_ext.host.loaders.images import problem
from open_clip_ext.host.loaders.layout import Layout
from open_clip_ext.host.loaders.samples import IMAGES
from open_clip_ext.texts import image_kind


class ImageDraw:
    """Draws the companions of captions, to know which images to open.

    Args:
        state: of the loader; with a store, texts come from there.
    """

    def __init__(self, state: LoaderState) -> None:
        self.collate, self.lookup = state.collate, state.lookup
        self.kinds = [image_kind(kind) for kind in state.collate.images]

    def __call__(self, caption: str, companions: Companions) -> tuple[str, list[str]]:
        """The caption packed with the texts that were drawn, and the M names of images; "": missing."""
        if self.lookup is not None:
            companions = {**companions, **self.lookup(caption)[1]}
        drawn = self.collate.draw(caption, companions)
        names = [name for kind in self.kinds for name in drawn.pop(kind)]
        return pack(caption, drawn), names


def stack(image: Tensor, others: Iterable[Tensor | None]) -> Tensor:
    """`image [3,H,W]` and the M others: `[1+M,3,H,W]`. A missing one is NaN, which no picture is."""
    return torch.stack([image, *(torch.full_like(image, torch.nan) if x is None else x for x in others)])


class ImagesOfRows(Dataset[Any]):
    """Map-style samples with their companion images.

    Args:
        samples: whose texts are packed with their companions.
        layout: of these.
        draw: which companions to take.
        load: the image of a name, transformed; None if it cannot be read and is passed over.
    """

    def __init__(
        self, samples: Any, layout: Layout, draw: ImageDraw, load: Callable[[str], Tensor | None]
    ) -> None:
        self.samples, self.layout, self.draw, self.load = samples, layout, draw, load

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        sample = self.samples[index]
        text, names = self.draw(*unpack(self.layout.text(sample)))
        images = stack(self.layout.image(sample), (self.load(name) if name else None for name in names))
        return self.layout.with_image(self.layout.with_text(sample, text), images)


def load_file(
    transform: Callable[[Any], Tensor], table: Path, skipped: Callable[[int], None] | None, name: str
) -> Tensor | None:
    """A companion image of a CSV file; None if it cannot be read and such images are skipped.

    Args:
        transform: upstream's.
        table: the CSV file.
        skipped: told how many are skipped; None to skip none.
        name: of the image.

    Raises InputError if it cannot be read.
    """
    try:
        return transform(Image.open(name))
    except Exception:
        reason = problem(name, table.parent)
        if not reason:  # then it is not the image's fault, or no longer
            raise
        sentence = f"{table}: companion image {name!r} {reason}"
        if skipped is None:
            raise InputError(
                f"{sentence}; repair it or empty its cell and go on from the last checkpoint, or have such "
                "images count as missing by --skip-broken-images"
            ) from None
        skipped(1)
        logging.warning(f"open_clip_ext: {sentence}; it counts as missing")
        return None


def load_synthetic(transform: Callable[[Any], Tensor], image: Image.Image, name: str) -> Tensor:
    """Whatever the name, the image of all synthetic samples."""
    return transform(image)


class ImagesOfSamples:
    """Decodes the companion images of a webdataset sample; a broken one counts as missing."""

    def __init__(self, transform: Callable[[Any], Tensor], broken: Callable[[int], None]) -> None:
        self.transform, self.broken = transform, broken

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """The sample, its `image` stacked with those that `PackSample` set aside."""
        sample = dict(sample)
        place, contents = sample.pop(IMAGES)
        return {**sample, "image": stack(sample["image"], map(partial(self._load, place), contents))}

    def _load(self, place: str, content: bytes | None) -> Tensor | None:
        if content is None:
            return None
        try:
            with Image.open(io.BytesIO(content)) as image:
                return self.transform(image.convert("RGB"))  # as upstream decodes one
        except Exception as error:
            self.broken(1)
            logging.warning(
                f"open_clip_ext: {place}: a companion image cannot be read ({error}); it counts as missing"
            )
            return None
