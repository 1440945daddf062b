"""Hard positives (Kamath et al., ECCV 2024; amitakamath/hard_positives, `data/` and `swapped_data/`).

A caption, an edit that keeps its meaning, and one that does not. `micro` is the paper's augmented test
accuracy (both above the wrong one), `original micro` its original test accuracy, and `brittleness micro`
its brittleness (one above and one below; lower is better). The paper's REPLACE is the mean of attributes
and relations.
"""

from __future__ import annotations

from pathlib import Path

from open_clip_ext.errors import InputError
from open_clip_ext.evaluation.items import Benchmark, Item
from open_clip_ext.evaluation.readers.files import Annotations, Fields, picture

FILES = {
    "swap": "visual_genome_attribution.json",
    "replace_att": "vl_checklist_attributes.json",
    "replace_rel": "vl_checklist_relations.json",
}


def read(*, annotations: Path, images: Path) -> Benchmark:
    """Read it.

    Args:
        annotations: the folder with `data` and `swapped_data`.
        images: the folder with Visual Genome's `VG_100K` and `VG_100K_2`, and with the pictures of
            ARO's `vgr_vga_images.zip` for the swaps.
    """
    source = Annotations(annotations)
    items = []
    for group, file in FILES.items():
        original = list(source.items(f"data/{file}"))
        edited = [row for _, row in source.items(f"swapped_data/{file}")]
        if len(original) != len(edited):
            raise InputError(
                f"{annotations}: data/{file} has {len(original)} items, swapped_data/ {len(edited)}"
            )
        for (key, row), edit in zip(original, edited, strict=True):
            captions = (row.text("true_caption"), edit.text("true_caption"), edit.text("false_caption"))
            items.append(
                Item(f"{group}/{key}", (_picture(images, row),), captions, "multi-pos", (0, 1), group)
            )
    averages = ("hardpos2", "original hardpos2", "brittleness hardpos2", "micro")
    notes = ("brittleness: lower is better; a tie makes an item brittle",)
    return Benchmark("hard-positives", items, averages, source.files, notes)


def _picture(images: Path, row: Fields):  # type: ignore[no-untyped-def]
    path = row.text("image_path").removeprefix("data/")
    box = tuple(row.number(f"bbox_{side}") for side in "xywh") if "bbox_x" in row else None
    return picture(images, path, Path(path).name, f"images/{path}", box=box)  # type: ignore[arg-type]
