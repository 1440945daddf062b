"""Parts of a picture that a caption names: phrases, and the boxes of what each of them names."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from open_clip_ext.evaluation.items import Benchmark, Box, Picture
from open_clip_ext.evaluation.scorer import Pair


@dataclass(frozen=True)
class Part:
    """A phrase of a caption, and the boxes of what it names; without a box it is the whole picture."""

    text: str
    boxes: tuple[Box, ...] = ()


class Source(Protocol):
    """Where parts come from.

    Attributes:
        left_out: number of boxes that are not used, because they are outside of their picture.
    """

    left_out: int

    def check(self, benchmark: Benchmark) -> None:
        """Raise InputError if there is nothing for the pictures of a benchmark."""

    def of(self, pairs: Sequence[Pair]) -> list[list[Part] | None]:
        """The parts of each pair; None where the source says nothing of it."""


def masked(picture: Picture, boxes: Iterable[Box]) -> Picture:
    """The picture at its full size with all outside of the boxes black; itself without a box in it."""
    return replace(picture, visible=tuple(sorted({box for box in boxes if _meets(box, picture.box)})))


def size(picture: Picture) -> tuple[int, int]:
    """Width and height of a picture's file. Raises InputError if it does not decode."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(picture.read())) as file:
            return file.size
    except Exception as error:  # decoders may raise anything
        raise picture.undecodable(error) from error


def outside(box: Box, of: tuple[int, int]) -> bool:
    """Whether no part of a box is in a file of this size."""
    x, y, w, h = box
    return x + w <= 0 or y + h <= 0 or x >= of[0] or y >= of[1]


def _meets(box: Box, crop: Box | None) -> bool:
    """Whether a box has a pixel in common with the part of the file that is the picture."""
    if crop is None:
        return True
    (x, y, w, h), (left, top, width, height) = box, crop
    across = min(x + w, left + width) - max(x, left)
    down = min(y + h, top + height) - max(y, top)
    return min(across, down) >= 1
