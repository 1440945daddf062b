"""ConMe (Huang et al., NeurIPS 2024; jmiemirza/ConMe, data in conme/ConMe on the Hugging Face hub).

A question on a COCO picture with a right and a wrong answer, made so that models that generate text go wrong.
The authors score such models by perplexity and define nothing for dual encoders; no number for these has been
published. Here the right answer has to be nearer to the picture than the wrong one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from open_clip_ext.evaluation.items import Benchmark, Item, Picture
from open_clip_ext.evaluation.readers.files import Annotations, Fields, picture

PARTITIONS = ("replace-att", "replace-obj", "replace-rel")


def read(
    *,
    annotations: Path,
    images: Path,
    text: Literal["option", "question-option"] = "option",
    human_filter: bool = False,
) -> Benchmark:
    """Read it.

    Args:
        annotations: the folder with `replace-att.csv` and two more.
        images: COCO val2017, or the folder of pictures that comes with the files.
        text: what is compared with the picture: the answer, or the question followed by the answer.
        human_filter: read the part that people checked, `replace-att_HUMAN_FILTER.csv` and two more.
    """
    source = Annotations(annotations)
    suffix = "_HUMAN_FILTER" if human_filter else ""
    items = [
        _item(f"{partition}/{key}", row, images, text, partition)
        for partition in PARTITIONS
        for key, row in source.table(f"{partition}{suffix}.csv")
    ]
    notes = (
        f"captions: text={text}",
        "made for models that generate text; no number for dual encoders has been published",
    )
    name = "conme-human-filter" if human_filter else "conme"
    return Benchmark(name, items, ("macro", "micro"), source.files, notes)


def _item(id: str, row: Fields, images: Path, text: str, partition: str) -> Item:
    asked = f"{row.text('question').strip()} " if text == "question-option" else ""
    options = (row.text("correct_option"), row.text("incorrect_option"))
    captions = tuple(asked + option.strip() for option in options)
    return Item(id, (_picture(images, row),), captions, "i2t", (0,), partition)


def _picture(images: Path, row: Fields) -> Picture:
    """COCO's file of an id such as 7, 000000000007 or 000000000007.jpg."""
    name = row.text("image").strip()
    stem = Path(name).stem
    return picture(images, f"{stem.zfill(12)}.jpg", f"{stem}.jpg", name)
