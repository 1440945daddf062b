"""What a benchmark costs: how many pictures and texts a model has to encode for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from open_clip_ext.evaluation.items import Encoder, Item, Picture

if TYPE_CHECKING:
    from torch import Tensor


class Asked:
    """An encoder that counts the different pictures and texts that it is asked for."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._pictures: set[Picture] = set()
        self._texts: set[str] = set()

    def pictures(self, pictures: Sequence[Picture], *, unit: bool = True) -> Tensor:
        """Features `[N, D]`."""
        self._pictures.update(pictures)
        return self._encoder.pictures(pictures, unit=unit)

    def texts(self, texts: Sequence[str], *, unit: bool = True) -> Tensor:
        """Features `[N, D]`."""
        self._texts.update(texts)
        return self._encoder.texts(texts, unit=unit)

    def counts(self) -> dict[str, int]:
        """How many of each."""
        return {"pictures": len(self._pictures), "texts": len(self._texts)}


def plain(items: Sequence[Item]) -> dict[str, int]:
    """How many of each the items have: what the plain scorer needs."""
    pictures = {picture for item in items for picture in item.pictures}
    captions = {caption for item in items for caption in item.captions}
    return {"pictures": len(pictures), "texts": len(captions)}


def told(result: Mapping[str, Any]) -> str:
    """The cost of a result in words, with what its scorer counted."""
    cost = result["cost"]
    need, without = (f"{c['pictures']:,} pictures and {c['texts']:,} texts" for c in (cost, cost["plain"]))
    counts = "".join(f"; {name}: {value:,}" for name, value in result["counts"].items())
    return f"{need} to encode, {without} without the scorer{counts}"
