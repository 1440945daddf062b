"""ComVG (Jiang et al., "ComCLIP", NAACL 2024; eric-ai-lab/ComCLIP, `datasets/ComVG.csv`).

A sentence and two Visual Genome pictures that differ in subject, verb or object. 5,400 items.
"""

from __future__ import annotations

from pathlib import Path

from open_clip_ext.evaluation.items import Benchmark, Item
from open_clip_ext.evaluation.readers.files import Annotations, picture


def read(*, annotations: Path, images: Path) -> Benchmark:
    """Read it.

    Args:
        annotations: `ComVG.csv`, or its folder.
        images: Visual Genome: all pictures, or the folder with `VG_100K` and `VG_100K_2`.
    """
    source = Annotations(annotations)
    items = []
    for _, row in source.table("ComVG.csv"):
        names = [f"{row.text(f'{side}_image_id')}.jpg" for side in ("pos", "neg")]
        shown = tuple(picture(images, f"VG_100K/{n}", f"VG_100K_2/{n}", n) for n in names)
        items.append(Item(row.text("id"), shown, (row.text("sentence"),), "t2i", (0,), row.text("neg_value")))
    return Benchmark("comvg", items, ("micro", "macro"), source.files)
