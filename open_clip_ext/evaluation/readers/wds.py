"""clip-benchmark's webdataset layout, for classification and for retrieval.

    FOLDER/classnames.txt  FOLDER/zeroshot_classification_templates.txt  FOLDER/dataset_type.txt
    FOLDER/test/nshards.txt  FOLDER/test/0.tar  FOLDER/test/1.tar ...

A sample is a picture (webp, png, jpg, jpeg) with its label in `cls`, or with its captions in `txt`, one per
line, if dataset_type.txt says `retrieval`. The layout is that of `clip_benchmark_export_wds`
(LAION-AI/CLIP_benchmark, clip_benchmark/webdataset_builder.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from open_clip_ext.errors import InputError
from open_clip_ext.evaluation.items import Benchmark
from open_clip_ext.evaluation.readers import classnames
from open_clip_ext.evaluation.scoring import classification, retrieval
from open_clip_ext.evaluation.scoring.classification import Classes
from open_clip_ext.evaluation.stored import Member, members

PICTURES = ("webp", "png", "jpg", "jpeg")
LABEL = {"classification": "cls", "retrieval": "txt"}


def wds(*, images: Path, split: str = "test") -> Benchmark:
    """A data set in clip-benchmark's webdataset layout.

    Args:
        images: the folder with the splits.
        split: the folder with the shards.
    """
    files: dict[str, str] = {}
    kind_file = images / "dataset_type.txt"
    kind = classnames.read_lines(kind_file, files)[0].lower() if kind_file.exists() else "classification"
    if kind not in LABEL:
        raise InputError(f"{kind_file}: {kind} data sets cannot be scored here, only {' and '.join(LABEL)}")
    samples = list(_samples(images / split, LABEL[kind], files))
    name = f"wds-{images.name}"
    if kind == "retrieval":
        return retrieval.benchmark(name, {picture: text.splitlines() for picture, text in samples}, files)
    classes = Classes(
        tuple(classnames.read_lines(images / "classnames.txt", files)),
        tuple(classnames.read_lines(images / "zeroshot_classification_templates.txt", files)),
    )
    labels = [_label(picture, text) for picture, text in samples]
    return classification.benchmark(name, [picture for picture, _ in samples], labels, classes, files)


def _samples(folder: Path, label: str, files: dict[str, str]) -> Iterator[tuple[Member, str]]:
    count_file = folder / "nshards.txt"
    count = classnames.read_lines(count_file, files)[0]
    if not count.isdecimal():
        raise InputError(f"{count_file}: {count!r} is not a number of shards")
    for shard in range(int(count)):
        yield from _shard(folder / f"{shard}.tar", label)


def _shard(path: Path, label: str) -> Iterator[tuple[Member, str]]:
    """The pictures and texts of a shard, in order."""
    found: dict[str, dict[str, Member]] = {}
    for name, member in members(path):
        folder, _, base = name.rpartition("/")
        key, _, suffix = base.partition(".")
        found.setdefault(f"{folder}/{key}", {})[suffix.lower()] = member
    for key, parts in found.items():
        picture = next((parts[suffix] for suffix in PICTURES if suffix in parts), None)
        if picture is None or label not in parts:
            raise InputError(
                f"{path}, sample {key.strip('/')}: it needs a picture ({', '.join(PICTURES)}) and "
                f"a .{label}; it has {', '.join(f'.{suffix}' for suffix in parts)}"
            )
        try:
            yield picture, parts[label].read().decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{path}, sample {key.strip('/')}: its .{label} is not UTF-8 text") from error


def _label(picture: Member, text: str) -> int:
    if not text.strip().isdecimal():
        raise InputError(f"{picture.path}: its label is {text.strip()!r}, not a number from 0")
    return int(text)
