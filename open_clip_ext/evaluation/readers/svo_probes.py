"""SVO-Probes (Hendricks and Nematzadeh, Findings of ACL 2021; google-deepmind/svo_probes, `svo_probes.csv`).

A sentence and two pictures, one of which shows another subject, verb or object. The pictures are URLs of
2021, many of them dead, so two copies of the data set may differ.
"""

from __future__ import annotations

from pathlib import Path

from open_clip_ext.errors import InputError
from open_clip_ext.evaluation.items import Benchmark, Item
from open_clip_ext.evaluation.readers.files import Annotations, picture

KINDS = ("subj_neg", "verb_neg", "obj_neg")


def read(*, annotations: Path, images: Path) -> Benchmark:
    """Read it.

    Args:
        annotations: `svo_probes.csv`, or its folder.
        images: the pictures as `<id>.jpg` or `<id>.png`.
    """
    source = Annotations(annotations)
    items = []
    for key, row in source.table("svo_probes.csv"):
        group = next((kind for kind in KINDS if row[kind].strip().lower() == "true"), None)
        if group is None:
            raise InputError(f"{row.where}: none of {', '.join(KINDS)} is true")
        ids = (row.text("pos_image_id").strip(), row.text("neg_image_id").strip())
        shown = tuple(picture(images, f"{id}.jpg", f"{id}.png") for id in ids)
        items.append(Item(key, shown, (row.text("sentence"),), "t2i", (0,), group))
    return Benchmark("svo-probes", items, ("macro", "micro"), source.files)
