"""VL-CheckList (Zhao et al., 2022; om-ai-lab/VL-CheckList, `data/`).

A right short text against a wrong one. The authors use the first text of each list and the first 1,000 rows
of a file (`MAX_NUM` 2,000). They skip missing pictures, which silently changes the score; here these are an
error. Some rows have the same text twice and cannot be won (25 of 36,797 in 46 of the 56 files). The
authors of VL-CheckList and of CE-CLIP advise against this benchmark.
"""

from __future__ import annotations

from pathlib import Path

from open_clip_ext.errors import InputError
from open_clip_ext.evaluation.items import Benchmark, Item
from open_clip_ext.evaluation.readers.files import Annotations, Fields, picture

OBJECT_SOURCES = {
    "hake": "hake_{0}/hake_obj_{1}.json",
    **{
        f"swig_{role}": f"swig_{{0}}/swig_{role}/swig_{role}_{{1}}.json"
        for role in ("agent", "destination", "item", "tool")
    },
    "vg_obj": "vg_{0}/vg_obj_{1}.json",
    "vg_subj": "vg_{0}/vg_subj_{1}.json",
}  # fmt: skip
# Subset -> annotation file, as the authors' corpus/v1 pairs them.
FILES = {
    f"Object/{aspect}/{value}/{source}": f"Object/{aspect}/" + file.format(aspect.lower(), value)
    for aspect, values in (("Location", ("center", "margin", "mid")), ("Size", ("large", "medium", "small")))
    for value in values
    for source, file in OBJECT_SOURCES.items()
} | {
    f"Attribute/{value}/{source}": f"Attribute/{source}/{value}.json"
    for value in ("action", "color", "material", "size", "state")
    for source in ("vaw", "vg")
} | {
    "Relation/action/hake": "Relation/hake_action.json",
    "Relation/action/swig": "Relation/swig_action.json",
    "Relation/action/vg": "Relation/vg/action.json",
    "Relation/spatial/vg": "Relation/vg/spatial.json",
}  # fmt: skip


def read(*, annotations: Path, images: Path, rows: int = 1000) -> Benchmark:
    """Read it.

    Args:
        annotations: the authors' folder `data`.
        images: the folder with `vg`, `swig` and `hake`.
        rows: number of rows used of each file (default: the authors'); 0 for all.
    """
    source = Annotations(annotations)
    items = []
    for subset, file in FILES.items():
        folder = subset.split("/")[-1].split("_")[0].replace("vaw", "vg")
        for key, row in enumerate(source.json(file)[: rows or None]):
            where = f"{annotations / file}, item {key}"
            if not isinstance(row, list) or len(row) != 2:
                raise InputError(f"{where}: expected [path, texts]")
            texts = Fields(row[1], where)
            captions = (texts.texts("POS")[0], texts.texts("NEG")[0])
            shown = picture(images, f"{folder}/{row[0]}")
            items.append(Item(f"{subset}/{key}", (shown,), captions, "i2t", (0,), subset))
    return Benchmark("vl-checklist", items, ("vlchecklist3", "macro", "micro"), source.files)
