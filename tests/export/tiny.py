"""Tiny models to export: changes of the tests' CLIP, and a SigLIP with a T5 tokenizer, all made here."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import open_clip
import support
import timm
import torch
from timm.models.vision_transformer import VisionTransformer

SIGLIP = "vit_tiny_siglip_export"
PIECES = ["<pad>", "</s>", "<unk>", "▁", *"abcdefghijklmnopqrstuvwxyz0123456789-", "▁a", "▁the", "dog", "and"]


def _vit(pretrained: bool = False, **options: Any) -> VisionTransformer:
    kept = {key: options[key] for key in ("num_classes", "global_pool") if key in options}
    return VisionTransformer(
        img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, class_token=False, **kept
    )


def register() -> None:
    """Let timm know a tiny image tower of SigLIP by name."""
    if not timm.is_model(SIGLIP):
        _vit.__name__, _vit.__module__ = SIGLIP, f"{__name__}_models"
        sys.modules[_vit.__module__] = types.ModuleType(_vit.__module__)
        timm.models.register_model(_vit)


def write_siglip(folder: Path, **text: object) -> str:
    """A tiny SigLIP as `--model local-dir:...`, with a tokenizer and without weights."""
    from transformers import T5Tokenizer

    register()
    support.write_model(
        folder,
        init_logit_bias=-10,
        custom_text=True,
        vision_cfg={
            "image_size": 32,
            "timm_model_name": SIGLIP,
            "timm_model_pretrained": False,
            "timm_pool": "map",
            "timm_proj": "none",
        },
        text_cfg={
            "context_length": 16,
            "vocab_size": len(PIECES),
            "hf_tokenizer_name": "none/such",
            "tokenizer_kwargs": {"clean": "canonicalize"},
            "width": 32,
            "heads": 2,
            "layers": 2,
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
            "norm_kwargs": {"eps": 1e-6},
            "act_kwargs": {"approximate": "tanh"},
            **text,
        },
    )
    path = folder / "open_clip_config.json"
    preprocessing = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
    path.write_text(json.dumps({**json.loads(path.read_text()), "preprocess_cfg": preprocessing}))
    pieces = [(piece, -float(place)) for place, piece in enumerate(PIECES)]
    T5Tokenizer(vocab=pieces, extra_ids=0, pad_token="</s>").save_pretrained(folder)
    return f"local-dir:{folder}"


def change_config(model: str, **changes: object) -> None:
    """Change the configuration of a `local-dir:` model."""
    path = Path(model.removeprefix("local-dir:"), "open_clip_config.json")
    config = json.loads(path.read_text())
    config["model_cfg"] |= changes
    path.write_text(json.dumps(config))


def draw(model: str) -> dict[str, torch.Tensor]:
    """Random weights of a `local-dir:` model, in which no bias or norm is trivial."""
    torch.manual_seed(0)
    state = open_clip.create_model(model).state_dict()
    return {
        key: value + 0.1 * torch.randn_like(value) if value.ndim == 1 else value
        for key, value in state.items()
    }


def write_weights(model: str, path: Path) -> Path:
    """A file with nothing but such weights."""
    torch.save({"state_dict": draw(model)}, path)
    return path
