"""What'sUp (Kamath et al., EMNLP 2023; amitakamath/whatsup_vlms): spatial relations.

Sets A and B: four pictures of two things with four captions each, the first of which is true. COCO and VG-QA:
a caption and its opposite. A and B also have the authors' pair and set accuracy: both pictures (left and
right; on and under, or in front and behind) or all four pictures of two things must be right.
"""

from __future__ import annotations

from pathlib import Path

from open_clip_ext.errors import InputError
from open_clip_ext.evaluation.items import Benchmark, Item
from open_clip_ext.evaluation.readers.files import Annotations, Fields, pair, picture

CONTROLLED = {"A": "controlled_images_dataset.json", "B": "controlled_clevr_dataset.json"}
# File, and path of its pictures.
PAIRED = {
    "COCO-QA one": ("coco_qa_one_obj.json", "val2017/{:0>12}.jpg"),
    "COCO-QA two": ("coco_qa_two_obj.json", "val2017/{:0>12}.jpg"),
    "VG-QA one": ("vg_qa_one_obj.json", "vg_images/{}.jpg"),
    "VG-QA two": ("vg_qa_two_obj.json", "vg_images/{}.jpg"),
}
SIDES = {"left": "x", "right": "x", "on": "z", "under": "z", "in-front": "z", "behind": "z"}


def read(*, annotations: Path, images: Path | None = None) -> Benchmark:
    """Read it.

    Args:
        annotations: the folder with the six JSON files.
        images: the folder with `controlled_images`, `controlled_clevr`, `val2017` and `vg_images`; by
            default the same folder.
    """
    source = Annotations(annotations)
    root = images or annotations
    items: list[Item] = []
    for group, file in CONTROLLED.items():
        singles = [_controlled(key, row, root, group) for key, row in source.items(file)]
        items += singles + _together(singles, group)
    for group, (file, place) in PAIRED.items():
        for key, row in enumerate(source.json(file)):
            where = f"{annotations / file}, item {key}"
            if not isinstance(row, list) or len(row) != 3:
                raise InputError(f"{where}: expected [picture, true, false]")
            fields = Fields(dict(zip(("picture", "true", "false"), row, strict=True)), where)
            shown = picture(root, place.format(str(row[0])))
            items.append(pair(fields, f"{group}/{key}", shown, "true", "false", group))
    averages = ("whatsup6", "whatsup_pair", "whatsup_set")
    return Benchmark("whatsup", items, averages, source.files)


def _controlled(key: str, row: Fields, root: Path, group: str) -> Item:
    path = row.text("image_path")
    shown = picture(root, path.removeprefix("data/"), path)
    return Item(f"{group}/{key}", (shown,), tuple(row.texts("caption_options")), "i2t", (0,), group)


def _together(singles: list[Item], group: str) -> list[Item]:
    """One item for all pictures of two things: every picture has to find its caption.

    Files have names such as thing_side_of_other.jpeg.
    """
    parts: dict[tuple[str, ...], list[Item]] = {}
    for item in singles:
        thing, side, *_, other = Path(item.pictures[0].path).stem.split("_")
        if side not in SIDES:
            raise InputError(f"{item.pictures[0].path}: its name has none of the sides {', '.join(SIDES)}")
        parts.setdefault((thing, other), []).append(item)
        parts.setdefault((thing, other, SIDES[side]), []).append(item)
    made = []
    for names, members in parts.items():
        # All have the same captions, in different orders.
        captions = tuple(dict.fromkeys(text for item in members for text in item.captions))
        truth = tuple(captions.index(item.captions[0]) for item in members)
        shown = tuple(item.pictures[0] for item in members)
        kind = f"{group} set" if len(names) == 2 else f"{group} pair"
        made.append(Item(f"{kind}/{' '.join(names)}", shown, captions, "i2t", truth, kind))
    return made
