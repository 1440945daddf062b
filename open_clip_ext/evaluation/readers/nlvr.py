"""NLVR (Suhr et al., ACL 2017; lil-lab/nlvr): a sentence that is true or false of synthetic pictures.

The original task is to judge a single picture, which would need a threshold for the similarity. Here the
sentence has to be nearer to a picture of which it is true than to one of which it is false, for every such
pair of pictures. This is a convention of this package; there is no published one.
"""

from __future__ import annotations

from pathlib import Path

from open_clip_ext.evaluation.items import Benchmark, Item
from open_clip_ext.evaluation.readers.files import Annotations, Fields, picture


def read(*, annotations: Path, images: Path, split: str = "test") -> Benchmark:
    """Read it.

    Args:
        annotations: `test.json` (a JSON object per line), another split's file, or the folder of it.
        images: its folder `images`, with numbered folders.
        split: the prefix of the picture files.
    """
    source = Annotations(annotations)
    asked: dict[str, list[Fields]] = {}
    for _, row in source.items(f"{split}.json", lines=True):
        asked.setdefault(row.text("identifier").rpartition("-")[0], []).append(row)
    folders = sorted(path.name for path in images.glob("*") if path.is_dir()) if images.is_dir() else []
    items = []
    for rows in asked.values():
        for true in (row for row in rows if row.text("label") == "true"):
            for false in (row for row in rows if row.text("label") == "false"):
                names = [f"{split}-{row.text('identifier')}-0.png" for row in (true, false)]
                shown = tuple(picture(images, *(f"{folder}/{n}" for folder in folders), n) for n in names)
                key = f"{true['identifier']}/{false['identifier']}"
                items.append(Item(key, shown, (true.text("sentence"),), "t2i", (0,)))
    notes = ("of two pictures of one sentence, the true one nearer; the first of six box orders",)
    return Benchmark("nlvr", items, ("micro",), source.files, notes)
