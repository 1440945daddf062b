"""Retrieval from caption files: Karpathy's splits and COCO's own."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from open_clip_ext.errors import InputError
from open_clip_ext.evaluation.items import Benchmark, Picture
from open_clip_ext.evaluation.readers.files import Annotations, Fields
from open_clip_ext.evaluation.scoring import retrieval

KARPATHY = tuple(f"dataset_{name}.json" for name in ("coco", "flickr30k", "flickr8k"))
COCO = ("captions_val2017.json", "captions_val2014.json")


def karpathy(*, annotations: Path, images: Path, split: str = "test") -> Benchmark:
    """A split of dataset_coco.json, dataset_flickr30k.json or dataset_flickr8k.json.

    (Karpathy and Fei-Fei, "Deep Visual-Semantic Alignments for Generating Image Descriptions", CVPR 2015.)

    Args:
        annotations: the file.
        images: the folder with the file's `filepath/filename`, or directly with the files.
        split: test, val, train or restval.
    """
    source = Annotations(annotations)
    content = Fields(source.json(*KARPATHY), str(annotations))
    entries = _images(content)
    splits = Counter(entry.text("split") for entry in entries)
    if split not in splits:
        raise InputError(f"{annotations}: it has no split {split!r}, only {', '.join(splits)}")
    captioned = {
        _place(images, entry): [
            Fields(sentence, entry.where).text("raw") for sentence in entry.entries("sentences")
        ]
        for entry in entries
        if entry["split"] == split
    }
    name = content.get("dataset", annotations.stem.removeprefix("dataset_"))
    return retrieval.benchmark(f"karpathy-{name}", captioned, source.files, [f"split {split}"])


def coco(*, annotations: Path, images: Path) -> Benchmark:
    """A captions file in COCO's format, such as captions_val2017.json.

    Args:
        annotations: the file.
        images: the folder with its pictures.
    """
    source = Annotations(annotations)
    content = Fields(source.json(*COCO), str(annotations))
    captions: dict[object, list[str]] = {}
    for i, annotation in enumerate(content.entries("annotations")):
        entry = Fields(annotation, f"{annotations}, annotation {i}")
        captions.setdefault(entry["image_id"], []).append(entry.text("caption"))
    entries = _images(content)
    captioned = {
        Picture(str(images / entry.text("file_name"))): captions[entry["id"]]
        for entry in entries
        if entry["id"] in captions
    }
    return retrieval.benchmark(f"coco-{annotations.stem}", captioned, source.files)


def _images(content: Fields) -> list[Fields]:
    return [
        Fields(image, f"{content.where}, image {number}")
        for number, image in enumerate(content.entries("images"))
    ]


def _place(images: Path, entry: Fields) -> Picture:
    folder = images / str(entry.get("filepath", ""))
    return Picture(str((folder if folder.is_dir() else images) / entry.text("filename")))
