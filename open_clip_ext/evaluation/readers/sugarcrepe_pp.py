"""SugarCrepe++ (Dumpala et al., NeurIPS 2024 Datasets and Benchmarks; Sri-Harsha/scpp, `data/*.json`).

Two captions with the same meaning and one with another. `micro` and `macro` are the paper's image-to-text
score: both captions above the negative. `text-only` is its text score: the two captions closer to each
other than either is to the negative.
"""

from __future__ import annotations

from pathlib import Path

from open_clip_ext.evaluation.items import Benchmark, Item
from open_clip_ext.evaluation.readers.files import Annotations, picture

SUBSETS = ("replace_obj", "replace_att", "replace_rel", "swap_obj", "swap_att")


def read(*, annotations: Path, images: Path) -> Benchmark:
    """Read it.

    Args:
        annotations: the folder with `replace_obj.json` and four more.
        images: COCO val2017.
    """
    source = Annotations(annotations)
    items: list[Item] = []
    same = 0
    for subset in SUBSETS:
        for _, row in source.items(f"{subset}.json"):
            captions = tuple(row.text(key) for key in ("caption", "caption2", "negative_caption"))
            same += captions[2] in captions[:2]
            key = f"{subset}/{row['id']}"
            shown = picture(images, row.text("filename"))
            items.append(Item(key, (shown,), captions, "multi-pos", (0, 1), subset))
            items.append(Item(f"{key}/text", (), captions, "text", (), subset))
    notes = (f"{same} items have a negative that equals a caption; they cannot be won",) if same else ()
    averages = ("macro", "micro", "original macro", "text-only macro", "text-only micro")
    return Benchmark("sugarcrepe-pp", items, averages, source.files, notes)
