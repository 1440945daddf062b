"""A small study: two bases, two methods of which one has a value to choose, drawn data and benchmarks."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import support
import torch
from drawn import write_crepe, write_folders
from safetensors.torch import save_file

TOML = """
seeds = [0, 1]
weights = [0.5]
reference = ["clip"]
at_once = 2

[bases.a]
model = "local-dir:base-a"

[bases.b]
model = "local-dir:base-b"

[train]
train-data = "data/photos.csv"
csv-separator = ","
device = "cpu"
precision = "fp32"
workers = 0
batch-size = 8
epochs = 1
warmup = 1
log-every-n-steps = 1

[methods.clip]
flags = { lr = 1e-3 }

[methods.negclip]
choose = { lr = [1e-3, 1e-4] }

[[dev]]
benchmark = "sugarcrepe"
annotations = "dev"
images = "dev"

[[reported]]
benchmark = "sugarcrepe"
annotations = "test"
images = "test"

[[reported]]
benchmark = "image-folder"
images = "colours"
"""


def write(folder: Path, text: str = TOML) -> Path:
    """A study's file alone."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "small.toml"
    file.write_text(text)
    return file


def write_data(folder: Path) -> None:
    """All that the study's file names."""
    support.write_csv(folder / "data", support.photos(16))
    for seed, name in enumerate("ab"):
        base = folder / f"base-{name}"
        base.mkdir()
        torch.manual_seed(seed)
        save_file(
            open_clip.CLIP(**support.MODEL["model_cfg"]).state_dict(), base / "open_clip_model.safetensors"
        )
        (base / "open_clip_config.json").write_text(json.dumps(support.MODEL))
    write_crepe(folder / "dev", seed=11)
    write_crepe(folder / "test", seed=12)
    write_folders(folder / "colours", {"red": "red", "blue": "blue", "green": "green"})
