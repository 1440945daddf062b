"""Winoground (Thrush et al., CVPR 2022; `examples.jsonl` and `images/` of the data set facebook/winoground).

Two pictures and two captions with the same words. 400 items, gated, for research only.
"""

from __future__ import annotations

from pathlib import Path

from open_clip_ext.evaluation.items import Benchmark, Item
from open_clip_ext.evaluation.readers.files import Annotations, picture


def read(*, annotations: Path, images: Path) -> Benchmark:
    """Read it.

    Args:
        annotations: `examples.jsonl`, or its folder.
        images: the pictures, `ex_0_img_0.png` and so on.
    """
    source = Annotations(annotations)
    items = [
        Item(
            str(row["id"]),
            tuple(picture(images, row.text(f"image_{i}"), row.text(f"image_{i}") + ".png") for i in (0, 1)),
            (row.text("caption_0"), row.text("caption_1")),
            "2x2",
            group=str(row.get("collapsed_tag") or row.get("tag") or ""),
        )
        for _, row in source.items("examples.jsonl")
    ]
    averages = ("group micro", "text micro", "image micro", "group macro")
    return Benchmark("winoground", items, averages, source.files)
