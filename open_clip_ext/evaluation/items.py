"""Benchmarks and their items. An item is a few pictures and captions, and which of them belong together.

A reader turns official files into a `Benchmark`. All later steps depend only on items.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from open_clip_ext.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

GROUP = "open_clip_ext.benchmarks"

Kind = Literal["i2t", "t2i", "2x2", "multi-pos", "text"]
# A row of a benchmark's JSONL, see docs/evaluation.md.
Row = dict[str, Any]
Box = tuple[float, float, float, float]  # x, y, width, height in pixels of the file


@dataclass(frozen=True)
class Picture:
    """A picture file, or the part of it in `box`.

    Where `visible` has boxes, all outside of their union is black.

    Pictures that are not separate files (in a tar file, in an array) are subclasses, see `stored`.
    """

    path: str
    box: Box | None = None
    visible: tuple[Box, ...] = ()

    def exists(self) -> bool:
        """Whether the picture exists."""
        return os.path.isfile(self.path)

    def read(self) -> bytes:
        """The whole picture in its stored encoding (JPEG, PNG, ...)."""
        return Path(self.path).read_bytes()

    def undecodable(self, error: Exception) -> InputError:
        """The error for a picture on which a decoder failed."""
        why = str(error).partition(" <_io.")[0]  # Pillow shows the object that it read from
        return InputError(f"{self.path}: does not decode as a picture ({why})")


@dataclass(frozen=True)
class Item:
    """One question to a model.

    Attributes:
        id: unique in its benchmark.
        pictures: P pictures.
        captions: C captions.
        kind: `i2t`: each picture has to find its caption. `t2i`: each caption has to find its picture.
            `2x2`: picture i belongs to caption i. `multi-pos`: every true caption has to be nearer to the
            picture than every false one. `text`: no picture; the first two captions mean the same and
            have to be nearer to each other than either is to the third.
        truth: `i2t`: the index of each picture's caption, `[P]`. `t2i`: the index of each caption's
            picture, `[C]`. `multi-pos`: the indices of the true captions. Otherwise empty.
        group: the subset of the benchmark.
    """

    id: str
    pictures: tuple[Picture, ...]
    captions: tuple[str, ...]
    kind: Kind
    truth: tuple[int, ...] = ()
    group: str = ""


class Encoder(Protocol):
    """What scoring needs from a model: fp32 features, one row per input, of unit length if `unit`."""

    def pictures(self, pictures: Sequence[Picture], *, unit: bool = True) -> Tensor:
        """Features `[N, D]`."""
        ...

    def texts(self, texts: Sequence[str], *, unit: bool = True) -> Tensor:
        """Features `[N, D]`."""
        ...


# From a model and the items of a benchmark to a row per item.
Score = Callable[..., list[Row]]


@dataclass(frozen=True)
class Benchmark:
    """Items and the averages over them.

    Attributes:
        name: as registered.
        items: at least one; ids are unique.
        aggregations: names for `aggregate.plan`, the primary one first.
        files: the annotation files that were read, with their sha256.
        notes: caveats for the reader of the scores.
        family: the ability that it measures: composition, zero-shot, retrieval, or one that it names itself.
            The scores of a family are averaged.
        score: computes the rows of an encoder and items; None means `composition.rows`. If it has a keyword
            `scorer`, it makes them from the similarities of that `scorer.Chosen`.
    """

    name: str
    items: Sequence[Item]
    aggregations: tuple[str, ...]
    files: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    family: str = "composition"
    score: Score | None = None

    def __post_init__(self) -> None:
        """Raises InputError if there is no item, or two have the same id."""
        if not self.items:
            raise InputError(f"{self.name}: no item in {', '.join(self.files) or 'its files'}")
        seen: set[str] = set()
        for item in self.items:
            if item.id in seen:
                raise InputError(f"{self.name}: two items have the id {item.id!r}")
            seen.add(item.id)
