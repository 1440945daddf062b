"""The EMA teacher: an exponential moving average of the model in training, the student."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from open_clip.hf_model import HFTextEncoder
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from open_clip_ext.errors import InputError
from open_clip_ext.model import checkpoints


def examine(checkpoint: str) -> None:
    """Raise InputError if a teacher cannot start from this file, as its first bytes and its end show."""
    try:
        checkpoints.examine(Path(checkpoint))
    except InputError as error:
        raise InputError(f"teacher_checkpoint={error}") from error


class EMATeacher(ModelEmaV3):  # type: ignore[misc]
    """A frozen fp32 copy of a CLIP model that follows the student's weights.

        teacher <- decay * teacher + (1 - decay) * student

    Parameters are averaged in place, buffers are copied (DeGLA's released code never copies them:
    xiaoxing2001/DeGLA@1c5e960, src/training/train.py). The copy is in eval mode and needs no
    gradient. It must not be registered in the student, or it would enter the state dict, the
    optimizer and DDP.

    Args:
        model: the student, not wrapped in DDP or a compiler; its weights are the initial ones.
        decay: share of its old weights that the teacher keeps in one update, in [0, 1].
        checkpoint: start from the weights in this file instead; any layout that `checkpoints.load` reads.

    Raises:
        InputError: `checkpoint` does not exist or does not fit the model.
    """

    def __init__(self, model: nn.Module, decay: float = 0.9996, checkpoint: str | None = None) -> None:
        super().__init__(model, decay=decay, exclude_buffers=True)
        # bf16 cannot represent a change of (1-decay) of a weight: an average in bf16 would never move.
        self.module.float().requires_grad_(False)
        # Nothing is saved for a backward pass here. Upstream's wrapper of a Hugging Face tower turns them on
        # whatever it is told; these are made in training mode alone.
        text_of_its_own = type(getattr(self.module, "text", None)) is HFTextEncoder
        part = self.module.visual if text_of_its_own else self.module
        if hasattr(part, "set_grad_checkpointing"):
            part.set_grad_checkpointing(False)
        if checkpoint is not None:
            self._load(checkpoint)

    @torch.no_grad()
    def forward(self, image: Tensor, text: Tensor) -> dict[str, Tensor]:
        """`image_features` and `text_features` of `image [B,3,H,W]` and `text [N,L]`, with fp32 weights."""
        return {
            "image_features": self.module.encode_image(image.float(), normalize=True),
            "text_features": self.module.encode_text(text, normalize=True),
        }

    def train(self, mode: bool = True) -> EMATeacher:
        """Stay in eval mode: the teacher uses no dropout and does not update its statistics."""
        return super().train(False)  # type: ignore[no-any-return]

    def _load(self, checkpoint: str) -> None:
        try:
            checkpoints.load(self.module, checkpoint)
        except InputError as error:
            raise InputError(f"teacher_checkpoint={error}") from error
        logging.info(f"open_clip_ext: the teacher starts from {checkpoint}")
