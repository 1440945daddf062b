"""Models that see pictures only, from timm: `timm:NAME`, such as DINOv2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from open_clip_ext.errors import InputError
from open_clip_ext.evaluation import models
from open_clip_ext.evaluation.models import Loaded
from open_clip_ext.model.checkpoints import first_line

TIMM = "timm:"


class Vision(nn.Module):
    """A model of timm with the method that encoders call.

    Args:
        model: from images `[N, 3, H, W]` to features `[N, D]`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def encode_image(self, images: Tensor) -> Tensor:
        """Features `[N, D]`."""
        features: Tensor = self.model(images)
        return features


def load(
    name: str, pretrained: str | None, activation: str | None, precision: str, device: str | None
) -> Loaded:
    """A model for pictures: `timm:NAME`, or any that `evaluation.models.load` knows.

    Args:
        name: of the model.
        pretrained: a checkpoint file; for a model of open_clip also a tag. None means timm's own weights.
        activation: of a model of open_clip.
        precision: one of `evaluation.models.PRECISIONS`.
        device: None means the accelerator if there is one.

    Raises InputError if there is no such model, or its weights cannot be had.
    """
    if not name.startswith(TIMM):
        return models.load(name, pretrained, activation=activation, precision=precision, device=device)
    import timm

    plain = name.removeprefix(TIMM)
    if not timm.is_model(plain):
        raise InputError(f"{name}: timm has no such model; `timm.list_models('*dino*')` lists some")
    if pretrained and not Path(pretrained).is_file():
        raise InputError(
            f"{name}: there is no file {pretrained}; give its weights, or nothing for timm's own"
        )
    weights: dict[str, Any] = {"checkpoint_path": pretrained} if pretrained else {"pretrained": True}
    try:
        with models.quiet():
            model = timm.create_model(plain, num_classes=0, **weights)
    except (RuntimeError, ValueError, OSError, KeyError) as error:
        raise InputError(f"{name}: its weights cannot be loaded ({first_line(error)})") from error
    data = timm.data.resolve_model_data_config(model)
    preprocess = timm.data.create_transform(**data, is_training=False)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision, torch.float32)
    model = Vision(model).to(device=device, dtype=dtype).eval()
    return Loaded(model, preprocess, _no_texts, {"name": name, "checkpoint": pretrained or "timm's"})


def _no_texts(texts: list[str]) -> Tensor:
    raise NotImplementedError("it reads no texts")
