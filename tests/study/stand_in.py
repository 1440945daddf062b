"""A drawn stand-in for the data of `launch/studies`: the originals' files and folders, a few items in each.

    python tests/study/stand_in.py FOLDER

The pictures show coloured shapes, and captions call them balls, boxes and tents. Whatever is measured on them
says nothing about the real data. A tiny model with random weights stands for OpenAI's.
"""

from __future__ import annotations

import csv
import json
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "evaluation")]

import open_clip
import support
import torch
from drawn import png, write_wds
from PIL import Image
from safetensors.torch import save_file

from open_clip_ext.evaluation.readers import crepe, hard_positives, sugarcrepe, sugarcrepe_pp, valse

STUDIES = Path(__file__).parents[2] / "launch" / "studies"
WORDS = {"circle": "ball", "square": "box", "triangle": "tent"}
SHARDS = (
    *("vtab-cifar10", "vtab-cifar100", "vtab-pets", "vtab-flowers", "sun397", "cars", "vtab-dtd"),
    *("vtab-caltech101", "fgvc_aircraft", "imagenet1k", "imagenetv2", "country211", "fer2013", "gtsrb"),
    *("mnist", "renderedsst2", "voc2007", "vtab-eurosat", "vtab-kitti_closest_vehicle_distance"),
    *("vtab-pcam", "vtab-resisc45", "food101"),
)
# VALSE: an instrument's `dataset`, and where its pictures are.
SOURCES = {
    "existence": ("visual7w", "visual7w/v7w_{}.jpg"),
    "plurals": ("coco2017", "val2017/{:012d}.jpg"),
    "relations": ("coco_2017", "val2017/{:012d}.jpg"),
    "action-replacement": ("SWiG", "swig/exercising_{}.jpg"),
    "actant-swap": ("SWiG", "swig/exercising_{}.jpg"),
    "coreference-standard": ("VisDial_v1.0", "train2014/COCO_train2014_{:012d}.jpg"),
    "coreference-hard": ("VisDial_v1.0", "VisualDialog_val2018/VisualDialog_val2018_{:012d}.jpg"),
    "foil-it": ("FOIL dataset", "val2014/COCO_val2014_{:012d}.jpg"),
}
BOX = {"bbox_x": 0, "bbox_y": 0, "bbox_w": 32, "bbox_h": 32}


class Scene:
    """A picture with captions that are true of it, and texts that are not."""

    def __init__(self, photo: support.Photo) -> None:
        self.image = photo.image
        self.caption = self._said(photo.caption)
        self.false = [self._said(text) for text in photo.negatives]
        self.second = self._second(self.caption)
        self.captions = [self.caption, self.second]
        # The order of the parts, nouns, adjectives, one adjective, one noun: five, as DeGLA has them.
        self.rewrites = [*self.false, self._second(self.false[1])]

    @staticmethod
    def _said(text: str) -> str:
        for shape, thing in WORDS.items():
            text = text.replace(shape, thing)
        return text

    @staticmethod
    def _second(text: str) -> str:
        return text.replace(" left of ", " and ").replace(" right of ", " and ") + " on a table"


def scenes(count: int, seed: int) -> list[Scene]:
    """Pictures with texts."""
    return [Scene(photo) for photo in support.photos(count, seed)]


def small(text: str, *, epochs: int = 1) -> str:
    """A study's file with the tiny model, on the CPU, in small batches; the rest stays."""
    for pattern, new in (
        (r'^model = ".*?"', 'model = "local-dir:base"'),
        (r'^pretrained = ".*?"\n', ""),
        (r'precision = ".*?"', 'precision = "fp32"\ndevice = "cpu"\nlog-every-n-steps = 1'),
        (r"\bbatch-size = \d+", "batch-size = 8"),
        (r"\bepochs = \d+", f"epochs = {epochs}"),
        (r"\bwarmup = \d+", "warmup = 1"),
        (r"\bworkers = \d+", "workers = 0"),
    ):
        text, count = re.subn(pattern, new, text, flags=re.MULTILINE)
        assert count, pattern
    return text


