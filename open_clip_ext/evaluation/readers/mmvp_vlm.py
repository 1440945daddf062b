"""MMVP-VLM (Tong et al., "Eyes Wide Shut?", CVPR 2024; data set MMVP/MMVP_VLM).

Pairs of pictures with nearly equal CLIP features, nine patterns of 15 pairs each. The authors measure whether
each statement finds its picture (`image`); vl_compo reports `group`. With 15 pairs, the noise of a pattern's
score is 20 points.
"""

from __future__ import annotations

from pathlib import Path

from open_clip_ext.errors import InputError
from open_clip_ext.evaluation.items import Benchmark, Item
from open_clip_ext.evaluation.readers.files import Annotations, picture

PROMPT = "a photo of "


def read(*, annotations: Path, images: Path) -> Benchmark:
    """Read it.

    Args:
        annotations: `Questions.csv`, or its folder; its rows pair up.
        images: `MLLM_VLM Images`, a folder per pattern.
    """
    source = Annotations(annotations)
    rows = [row for _, row in source.table("Questions.csv")]
    if len(rows) % 2:
        raise InputError(f"{source.path('Questions.csv')}: {len(rows)} rows do not pair up")
    items = []
    for one, two in zip(rows[::2], rows[1::2], strict=True):
        shown = tuple(
            picture(images, f"{one.text('Type')}/{row.text('Question ID')}.jpg") for row in (one, two)
        )
        captions = tuple(PROMPT + row.text("Statement") for row in (one, two))
        items.append(Item(one.text("Question ID"), shown, captions, "2x2", group=one.text("Type")))
    averages = ("image macro", "group macro", "text macro")
    return Benchmark("mmvp-vlm", items, averages, source.files)
