"""Cola, multi-object setting (Ray et al., NeurIPS 2023; arijitray1993/COLA).

Two Visual Genome pictures and two captions whose attributes and objects are exchanged. 210 pairs. The authors
count a pair if both captions find their picture, which is `image` here.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from open_clip_ext.errors import InputError
from open_clip_ext.evaluation.items import Benchmark, Item, Picture
from open_clip_ext.evaluation.readers.files import Annotations, picture

FILE = "COLA_multiobjects_matching_benchmark.json"


def read(*, annotations: Path, images: Path) -> Benchmark:
    """Read it.

    Args:
        annotations: `COLA_multiobjects_matching_benchmark.json`, or its folder.
        images: the pictures of its links, or Visual Genome, the folder with `VG_100K` and `VG_100K_2`.
    """
    source = Annotations(annotations)
    content = source.json(FILE)
    if not isinstance(content, list):
        raise InputError(f"{source.path(FILE)}: expected a list of [link, caption, link, caption]")
    items = [
        _item(str(number), row, images, f"{source.path(FILE)}, item {number}")
        for number, row in enumerate(content)
    ]
    return Benchmark("cola", items, ("image micro", "group micro", "text micro"), source.files)


def _item(id: str, row: object, images: Path, where: str) -> Item:
    if (
        not isinstance(row, list)
        or len(row) != 4
        or not all(isinstance(part, str) and part.strip() for part in row)
    ):
        raise InputError(f"{where}: expected [link, caption, link, caption], four texts")
    one, caption, two, other = row
    return Item(id, (_picture(images, one), _picture(images, two)), (caption, other), "2x2")


def _picture(images: Path, link: str) -> Picture:
    name = urlsplit(link).path.rpartition("/")[2]
    return picture(images, name, f"VG_100K/{name}", f"VG_100K_2/{name}")