def write(folder: Path, captions: int = 24) -> None:
    """All that is fetched for a study, and the model; stores and `captions.csv` are made by commands."""
    data = folder / "data"
    _coco(data, captions)
    _flickr(data)
    _visual_genome(data)
    _composition(data)
    colours = [{"webp": png(c), "cls": str(i).encode()} for i, c in enumerate(support.COLOURS)]
    for name in SHARDS:
        write_wds(
            data / "wds" / name, colours, classnames="\n".join(support.COLOURS),
            zeroshot_classification_templates="a photo of something {c}.\n",
        )  # fmt: skip
    base = folder / "base"
    base.mkdir()
    torch.manual_seed(0)
    save_file(open_clip.CLIP(**support.MODEL["model_cfg"]).state_dict(), base / "open_clip_model.safetensors")
    (base / "open_clip_config.json").write_text(json.dumps(support.MODEL))


def _coco(data: Path, count: int) -> None:
    train = list(enumerate(scenes(count, seed=1), start=1))
    names = {i: f"COCO_train2014_{i:012d}.jpg" for i, _ in train}
    for i, scene in train:
        _save(scene.image, data / "coco" / "train2014" / names[i])
    annotations = [
        {"image_id": i, "id": 2 * i + n, "caption": text}
        for i, scene in train
        for n, text in enumerate(scene.captions)
    ]
    images = [{"id": i, "file_name": name} for i, name in names.items()]
    _put(data / "coco/annotations/captions_train2014.json", {"images": images, "annotations": annotations})
    _put(
        data / "degla" / "degla.json",
        [
            {"image_id": i, "original": text, "enhanced": scene.rewrites}
            for i, scene in train
            for text in scene.captions
        ],
    )
    _ce_clip(data / "ce-clip" / "coco_train", train)

    entries, karpathy = [], {"val": scenes(8, seed=2), "test": scenes(8, seed=3)}
    for i, (split, scene) in enumerate(((s, scene) for s, found in karpathy.items() for scene in found), 1):
        name = f"COCO_val2014_{i:012d}.jpg"
        _save(scene.image, data / "coco" / "val2014" / name)
        sentences = [{"raw": text} for text in scene.captions]
        entries.append({"filepath": "val2014", "filename": name, "split": split, "sentences": sentences})
    _put(data / "karpathy" / "dataset_coco.json", {"images": entries, "dataset": "coco"})
    _put(
        data / "aro" / "coco_karpathy_test.json",
        [
            {"image": f"val2014/{entry['filename']}", "caption": [s["raw"] for s in entry["sentences"]]}
            for entry in entries
            if entry["split"] == "test"
        ],
    )
    for i, scene in enumerate(scenes(8, seed=4), start=1):
        _save(scene.image, data / "coco" / "val2017" / f"{i:012d}.jpg")


def _ce_clip(folder: Path, train: Sequence[tuple[int, Scene]]) -> None:
    """Two pickled arrays. The last caption has no verb, and so no action negative."""
    edits = ("relation", "adj", "noun", "verb")
    rows = [
        {"image_id": i, "id": i, "caption": text, "valid_caption": [1, 1, 1, 1, int(i != train[-1][0])]}
        | {f"{edit}_aug_caption": wrong for edit, wrong in zip(edits, scene.rewrites, strict=False)}
        for i, scene in train
        for text in scene.captions
    ]
    folder.mkdir(parents=True)
    for n, part in enumerate((rows[::2], rows[1::2])):
        np.save(folder / f"processed_dataset{n}.npy", np.array(part, dtype=object), allow_pickle=True)


def _flickr(data: Path) -> None:
    splits = {"train": scenes(16, seed=8), "val": scenes(8, seed=9), "test": scenes(8, seed=5)}
    found = [
        (split, f"{split}{i}.jpg", scene) for split, made in splits.items() for i, scene in enumerate(made)
    ]
    for _, name, scene in found:
        _save(scene.image, data / "flickr30k" / "flickr30k-images" / name)
    entries = [
        {"filename": name, "split": split, "sentences": [{"raw": text} for text in scene.captions]}
        for split, name, scene in found
    ]
    _put(data / "karpathy" / "dataset_flickr30k.json", {"images": entries, "dataset": "flickr30k"})
    rows = {
        split: [
            {"image": f"flickr30k-images/{n}", "caption": s.captions} for sp, n, s in found if sp == split
        ]
        for split in splits
    }
    _put(data / "aro" / "flickr30k_test.json", rows["test"])
    # Its training split has one caption per row.
    single = [{**row, "caption": text} for row in rows["train"] for text in row["caption"]]
    _put(data / "karpathy" / "flickr30k_train.json", single)


