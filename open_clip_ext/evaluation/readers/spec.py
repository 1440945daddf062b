"""SPEC (Peng et al., CVPR 2024; wjpoom/SPEC): size, position, existence and count in synthetic pictures.

Six subsets, each in both directions. The position of the right answer varies.
"""

from __future__ import annotations

from pathlib import Path

from open_clip_ext.errors import InputError
from open_clip_ext.evaluation.items import Benchmark, Item, Picture
from open_clip_ext.evaluation.readers.files import Annotations, Fields, picture

SUBSETS = ("absolute_size", "absolute_spatial", "count", "existence", "relative_size", "relative_spatial")


def read(*, annotations: Path, images: Path | None = None) -> Benchmark:
    """Read it.

    Args:
        annotations: the folder with a folder per subset.
        images: a folder of the same structure with the pictures (default: the same folder).
    """
    source = Annotations(annotations)
    items = []
    for subset in SUBSETS:
        folder = (images or annotations) / subset
        for key, row in source.items(f"{subset}/image2text.json"):
            shown: tuple[Picture, ...] = (picture(folder, row.text("query")),)
            truth = (_label(row),)
            items.append(
                Item(f"{subset}/i2t/{key}", shown, tuple(row.texts("keys")), "i2t", truth, f"{subset}/i2t")
            )
        for key, row in source.items(f"{subset}/text2image.json"):
            shown = tuple(picture(folder, name) for name in row.texts("keys"))
            truth = (_label(row),)
            items.append(
                Item(f"{subset}/t2i/{key}", shown, (row.text("query"),), "t2i", truth, f"{subset}/t2i")
            )
    return Benchmark("spec", items, ("macro", "spec_i2t", "spec_t2i", "micro"), source.files)


def _label(row: Fields) -> int:
    label = row["label"]
    if not isinstance(label, int) or not 0 <= label < len(row["keys"]):
        raise InputError(f"{row.where}: label must be an index into keys, not {label!r}")
    return label
