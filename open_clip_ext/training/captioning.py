"""CoCa's captioning loss beside a loss of this package."""

from __future__ import annotations

from typing import Any

from open_clip.loss import CoCaLoss
from torch import Tensor, nn

from open_clip_ext.model.override import override

STATE = "_open_clip_ext_captioning"


def add_captioning(loss: nn.Module, caption_weight: float, contrastive_weight: float) -> None:
    """Make `loss` take what a CoCa model's decoder returns, too, and return one term more; in place.

        contrastive_weight * (each of its terms)
        captioning_loss = caption_weight * upstream's, of the captions alone: companions are not decoded

    Args:
        loss: called with `output_dict=True`, with what it takes itself, and with `logits [b, L-1, V]` and
            `labels [b, L-1]` int64.
        caption_weight: upstream's `--coca-caption-loss-weight`.
        contrastive_weight: upstream's `--coca-contrastive-loss-weight`.
    """
    base: Any = type(loss)
    captioning = CoCaLoss(caption_weight, clip_loss_weight=0)

    def forward(
        self: Any, *args: Any, logits: Tensor, labels: Tensor, output_dict: bool = True, **named: Any
    ) -> dict[str, Tensor]:
        terms = base.forward(self, *args, output_dict=True, **named)
        decoded = captioning(None, None, logits, labels, None, output_dict=True)["caption_loss"]
        weighted = {name: contrastive_weight * term for name, term in terms.items()}
        return {**weighted, "captioning_loss": decoded}

    override(loss, STATE, captioning, forward=forward)
