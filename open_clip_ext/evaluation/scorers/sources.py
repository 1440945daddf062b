"""Files with parts: rows for each picture and caption, or boxes with labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from open_clip_ext.errors import InputError
from open_clip_ext.evaluation.items import Benchmark, Box
from open_clip_ext.evaluation.readers.files import Annotations, Fields
from open_clip_ext.evaluation.scorer import Pair
from open_clip_ext.evaluation.scorers.labelled import Labelled
from open_clip_ext.evaluation.scorers.parts import Part, Source, outside, size


def read(path: Path, tagger: str) -> Source:
    """The parts in a file.

    Args:
        path: `.jsonl` with rows `{"picture", "caption", "parts": [{"text", "boxes": [[x,y,w,h], ...]}]}`, or
            JSON with COCO's `images`, `annotations` and `categories`, or a list of Visual Genome's
            `{"image_id", "objects": [{"names", "x", "y", "w", "h"}]}`.
        tagger: of the phrases that are matched with labels.

    Raises InputError if it is neither, or something in it is wrong.
    """
    if path.suffix == ".jsonl":
        return Rows(path)
    content = Annotations(path).json(path.name)
    if isinstance(content, Mapping) and {"images", "annotations", "categories"} <= content.keys():
        return Labelled(path, _coco(Fields(content, str(path))), tagger)
    if isinstance(content, list) and content and isinstance(content[0], Mapping) and "objects" in content[0]:
        return Labelled(path, _visual_genome(content, path), tagger)
    raise InputError(
        f"{path}: must be a .jsonl with parts, or the JSON of COCO's instances (images, annotations, "
        "categories) or of Visual Genome's objects (a list of image_id and objects)"
    )


class Rows:
    """Parts of pictures and captions, as a detector and a parser found them.

    A row is for the picture whose path ends in its `picture`: a file name, or as many folders before it as
    tell pictures apart.
    """

    left_out = 0

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: dict[tuple[str, str], list[Part]] = {}
        self._lines = lines = dict[tuple[str, str], str]()
        for line, row in Annotations(path).items(path.name):
            key = (_name(row.text("picture")), row.text("caption"))
            if key in lines:
                raise InputError(
                    f"{row.where}: its picture and caption are those of line {lines[key]}; give all parts of "
                    "a caption in one row"
                )
            lines[key] = line
            self._rows[key] = [_part(row, at, part) for at, part in enumerate(row.entries("parts"))]
        self._names = {name for name, _ in self._rows}
        if not self._rows:
            raise InputError(f"{path}: names no picture")

    def check(self, benchmark: Benchmark) -> None:
        """Raises InputError if no row is for the benchmark, a name is two pictures, or a box is outside."""
        pictures = {picture.path: picture for item in benchmark.items for picture in item.pictures}
        found: dict[str, str] = {}
        for path in pictures:
            if (name := self._named(path)) and found.setdefault(name, path) != path:
                raise InputError(
                    f"{self.path}: {name} is {found[name]} and {path} of {benchmark.name}; put their folders "
                    "before the name"
                )
        if not found:
            first, named = next(iter(pictures), "none"), next(name for name, _ in self._rows)
            raise InputError(
                f"{self.path}: names no picture of {benchmark.name} (the file's first: {named}; the "
                f"benchmark's: {first})"
            )
        captions = dict.fromkeys(caption for item in benchmark.items for caption in item.captions)
        if not any(name in found and caption in captions for name, caption in self._rows):
            named = next(caption for name, caption in self._rows if name in found)
            raise InputError(
                f"{self.path}: has pictures of {benchmark.name}, but none with a caption of it (the file's "
                f"first: {named!r}; the benchmark's: {next(iter(captions), 'none')!r})"
            )

        sizes = {name: size(pictures[path]) for name, path in found.items() if pictures[path].exists()}
        for (name, caption), parts in self._rows.items():
            for box in (box for part in parts for box in part.boxes if name in sizes):
                if outside(box, sizes[name]):
                    raise InputError(
                        f"{self.path}, line {self._lines[name, caption]}: the box {list(box)} is outside of "
                        f"{found[name]} ({sizes[name][0]} x {sizes[name][1]} pixels)"
                    )

    def of(self, pairs: Sequence[Pair]) -> list[list[Part] | None]:
        """The parts of each pair."""
        names = {path: self._named(path) for path in dict.fromkeys(picture.path for picture, _ in pairs)}
        return [self._rows.get((names[picture.path] or "", caption)) for picture, caption in pairs]

    def _named(self, path: str) -> str | None:
        """The longest end of a path that the file has."""
        parts = PurePath(path).parts
        ends = (PurePath(*parts[start:]).as_posix() for start in range(len(parts)))
        return next((end for end in ends if end in self._names), None)


def _name(text: str) -> str:
    return PurePath(text).as_posix()


def _part(row: Fields, at: int, content: Any) -> Part:
    part = Fields(content, f"{row.where}, part {at}")
    return Part(part.text("text"), tuple(_box(box, part.where) for box in part.entries("boxes")))


def _box(content: Any, where: str) -> Box:
    """A box with an area."""
    box = _numbers(content, where)
    if min(box[2:]) <= 0:
        raise InputError(f"{where}: the width and height of a box must be above 0, not {content!r}")
    return box


def _numbers(content: Any, where: str) -> Box:
    numbers = isinstance(content, list) and all(
        isinstance(n, int | float) and not isinstance(n, bool) and math.isfinite(n) for n in content
    )
    if not numbers or len(content) != 4:
        raise InputError(f"{where}: a box must be [x, y, width, height] in pixels, not {content!r}")
    x, y, w, h = map(float, content)
    return x, y, w, h


def _coco(content: Fields) -> dict[str, list[tuple[str, Box]]]:
    """Labels and boxes by the file name of a picture."""
    where = content.where
    files = {
        image["id"]: image.text("file_name")
        for image in (Fields(i, f"{where}, image {n}") for n, i in enumerate(content.entries("images")))
    }
    names = {
        category["id"]: category.text("name")
        for category in (
            Fields(c, f"{where}, category {n}") for n, c in enumerate(content.entries("categories"))
        )
    }
    found: dict[str, list[tuple[str, Box]]] = {file: [] for file in files.values()}
    for n, entry in enumerate(content.entries("annotations")):
        one = Fields(entry, f"{where}, annotation {n}")
        for key, known in (("image_id", files), ("category_id", names)):
            if one[key] not in known:
                raise InputError(f"{one.where}: there is no {key.removesuffix('_id')} {one[key]!r}")
        found[files[one["image_id"]]].append((names[one["category_id"]], _numbers(one["bbox"], one.where)))
    return found


def _visual_genome(content: Sequence[Any], path: Path) -> dict[str, list[tuple[str, Box]]]:
    """The same, of Visual Genome's `objects.json`. Its pictures are named by their id."""
    found = {}
    for n, entry in enumerate(content):
        image = Fields(entry, f"{path}, item {n}")
        objects = [Fields(o, f"{image.where}, object {m}") for m, o in enumerate(image.entries("objects"))]
        found[f"{image['image_id']}.jpg"] = [
            (name, _numbers([one.number(side) for side in "xywh"], one.where))
            for one in objects
            for name in one.texts("names")
        ]
    return found
