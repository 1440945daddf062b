"""Data sets in their official layouts, with drawn pictures."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

from PIL import Image
from support import COLOURS, add_file, photos

from open_clip_ext.evaluation.readers import sugarcrepe


def picture(colour: str) -> Image.Image:
    return Image.new("RGB", (20, 16), COLOURS[colour])


def write_folders(root: Path, colours: dict[str, str], each: int = 2) -> Path:
    """A folder per class, its pictures of one colour."""
    for folder, colour in colours.items():
        (root / folder).mkdir(parents=True)
        for i in range(each):
            picture(colour).save(root / folder / f"{i}.png")
    return root


def png(colour: str) -> bytes:
    encoded = io.BytesIO()
    picture(colour).save(encoded, "png")
    return encoded.getvalue()


def write_wds(root: Path, samples: list[dict[str, bytes]], shards: int = 2, **texts: str) -> Path:
    (root / "test").mkdir(parents=True)
    (root / "test" / "nshards.txt").write_text(str(shards))
    for name, text in texts.items():
        (root / f"{name}.txt").write_text(text)
    for shard in range(shards):
        with tarfile.open(root / "test" / f"{shard}.tar", "w") as tar:
            for i, sample in list(enumerate(samples))[shard::shards]:
                for suffix, content in sample.items():
                    add_file(tar, f"s{i:07d}.{suffix}", content)
    return root


def write_crepe(folder: Path, seed: int) -> Path:
    """SugarCrepe's files, six items in each."""
    folder.mkdir()
    made = photos(42, seed=seed)
    for i, photo in enumerate(made):
        photo.image.save(folder / f"{i}.png")
    for k, subset in enumerate(sugarcrepe.SUBSETS):
        rows = {
            str(i): {
                "filename": f"{i}.png",
                "caption": made[i].caption,
                "negative_caption": made[i].negatives[i % 4],
            }
            for i in range(k, 42, 7)
        }
        (folder / f"{subset}.json").write_text(json.dumps(rows))
    return folder
