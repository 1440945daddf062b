"""ARO (Yuksekgonul et al., ICLR 2023; mertyg/vision-language-models-are-bows).

VG-Relation and VG-Attribution: "the horse eats the grass" against "the grass eats the horse", on the
part of a Visual Genome picture that shows both. The primary score is not plain accuracy: symmetric or rare
relations, and attribute pairs with fewer than 25 items, do not count (the authors' notebook).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from open_clip_ext.evaluation.items import Benchmark, Item
from open_clip_ext.evaluation.readers.files import Annotations, Fields, picture


def relation(*, annotations: Path, images: Path) -> Benchmark:
    """Read VG-Relation.

    Args:
        annotations: the folder with `visual_genome_relation.json`, or that file.
        images: the pictures of the authors' `vgr_vga_images.zip`.
    """
    return _read(
        "aro-vg-relation", annotations, images, "visual_genome_relation.json", "aro_vgr",
        lambda row: row.text("relation_name"),
    )  # fmt: skip


def attribution(*, annotations: Path, images: Path) -> Benchmark:
    """Read VG-Attribution.

    Args:
        annotations: the folder with `visual_genome_attribution.json`, or that file.
        images: the pictures of the authors' `vgr_vga_images.zip`.
    """
    return _read(
        "aro-vg-attribution", annotations, images, "visual_genome_attribution.json", "aro_vga",
        lambda row: "_".join(row.texts("attributes")),
    )  # fmt: skip


def _read(
    name: str, annotations: Path, images: Path, file: str, headline: str, group: Callable[[Fields], str]
) -> Benchmark:
    source = Annotations(annotations)
    items = []
    for key, row in source.items(file):
        x, y, w, h = (row.number(f"bbox_{side}") for side in "xywh")
        shown = picture(images, row.text("image_path"), box=(x, y, w, h))
        # In the authors' order, which decides ties under --compat aro.
        captions = (row.text("false_caption"), row.text("true_caption"))
        items.append(Item(key, (shown,), captions, "i2t", (1,), group(row)))
    return Benchmark(name, items, (headline, "macro", "micro"), source.files)
