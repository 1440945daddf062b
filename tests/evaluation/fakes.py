"""Models that see something, everything alike, or nothing at all; an item; drawn photos."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import support
import torch
from torch import Tensor

from open_clip_ext.evaluation.items import Item, Picture


class FakeEncoder:
    """Unit features drawn from a hash of what is encoded; counts what it was asked for."""

    def __init__(self, width: int = 64) -> None:
        self.width = width
        self.encoded: list[object] = []

    def pictures(self, pictures: Sequence[Picture], *, unit: bool = True) -> Tensor:
        return self._features(pictures)

    def texts(self, texts: Sequence[str], *, unit: bool = True) -> Tensor:
        return self._features(texts)

    def _features(self, things: Sequence[object]) -> Tensor:
        self.encoded += things
        return torch.nn.functional.normalize(torch.stack([self._one(t) for t in things]), dim=-1)

    def _one(self, thing: object) -> Tensor:
        seed = int.from_bytes(hashlib.sha256(repr(thing).encode()).digest()[:6], "big")
        return torch.randn(self.width, generator=torch.Generator().manual_seed(seed))


class ConstantEncoder(FakeEncoder):
    """A collapsed model."""

    def _one(self, thing: object) -> Tensor:
        return torch.ones(self.width)


class NaNEncoder(FakeEncoder):
    """A model whose training diverged."""

    def _one(self, thing: object) -> Tensor:
        return torch.full((self.width,), torch.nan)


def pair(
    id: str, group: str = "", picture: str = "a.png", captions: Sequence[str] = ("true", "false")
) -> Item:
    """One picture, its caption and a wrong one."""
    return Item(id, (Picture(picture),), tuple(captions), "i2t", (0,), group)


def write_pictures(folder: Path, count: int) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [str(folder / f"{i}.png") for i in range(count)]
    for path, photo in zip(paths, support.photos(count), strict=True):
        photo.image.save(path)
    return paths
