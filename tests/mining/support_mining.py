"""What the tests of mining share: a folder of photos with captions, a store, and tiny models with weights."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import open_clip
import support
import torch

from open_clip_ext.negatives.records import Candidate
from open_clip_ext.negatives.store import Writer

TYPES = ("swap", "cross", "both", "turn")  # of the negatives of `support.photos`, in their order


def write_data(folder: Path, count: int = 12) -> tuple[Path, Path]:
    """`captions.csv` with photos next to it, and `n.store` with four negatives of each caption."""
    folder.mkdir(parents=True, exist_ok=True)
    table, store = folder / "captions.csv", folder / "n.store"
    with (
        table.open("w", newline="") as file,
        Writer(store, "drawn", "1", {"seed": 0}, [*TYPES, "same"]) as writer,
    ):
        rows = csv.writer(file)
        rows.writerow(["filepath", "title"])
        drawn = {photo.caption: photo for photo in support.photos(20 * count, seed=1)}
        for i, photo in enumerate([*drawn.values()][:count]):
            caption = f"{i} {photo.caption}"
            photo.image.putpixel((0, 0), (i, i, i))  # no two files are equal
            photo.image.save(folder / f"{i}.png")
            rows.writerow([f"{i}.png", caption])
            texts = [Candidate(type, f"{i} {n}") for type, n in zip(TYPES, photo.negatives, strict=True)]
            texts[1].reason = "length" if i == 0 else ""
            writer.add(caption, [*texts, Candidate("same", f"{photo.caption} {i}", "pos")], [f"{i}.png"])
    return table, store


def write_weights(folder: Path, seeds: Sequence[int] = (0,)) -> list[str]:
    """The flags of tiny models of different weights."""
    name = support.write_model(folder)
    config = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    files = []
    for seed in seeds:
        torch.manual_seed(seed)
        files.append(str(folder / f"{seed}.pt"))
        torch.save({"state_dict": open_clip.CLIP(**config).state_dict()}, files[-1])
    return [name, *files]
