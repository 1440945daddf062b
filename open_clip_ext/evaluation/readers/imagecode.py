"""ImageCoDe (Krojer et al., ACL 2022; McGill-NLP/imagecode): find one of ten similar pictures.

Ten frames of a video, or ten similar photos (`open-images`). vl_compo and the paper use the validation set.
"""

from __future__ import annotations

import re
from pathlib import Path

from open_clip_ext.evaluation.items import Benchmark, Item
from open_clip_ext.evaluation.readers.files import Annotations, Fields, picture


def read(*, annotations: Path, images: Path) -> Benchmark:
    """Read it.

    Args:
        annotations: `valid_data.json`, another split's file, or the folder of the first.
        images: the folder `image-sets`, with a folder of ten pictures per set.
    """
    source = Annotations(annotations)
    items = []
    for name, captions in source.items("valid_data.json"):
        names = _frames(images / name)
        shown = tuple(picture(images, f"{name}/{frame}") for frame in names)
        group = "static" if "open-images" in name else "video"
        row = Fields(captions, captions.where)
        for index in row:
            items.append(
                Item(f"{name}/{index}", shown, (row.text(index).strip(),), "t2i", (int(index),), group)
            )
    return Benchmark("imagecode", items, ("micro", "macro"), source.files)


def _frames(folder: Path) -> list[str]:
    """The file names of a set's pictures by number; the expected names if they are missing."""
    found = [path.name for path in folder.glob("*.jpg")]
    numbered = sorted(found, key=lambda name: int((re.findall(r"\d+", name) or ["0"])[0]))
    return numbered if len(numbered) == 10 else [f"img{i}.jpg" for i in range(10)]
