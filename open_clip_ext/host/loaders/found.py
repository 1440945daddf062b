"""Companions of captions that are looked at before training: what there must be, and how many there are."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from open_clip_ext.data import grouped
from open_clip_ext.errors import InputError
from open_clip_ext.host.loaders import csv_data
from open_clip_ext.texts import IMAGE, image_kind
from open_clip_ext.training.config import Settings
from open_clip_ext.training.kinds import count_flags, one

Texts = Sequence[Sequence[str]]


class Found:
    """Companions of some captions by kind.

    Args:
        settings: of the run.
        texts: of each kind a list for each caption; an empty text is a missing one. Kinds that are
            aligned have those that belong together in the same place. Images are named.
        where: the place of some kinds in the data, for a sentence.
        unit: what a caption stands in, for a sentence that says "any".
        places: how many companions of a kind others may have, whatever these captions have.

    Attributes:
        texts: the same without those that miss their partner.

    Raises InputError if there are none of a kind, or never as many as asked for.
    """

    def __init__(
        self,
        settings: Settings,
        texts: Mapping[str, Texts],
        where: Callable[[Sequence[str]], str],
        unit: str,
        places: Mapping[str, int] | None = None,
    ) -> None:
        wanted = {**settings.companions, **{image_kind(k): n for k, n in settings.images.items()}}
        self.counts = {kind: wanted[kind] for kind in texts}
        self.texts = dict(texts)
        for kind in self.counts:
            if not any(map(count, texts[kind])):
                raise InputError(lacking([kind], where, unit))
        for group in grouped(self.counts, [g for g in settings.aligned if g[0] in texts]):
            self.texts |= _complete({kind: texts[kind] for kind in group})
            first = self.texts[group[0]]
            if not any(map(count, first)):
                raise InputError(lacking(group, where, unit))
            most, count_wanted = max(map(len, first)), self.counts[group[0]]
            if max(most, (places or {}).get(group[0], 0)) < count_wanted:
                raise InputError(
                    f"{where(group)}: {count_flags(group, count_wanted)} is more than any {unit} has "
                    f"({most} at most); give {count_flags(group, most)}"
                )

    def some(self, kind: str) -> int:
        """How many captions have companions of a kind."""
        return sum(count(texts) > 0 for texts in self.texts[kind])

    def summary(self, captions: str = "captions") -> str:
        """How many captions have companions of each kind, and how many they get; for the log."""
        return "; ".join(
            f"{kind}: {self.some(kind)} of {len(texts)} {captions} have some, {self.average(kind)} on average"
            for kind, texts in self.texts.items()
        )

    def average(self, kind: str) -> str:
        """How many of the companions that are wanted of a kind a caption gets in the mean.

        Images are drawn with their texts, so of a caption with more texts they come more seldom.
        """
        texts, wanted = self.texts[kind], self.counts[kind]
        partners = self.texts.get(kind.removesuffix(IMAGE), texts)
        total = 0.0
        for row, others in zip(texts, partners, strict=True):
            places = sum(map(any, itertools.zip_longest(row, others, fillvalue="")))
            total += count(row) * min(1, wanted / max(places, 1))
        return f"{total / len(texts):.2f} of {wanted}"


def in_table(table: Any, settings: Settings, path: str) -> tuple[Found, dict[str, Texts]]:
    """The companions in a table that `csv_data.read` gave of `path`, and all that is there of each kind.

    Raises InputError as `Found`, and for a cell that is no list.
    """
    kinds: dict[str, Texts] = {
        kind: csv_data.text_lists(table, column, path) for kind, column in settings.sources.items()
    }
    for kind, column in settings.image_sources.items():
        kinds[image_kind(kind)] = csv_data.image_lists(table, column, path)

    def place(group: Sequence[str]) -> str:
        columns = " and ".join(repr(settings.keys[kind]) for kind in group)
        return f"{path}, column{'s' if len(group) > 1 else ''} {columns}"

    return Found(settings, kinds, place, "row"), kinds


def lacking(group: Sequence[str], where: Callable[[Sequence[str]], str], unit: str) -> str:
    """The sentence for data without any companion of a kind, or without any of kinds that go together."""
    what = " with its ".join(map(one, group))
    return f"{where(group)}: there is no {what} in any {unit}; make some, or train with --loss clip"


def count(texts: Sequence[str]) -> int:
    """How many of the texts exist."""
    return sum(map(bool, texts))


def _complete(texts: Mapping[str, Texts]) -> dict[str, Texts]:
    """Texts of kinds that are aligned, those blank that miss a partner."""
    if len(texts) == 1:
        return dict(texts)
    blank = ("",) * len(texts)
    rows = [
        [unit if all(unit) else blank for unit in zip(*lists, strict=False)]
        for lists in zip(*texts.values(), strict=True)
    ]
    return {kind: [[unit[i] for unit in row] for row in rows] for i, kind in enumerate(texts)}
