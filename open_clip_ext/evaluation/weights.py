"""Interpolate the weights of two models, and save them in files that name their model.

WiSE-FT (Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022, equation 2):

    theta(alpha) = (1 - alpha) theta_A + alpha theta_B
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from open_clip_ext.errors import InputError
from open_clip_ext.files import atomic_write

NOTE = "open_clip_ext"


def interpolate(
    a: Mapping[str, Tensor], b: Mapping[str, Tensor], alpha: float, names: tuple[str, str] = ("A", "B")
) -> dict[str, Tensor]:
    """`(1 - alpha) a + alpha b` for each key, including `logit_scale` (a logarithm).

    Computed in fp32 (fp64 for fp64 weights); the result has the dtype of the weights. Alpha 0 gives `a` and
    alpha 1 gives `b`, bit for bit. Integer buffers, such as BatchNorm's count of batches, are those of the
    nearer model.

    Args:
        a: state dict of the base.
        b: state dict of the fine-tuned model.
        alpha: from 0 to 1.
        names: how error messages call the two.

    Raises:
        InputError: alpha is out of range, the two differ in architecture, or a weight is not finite.
    """
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha {alpha:g}: it must lie between 0 ({names[0]}) and 1 ({names[1]})")
    _require_one_architecture(a, b, names)
    for weights, name in zip((a, b), names, strict=True):
        for key, value in weights.items():
            if not bool(value.isfinite().all()):
                raise InputError(f"{name}: {key} is not finite, so no mixture with it is finite")
    return {key: _between(value, b[key], alpha) for key, value in a.items()}


def save(path: Path, weights: Mapping[str, Tensor], note: Mapping[str, str]) -> None:
    """Write a checkpoint that open_clip loads, atomically.

    Args:
        path: with the suffix .safetensors for that format, otherwise in torch's.
        weights: a state dict.
        note: returned by `read_note`.

    Raises InputError if it cannot be written.
    """
    # Clones, because safetensors refuses tensors that share memory.
    weights = {key: value.detach().cpu().clone().contiguous() for key, value in weights.items()}

    def fill(part: Path) -> None:
        if path.suffix == ".safetensors":
            from safetensors.torch import save_file

            save_file(weights, part, metadata={"format": "pt", NOTE: json.dumps(dict(note))})
        else:
            torch.save({"state_dict": weights, NOTE: dict(note)}, part)

    try:
        atomic_write(path, fill)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error


def read_note(path: Path) -> dict[str, str]:
    """The note of a checkpoint that `save` wrote; empty for any other file."""
    try:
        if path.suffix == ".safetensors":
            from safetensors import SafetensorError, safe_open

            try:
                with safe_open(path, "pt") as file:
                    note: Any = json.loads((file.metadata() or {}).get(NOTE, "{}"))
            except SafetensorError:
                return {}
        else:
            content = torch.load(path, map_location="meta", weights_only=True, mmap=True)
            note = content.get(NOTE, {}) if isinstance(content, dict) else {}
    except (OSError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError):
        return {}  # the code that loads the weights reports the error
    return dict(note) if isinstance(note, dict) else {}


def _between(a: Tensor, b: Tensor, alpha: float) -> Tensor:
    if alpha in (0, 1) or not a.is_floating_point():
        # Not by arithmetic, because -0.0 + 0 * x is +0.0.
        return a if alpha < 0.5 else b
    stored = torch.promote_types(a.dtype, b.dtype)
    exact = torch.promote_types(stored, torch.float32)
    return torch.lerp(a.to(exact), b.to(exact), alpha).to(stored)


def _require_one_architecture(
    a: Mapping[str, Tensor], b: Mapping[str, Tensor], names: tuple[str, str]
) -> None:
    for one, other, name, lacking in ((a, b, *names), (b, a, *names[::-1])):
        extra = sorted(one.keys() - other.keys())
        if extra:
            raise InputError(
                f"{name} has {extra[0]}{_more(extra)}, {lacking} does not: "
                "only checkpoints of one architecture can be merged"
            )
    other_shape = [key for key in a if a[key].shape != b[key].shape]
    if other_shape:
        key = other_shape[0]
        raise InputError(
            f"{key} has shape {list(a[key].shape)} in {names[0]} and {list(b[key].shape)} in {names[1]}"
            f"{_more(other_shape)}: only checkpoints of one architecture can be merged"
        )


def _more(keys: list[str]) -> str:
    return f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""
