"""VALSE (Parcalabescu et al., ACL 2022; Heidelberg-NLP/VALSE, `data/*.json`).

A caption against its foil: eleven instruments for seven phenomena. Only items that at least two of three
annotators found valid count (`mturk.caption >= 2`): 7,702 of 8,782. The score is the paper's `acc_r`.
"""

from __future__ import annotations

from pathlib import Path

from open_clip_ext.evaluation.items import Benchmark, Item
from open_clip_ext.evaluation.readers.files import Annotations, Fields, pair, picture

INSTRUMENTS = (
    "existence", "plurals", "counting-hard", "counting-small-quant", "counting-adversarial", "relations",
    "action-replacement", "actant-swap", "coreference-standard", "coreference-hard", "foil-it",
)  # fmt: skip
# Possible folders of each source's pictures below `images`, besides `images` itself.
FOLDERS = {
    "visual7w": ("visual7w/images", "visual7w"),
    "swig": ("swig/images_512", "SWiG/images_512", "swig", "SWiG"),
    "visdial": ("VisualDialog_val2018", "visdial/VisualDialog_val2018", "train2014", "coco/train2014"),
    "foil": ("val2014", "coco/val2014"),
    "coco": ("val2017", "coco/val2017", "train2017", "coco/train2017"),
}


def read(*, annotations: Path, images: Path, votes: int = 2) -> Benchmark:
    """Read it.

    Args:
        annotations: the folder with `existence.json` and ten more.
        images: a folder with all pictures, or with a folder for each source: `visual7w`, `swig`,
            `VisualDialog_val2018`, `train2014`, `val2014` and `val2017` of COCO.
        votes: how many of three annotators must have chosen the caption as the right one.
    """
    source = Annotations(annotations)
    items: list[Item] = []
    for instrument in INSTRUMENTS:
        for key, row in source.items(f"{instrument}.json"):
            if Fields(row["mturk"], row.where).number("caption") >= votes:
                kind = row.text("dataset").lower()
                folders = next((found for name, found in FOLDERS.items() if name in kind), ())
                name = row.text("image_file")
                shown = picture(images, name, *(f"{folder}/{name}" for folder in folders))
                items.append(pair(row, f"{instrument}/{key}", shown, "caption", "foil", instrument))
    return Benchmark("valse", items, ("valse11", "valse7", "micro"), source.files)
