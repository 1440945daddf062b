"""Pictures unlike those of a batch, put together of its blocks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor


def draw(batch: int, grid: int) -> Tensor:
    """Which picture each block is taken from: `[grid, grid, batch]` int64, from torch's generator of the CPU.

    That generator, so that a run draws the same on any device.
    """
    return torch.randint(batch, (grid, grid, batch))


def mix(images: Tensor, sources: Tensor) -> Tensor:
    """Pictures `[B, 3, H, W]` in whose block (r, c), picture b is `images[sources[r, c, b]]`.

    A side that cannot be cut into equal parts is cut as equally as possible.
    """
    sources = sources.to(images.device)
    rows, columns = (
        _parts(size, cells) for size, cells in zip(images.shape[-2:], sources.shape, strict=False)
    )
    mixed = torch.empty_like(images)
    for across, chosen in zip(rows, sources, strict=True):
        for along, source in zip(columns, chosen, strict=True):
            mixed[:, :, across, along] = images[:, :, across, along][source]
    return mixed


def _parts(size: int, parts: int) -> Sequence[slice]:
    edges = [round(part * size / parts) for part in range(parts + 1)]
    return [slice(start, end) for start, end in pairwise(edges)]
