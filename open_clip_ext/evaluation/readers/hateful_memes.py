"""Hateful Memes (Kiela et al., NeurIPS 2020), as one of ELEVATER's zero-shot sets: is the meme hateful?

The score is the area under the ROC curve: of all pairs of a hateful and a harmless meme, the share in which
the hateful one leans more to the hateful class. Its interval resamples the hateful memes only. vl_compo's
scores are multiples of 1 / (247 x 253), the sizes of the two classes of `dev_seen`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from open_clip_ext.errors import InputError
from open_clip_ext.evaluation.items import Benchmark, Encoder, Item, Picture, Row
from open_clip_ext.evaluation.readers.classnames import read_lines
from open_clip_ext.evaluation.readers.files import Annotations, Fields, picture
from open_clip_ext.evaluation.scoring import classification
from open_clip_ext.evaluation.scoring.classification import Classes

NAMES = ("harmless meme", "hateful meme")
TEMPLATES = ("a {c}.",)


def read(
    *,
    annotations: Path,
    images: Path,
    split: Literal["dev", "dev_seen", "dev_unseen", "test_seen", "test_unseen"] = "dev_seen",
    classnames: Path | None = None,
    templates: Path | None = None,
) -> Benchmark:
    """Read it.

    Args:
        annotations: the folder with `dev_seen.jsonl` or another split, or that file.
        images: the folder with `img`, or `img` itself.
        split: the file to read, if a folder is given; `dev` is that of the first release.
        classnames: a file with two names, harmless first (default: ours).
        templates: a file of templates (default: ours).
    """
    source = Annotations(annotations)
    found = [_sample(row, images) for _, row in source.items(f"{split}.jsonl", lines=True)]
    if len({label for _, label in found}) < 2:
        raise InputError(f"{source.path(f'{split}.jsonl')}: it needs hateful and harmless memes")
    names = tuple(read_lines(classnames, source.files)) if classnames else NAMES
    if len(names) != len(NAMES):
        raise InputError(f"{classnames}: {len(names)} class names, but the set has two: harmless, hateful")
    prompts = tuple(read_lines(templates, source.files)) if templates else TEMPLATES
    pictures, labels = zip(*found, strict=True)
    classes = Classes(names, prompts)
    note = "auc: pairs of a hateful and a harmless meme; its interval resamples the hateful ones"
    made = classification.benchmark("hateful-memes", pictures, labels, classes, source.files, [note])
    averages = ("auc micro", *made.aggregations)
    return replace(made, aggregations=averages, score=partial(_rows, classes))


def _sample(row: Fields, images: Path) -> tuple[Picture, int]:
    name = row.text("img")
    if row["label"] not in (0, 1):
        raise InputError(f"{row.where}: label must be 0 or 1, not {row['label']!r}")
    return picture(images, name, Path(name).name), int(row["label"])


def _rows(classes: Classes, encoder: Encoder, items: Sequence[Item]) -> list[Row]:
    """A row per meme, and one per pair of a hateful and a harmless meme."""
    rows = classification.classify(classes, encoder, items)
    # A meme's margin is its own class's lead; that of the hateful class is its negative if it is harmless.
    sides: tuple[list[Row], list[Row]] = ([], [])
    for item, row in zip(items, rows, strict=True):
        sides[item.truth[0]].append(row)
    return rows + [
        _pair(hateful, harmless, hateful["margin"] + harmless["margin"], classes.names[1])
        for hateful in sides[1]
        for harmless in sides[0]
    ]


def _pair(hateful: Row, harmless: Row, lead: float, name: str) -> Row:
    return {
        "id": f"{hateful['id']}/{harmless['id']}",
        "group": "pairs",
        "pictures": [*hateful["pictures"], *harmless["pictures"]],
        "captions": [name],
        "correct": {"auc": int(lead > 0)},
        "half": {"auc": 0.5 if lead == 0 else float(lead > 0)},
        "margin": lead,
        "tied": lead == 0,
    }
