"""A small study: two bases, two methods of which one has a value to choose, drawn data and benchmarks."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import support
import torch
from drawn import write_crepe, write_folders
from safetensors.torch import save_file

from open_clip_ext import cli

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


ONE = {
    "seeds = [0, 1]": "seeds = [0]",
    '[bases.b]\nmodel = "local-dir:base-b"\n': "",
    "choose = { lr = [1e-3, 1e-4] }": "flags = { lr = 1e-3 }",
}  # fmt: skip


def small() -> str:
    """One base, one seed, nothing to choose."""
    text = TOML
    for old, new in ONE.items():
        assert old in text
        text = text.replace(old, new)
    return text


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


def call(*words: object) -> int:
    """The exit status of `open-clip-ext study ...`."""
    try:
        return cli.main(["study", *map(str, words)])
    except SystemExit as end:
        return int(str(end.code))


class Fork:
    """`trainer.Process`, but a fork of the tests' server, which does not hold the lock."""

    def __init__(self, words, cwd, output, lock):
        self._process = support.server().start(words[1:], output, output, support.ENVIRONMENT, cwd)

    def wait(self, seconds):
        return self._process.poll() if self._process.returncode is not None else self._waited(seconds)

    def _waited(self, seconds):
        try:
            return self._process.wait(seconds)
        except Exception:
            return None

    def stop(self):
        support.end(self._process)
