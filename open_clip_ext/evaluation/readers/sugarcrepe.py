"""SugarCrepe (Hsieh et al., NeurIPS 2023; RAIVNLab/sugar-crepe, `data/*.json`).

A caption of a COCO val2017 photo against one in which an object, attribute or relation is replaced,
swapped or added. The files are dicts whose keys have gaps. The paper averages over all items, CE-CLIP and
DeGLA over the seven subsets, vl_compo over replace, swap and add with all items of each pooled.
"""

from __future__ import annotations

from pathlib import Path

from open_clip_ext.evaluation.items import Benchmark
from open_clip_ext.evaluation.readers.files import Annotations, pair, picture

SUBSETS = ("replace_obj", "replace_att", "replace_rel", "swap_obj", "swap_att", "add_obj", "add_att")


def read(*, annotations: Path, images: Path) -> Benchmark:
    """Read it.

    Args:
        annotations: the folder with `replace_obj.json` and six more.
        images: COCO val2017.
    """
    source = Annotations(annotations)
    items = [
        pair(row, f"{subset}/{key}", shown, "caption", "negative_caption", subset)
        for subset in SUBSETS
        for key, row in source.items(f"{subset}.json")
        for shown in (picture(images, row.text("filename")),)
    ]
    return Benchmark("sugarcrepe", items, ("micro", "macro", "sugarcrepe3"), source.files)
