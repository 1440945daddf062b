"""CREPE, productivity (Ma et al., CVPR 2023; RAIVNLab/CREPE, `data/prod_hard_negatives.zip`).

A caption of part of a Visual Genome picture against five or more negatives, for captions of 4 to 12 atoms.
Negatives replace an atom, swap two, or negate. The score is R@1.
"""

from __future__ import annotations

from pathlib import Path

from open_clip_ext.errors import InputError
from open_clip_ext.evaluation.items import Benchmark, Item
from open_clip_ext.evaluation.readers.files import Annotations, picture
from open_clip_ext.texts import parse_texts

KINDS = ("atom", "swap", "negate")
COMPLEXITIES = range(4, 13)


def read(*, annotations: Path, images: Path) -> Benchmark:
    """Read it.

    Args:
        annotations: the folder with `atom`, `swap` and `negate`.
        images: Visual Genome, the folder with `VG_100K` and `VG_100K_2`.
    """
    source = Annotations(annotations)
    items = []
    for kind in KINDS:
        for complexity in COMPLEXITIES:
            file = f"{kind}/prod_vg_hard_negs_{kind}_complexity_{complexity}.csv"
            for key, row in source.table(file):
                try:
                    negatives = parse_texts(row.text("hard_negs"))
                except ValueError as error:
                    raise InputError(f"{row.where}: hard_negs: {error}") from error
                box = (row.number("x"), row.number("y"), row.number("width"), row.number("height"))
                name = f"{row['image_id']}.jpg"
                shown = picture(images, f"VG_100K/{name}", f"VG_100K_2/{name}", name, box=box)
                captions = (row.text("caption"), *negatives)
                items.append(Item(f"{kind}/{complexity}/{key}", (shown,), captions, "i2t", (0,), kind))
    return Benchmark("crepe", items, ("macro", "micro"), source.files)
