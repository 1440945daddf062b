"""NegBench (Alhamoud et al., CVPR 2025; m1k2zoo/negbench, its preprocessed CSV files).

Multiple choice: which of four captions, some of them with a negation, is true of the picture? Two captions
for CheXpert. Retrieval: captions some of which say what is not there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from open_clip_ext.errors import InputError
from open_clip_ext.evaluation.items import Benchmark, Item, Picture
from open_clip_ext.evaluation.readers.files import Annotations, Fields, picture_below
from open_clip_ext.evaluation.scoring import retrieval as scoring
from open_clip_ext.texts import parse_texts

QUESTIONS = {
    "coco": "COCO_val_mcq_llama3.1_rephrased.csv",
    "voc2007": "VOC2007_mcq_llama3.1_rephrased.csv",
    "synthetic": "synthetic_mcq_llama3.1_rephrased.csv",
    "chexpert": "chexpert_binary_mcq.csv",
    "chexpert-control": "chexpert_binary_mcq_control.csv",
}
CAPTIONED = {
    "coco": "COCO_val_retrieval.csv",
    "coco-negated": "COCO_val_negated_retrieval_llama3.1_rephrased_affneg_true.csv",
    "synthetic": "synthetic_retrieval_v1.csv",
    "synthetic-negated": "synthetic_retrieval_v2.csv",
}
TEMPLATES = ("positive", "negative", "hybrid")


def mcq(
    *,
    annotations: Path,
    images: Path,
    subset: Literal["coco", "voc2007", "synthetic", "chexpert", "chexpert-control"] = "coco",
) -> Benchmark:
    """Multiple choice, with the accuracy by kind of the true caption: positive, negative or hybrid.

    Args:
        annotations: the folder `images` of the authors' data, or one of its CSV files.
        images: the folder below which the pictures are, by the end of the paths in the file.
        subset: the file to read, if a folder is given.
    """
    source = Annotations(annotations)
    items = [_question(key, row, images) for key, row in source.table(QUESTIONS[subset])]
    name = _name("mcq", annotations, QUESTIONS, subset)
    averages = ("micro", "macro") if items and items[0].group else ("micro",)
    return Benchmark(name, items, averages, source.files)


def retrieval(
    *,
    annotations: Path,
    images: Path,
    subset: Literal["coco", "coco-negated", "synthetic", "synthetic-negated"] = "coco-negated",
) -> Benchmark:
    """Retrieval; the authors report `t2i R@5`.

    Args:
        annotations: the folder `images` of the authors' data, or one of its CSV files.
        images: the folder below which the pictures are, by the end of the paths in the file.
        subset: the file to read, if a folder is given.
    """
    source = Annotations(annotations)
    captioned: dict[Picture, list[str]] = {}
    for _, row in source.table(CAPTIONED[subset]):
        shown = picture_below(images, row.text("filepath"))
        if shown in captioned:
            raise InputError(f"{row.where}: {row['filepath']} has a row already")
        try:
            captioned[shown] = parse_texts(row.text("captions"))
        except ValueError as error:
            raise InputError(f"{row.where}: captions: {error}") from error
    name = _name("retrieval", annotations, CAPTIONED, subset)
    return scoring.benchmark(name, captioned, source.files, ["the authors report t2i R@5"])


def _question(key: str, row: Fields, images: Path) -> Item:
    columns = [name for name in row if name.startswith("caption_")]
    if columns != [f"caption_{i}" for i in range(len(columns))] or len(columns) not in (2, 4):
        raise InputError(
            f"{row.where}: its captions are {', '.join(columns) or 'missing'}; a question of NegBench has "
            "caption_0 to caption_3, or caption_0 and caption_1"
        )
    answer = row.text("correct_answer").strip()
    if answer not in map(str, range(len(columns))):
        raise InputError(f"{row.where}: correct_answer must be 0 to {len(columns) - 1}, not {answer!r}")
    group = row.text("correct_answer_template") if len(columns) == 4 else ""
    if group not in TEMPLATES and len(columns) == 4:
        raise InputError(
            f"{row.where}: correct_answer_template must be {', '.join(TEMPLATES)}, not {group!r}"
        )
    captions = tuple(row.text(name) for name in columns)
    return Item(key, (picture_below(images, row.text("image_path")),), captions, "i2t", (int(answer),), group)


def _name(task: str, annotations: Path, files: Mapping[str, str], subset: str) -> str:
    """The benchmark's name: by the subset, or by the file if the user named one."""
    if annotations.is_file():
        known = {file: name for name, file in files.items()}
        subset = known.get(annotations.name, annotations.stem)
    return f"negbench-{task}-{subset}"
