"""EqBen (Wang et al., ICCV 2023; Wangt-CN/EqBen, the complete annotation published since 2023).

Two similar frames of a video or of a synthetic scene, and their captions. Large: 23 GB of pictures
in the authors' light version, 100 GB in full. The average takes the three Kubric sets as one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from open_clip_ext.errors import InputError
from open_clip_ext.evaluation.items import Benchmark, Item
from open_clip_ext.evaluation.readers.files import Annotations, Fields, picture

ANY = "annotation.json"  # its name if `annotations` is a folder


def read(*, annotations: Path, images: Path) -> Benchmark:
    """Read it.

    Args:
        annotations: the JSON file that the authors call the original annotation: pairs of `image0`,
            `image1`, `caption0`, `caption1`, in lists or dicts of any depth.
        images: the folder with `eqbenag` and so on. A `.png` of the annotation may be a `.jpg` there, as in
            the light version. YouCook2's frames must be pictures, not `.npy` files.
    """
    source = Annotations(annotations)
    items = []
    for key, row in _pairs(source.json(ANY), str(source.path(ANY))):
        names = [row.text(f"image{i}") for i in (0, 1)]
        shown = tuple(picture(images, n, str(Path(n).with_suffix(".jpg"))) for n in names)
        captions = tuple(_first(row, f"caption{i}") for i in (0, 1))
        items.append(Item(key, shown, captions, "2x2", group=names[0].split("/")[0]))
    return Benchmark(
        "eqben", items, ("group eqben5", "text eqben5", "image eqben5", "group micro"), source.files
    )


def _pairs(content: object, where: str, key: str = "") -> Iterator[tuple[str, Fields]]:
    """The pairs at the leaves; the depth differs between sets."""
    if isinstance(content, dict) and any(isinstance(value, str) for value in content.values()):
        yield key, Fields(content, f"{where}, item {key}")
    elif isinstance(content, (dict, list)):
        parts = content.items() if isinstance(content, dict) else enumerate(content)
        for name, part in parts:
            yield from _pairs(part, where, f"{key}/{name}" if key else str(name))
    else:
        raise InputError(f"{where}, item {key}: expected fields, not {content!r:.60}")


def _first(row: Fields, key: str) -> str:
    """A caption, or the first one of a list."""
    return row.texts(key)[0] if isinstance(row[key], list) else row.text(key)