def _visual_genome(data: Path) -> None:
    """ARO's two parts, hard positives and CREPE: pictures of Visual Genome."""
    folder, made = data / "visual-genome", scenes(8, seed=6)
    for i, scene in enumerate(made):
        _save(scene.image, folder / "images" / f"{i}.jpg")
        _save(scene.image, folder / ("VG_100K", "VG_100K_2")[i % 2] / f"{i}.jpg")

    def rows(true: str, path: str, **more: Any) -> list[dict[str, Any]]:
        return [
            {"image_path": path.format(i, ("", "_2")[i % 2]), "true_caption": getattr(scene, true)}
            | {"false_caption": scene.false[0], **more}
            for i, scene in enumerate(made)
        ]

    # Only pairs of attributes with 25 items count.
    _put(data / "aro/visual_genome_relation.json", rows("caption", "{}.jpg", relation_name="holding", **BOX))
    pairs = rows("caption", "{}.jpg", attributes=["red", "blue"], **BOX)
    _put(data / "aro" / "visual_genome_attribution.json", 4 * pairs)
    for place, true in (("data", "caption"), ("swapped_data", "second")):
        for group, file in hard_positives.FILES.items():
            found = rows(true, "{}.jpg", **BOX) if group == "swap" else rows(true, "data/VG_100K{1}/{0}.jpg")
            _put(data / "hard_positives" / place / file, found)
    for kind in crepe.KINDS:
        for complexity in crepe.COMPLEXITIES:
            name = f"{kind}/prod_vg_hard_negs_{kind}_complexity_{complexity}.csv"
            _table(
                data / "crepe" / name,
                [
                    {"image_id": i, "caption": scene.caption, "hard_negs": repr(scene.false)}
                    | {"x": 0, "y": 0, "width": 32, "height": 32}
                    for i, scene in enumerate(made)
                ],
            )


def _composition(data: Path) -> None:
    """SugarCrepe, SugarCrepe++ and VALSE on COCO, and Winoground."""
    coco = list(enumerate(scenes(8, seed=4), start=1))

    def row(i: int, scene: Scene, wrong: int) -> dict[str, str]:
        names = {"filename": f"{i:012d}.jpg", "caption": scene.caption}
        return names | {"negative_caption": scene.false[wrong % 4]}

    for k, subset in enumerate(sugarcrepe.SUBSETS):
        found = {str(i): row(i, scene, k) for i, scene in coco}
        _put(data / "sugar-crepe" / "data" / f"{subset}.json", found)
    for k, subset in enumerate(sugarcrepe_pp.SUBSETS):
        rows = [{"id": i, "caption2": scene.second, **row(i, scene, k)} for i, scene in coco]
        _put(data / "scpp" / "data" / f"{subset}.json", rows)

    images = data / "valse" / "images"
    images.mkdir(parents=True)
    for name in ("train2014", "val2014", "val2017"):
        (images / name).symlink_to(Path("../../coco") / name)
    for instrument in valse.INSTRUMENTS:
        source, path = SOURCES.get(instrument, SOURCES["existence"])
        found = {}
        for i, scene in coco:
            file = images / path.format(i)
            if not file.exists():
                _save(scene.image, file)
            found[str(i)] = {
                "image_file": file.name, "caption": scene.caption, "foil": scene.false[0],
                "dataset": source, "mturk": {"caption": 3, "foil": 0, "other": 0},
            }  # fmt: skip
        _put(data / "valse" / "data" / f"{instrument}.json", found)

    lines = []
    for i, scene in enumerate(scenes(8, seed=7)):
        names = [f"ex_{i}_img_{side}" for side in (0, 1)]
        mirrored = scene.image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        for name, image in zip(names, (scene.image, mirrored), strict=True):
            _save(image, data / "winoground" / "images" / f"{name}.png")
        texts = {"caption_0": scene.caption, "caption_1": scene.caption.replace("left", "right")}
        lines.append({"id": i, "image_0": names[0], "image_1": names[1], "tag": "Object", **texts})
    (data / "winoground" / "examples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def _put(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def _table(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def commands(page: str) -> Iterator[list[str]]:
    """The words of the page's `open-clip-ext negatives` commands, in order, with file patterns expanded."""
    for line in re.findall(r"^ {4}open-clip-ext (negatives .*)$", page, re.MULTILINE):
        yield [name for word in shlex.split(line) for name in (sorted(glob(word)) if "*" in word else [word])]


if __name__ == "__main__":
    there = Path(sys.argv[1])
    write(there)
    for study in STUDIES.glob("*.toml"):
        (there / study.name).write_text(small(study.read_text()))
