"""CC-Neg (Singh et al., "Learn 'No' to Say 'Yes' Better", WACV 2025; jaisidhsingh/CoN-CLIP).

A caption of CC3M against the same with a part negated. The file has 228 thousand pairs; the last 40,000 are
for evaluation. As in the authors' code, commas are taken out of the negated caption and not of the true one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from open_clip_ext.errors import InputError
from open_clip_ext.evaluation.items import Benchmark, Item
from open_clip_ext.evaluation.readers.files import Annotations, Fields, picture_below

FILE = "ccneg_preprocessed.pt"


def read(*, annotations: Path, images: Path, last: int = 40_000) -> Benchmark:
    """Read it.

    Args:
        annotations: `ccneg_preprocessed.pt`, or its folder.
        images: `ccneg_images`, or the folder `cc3m_subset_images_extracted_final` in it.
        last: how many pairs at the end of the file are read; 0 means all.
    """
    if last < 0:
        raise InputError(f"cc-neg last={last}: give a number of pairs, or 0 for all")
    source = Annotations(annotations)
    content = Fields(source.plain(FILE), str(source.path(FILE)))
    paths, pairs = content.texts("image_paths"), content.entries("annotations")
    if len(paths) != len(pairs):
        raise InputError(f"{content.where}: {len(paths)} image_paths for {len(pairs)} annotations")
    first = max(0, len(paths) - last) if last else 0
    items = [
        _item(number, paths[number], pairs[number], images, f"{content.where}, annotation {number}")
        for number in range(first, len(paths))
    ]
    notes = (
        f"pairs {first} to {len(paths) - 1} of the file",
        "the negated captions have no commas, the true ones have, as in the authors' code",
    )
    return Benchmark("cc-neg", items, ("micro",), source.files, notes)


def _item(number: int, path: str, pair: Any, images: Path, where: str) -> Item:
    row = Fields(pair, where)
    true = Fields(row["json"], f"{where}, json").text("caption")
    negated = Fields(row["sop_data"], f"{where}, sop_data").text("negative-prompt").replace(",", "")
    return Item(str(number), (picture_below(images, path),), (true, negated), "i2t", (0,))
