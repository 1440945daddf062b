"""ColorSwap (Burapacheep et al., 2024; `test.json` and `images/` of Top34051/colorswap).

Two pictures and two captions with exchanged colours. 300 items.
"""

from __future__ import annotations

from pathlib import Path

from open_clip_ext.evaluation.items import Benchmark, Item
from open_clip_ext.evaluation.readers.files import Annotations, picture


def read(*, annotations: Path, images: Path) -> Benchmark:
    """Read it.

    Args:
        annotations: `test.json`, or its folder.
        images: the folder with `images`.
    """
    source = Annotations(annotations)
    items = [
        Item(
            str(row["id"]),
            tuple(picture(images, row.text(f"image_{i}"), Path(row.text(f"image_{i}")).name) for i in (1, 2)),
            (row.text("caption_1"), row.text("caption_2")),
            "2x2",
            group=str(row.get("image_source") or ""),
        )
        for _, row in source.items("test.json")
    ]
    return Benchmark("colorswap", items, ("group micro", "text micro", "image micro"), source.files)
