"""NLVR (Suhr et al., ACL 2017; lil-lab/nlvr): a sentence, true of some drawn pictures, false of others.

The task is a verdict on one picture, for which a similarity has no threshold. What a similarity can
be asked: of two pictures shown with the same sentence, is the one of which it is true nearer to
it? Every true one is held against every false one. A convention of this package; there is no published one.
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
        split: the name that the picture files begin with.
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
