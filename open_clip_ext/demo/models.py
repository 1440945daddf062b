"""Models in folders that upstream reads."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"


def new_folder(target: Path) -> Path:
    """An empty folder to fill. `finish` renames it to `target`, so that `target` is always complete."""
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    return part


def finish(part: Path, target: Path) -> None:
    """Rename a filled folder to its final name."""
    os.replace(part, target)


def write(target: Path, config: Mapping[str, Any], weights: Mapping[str, Any]) -> None:
    """A model folder for `--model local-dir:...`.

    Args:
        target: the folder.
        config: of the model, as upstream reads it.
        weights: of the model, by upstream's names.
    """
    from safetensors.torch import save_file

    part = new_folder(target)
    (part / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    save_file({key: value.contiguous() for key, value in weights.items()}, part / WEIGHTS)
    finish(part, target)


def untrained(target: Path, config: Mapping[str, Any], seed: int) -> None:
    """The model before pretraining."""
    import open_clip
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.CLIP(**config["model_cfg"])
    write(target, config, model.state_dict())


def trained(target: Path, config: Mapping[str, Any], checkpoint: Path) -> None:
    """The model of a checkpoint of the trainer's."""
    import torch

    values = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    write(target, config, {key.removeprefix("module."): value for key, value in values.items()})
