"""PASCAL VOC 2007 (Everingham et al., 2010) as clip-benchmark's `voc2007`: name the object in a box.

Each annotated object of the test pictures is cut out along its box. ELEVATER has the same pictures as a task
with several labels per picture, scored by the 11-point mean average precision; the numbers do not compare.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

from open_clip_ext.errors import InputError
from open_clip_ext.evaluation.items import Benchmark, Picture
from open_clip_ext.evaluation.readers.classnames import of_clip_benchmark, read_lines, read_templates
from open_clip_ext.evaluation.scoring import classification
from open_clip_ext.evaluation.scoring.classification import Classes
from open_clip_ext.files import sha256

# In the order of VOC's own list; the names are those that the annotations use.
NAMES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


def read(
    *,
    images: Path,
    split: Literal["test", "val", "train", "trainval"] = "test",
    classnames: Path | None = None,
    templates: Path | None = None,
) -> Benchmark:
    """Read it.

    Args:
        images: the folder `VOC2007`, or one with `VOCdevkit/VOC2007` or `VOC2007` in it.
        split: the file of `ImageSets/Main` to read.
        classnames: a file with twenty names in VOC's order (default: VOC's).
        templates: a file of templates (default: clip-benchmark's).
    """
    root = next((p for p in (images / "VOCdevkit/VOC2007", images / "VOC2007") if p.is_dir()), images)
    files: dict[str, str] = {}
    ids = read_lines(root / "ImageSets" / "Main" / f"{split}.txt", files)
    found = [sample for id in ids for sample in _objects(root, id.split()[0])]
    if not found:
        raise InputError(f"{root}: no object in the annotations of {split}")
    names = tuple(read_lines(classnames, files)) if classnames else NAMES
    if len(names) != len(NAMES):
        raise InputError(f"{classnames}: {len(names)} class names for VOC's {len(NAMES)} classes")
    known = None if templates else of_clip_benchmark("zeroshot_classification_templates", "voc2007")
    classes = Classes(names, known or read_templates(templates, files))
    note = f"split {split}, every object cut out; ELEVATER asks for all objects of a picture instead"
    pictures, labels = zip(*found, strict=True)
    return classification.benchmark("voc2007", pictures, labels, classes, files, [note])


def _objects(root: Path, id: str) -> Iterator[tuple[Picture, int]]:
    """The objects of a picture, each with its label."""
    path = root / "Annotations" / f"{id}.xml"
    sha256(path)  # a missing file is one sentence
    try:
        tree = ElementTree.parse(path)
    except ElementTree.ParseError as error:
        raise InputError(f"{path}: broken XML ({error})") from error
    for number, found in enumerate(tree.iter("object")):
        name = (found.findtext("name") or "").strip()
        if name not in NAMES:
            raise InputError(f"{path}, object {number}: {name!r} is none of VOC's classes")
        left, top, right, bottom = (
            _number(found.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")
        )
        if not (-math.inf < left < right < math.inf and -math.inf < top < bottom < math.inf):
            raise InputError(f"{path}, object {number}: its bndbox lacks a number, or has no area")
        box = (left, top, right - left, bottom - top)
        yield Picture(str(root / "JPEGImages" / f"{id}.jpg"), box), NAMES.index(name)


def _number(text: str | None) -> float:
    try:
        return float(text or "")
    except ValueError:
        return math.nan
