"""CLIP: the loss of the host, under this package's contract."""

from __future__ import annotations

from torch import Tensor

from open_clip_ext.losses import functional
from open_clip_ext.losses.base import Batch, Loss, term


class CLIPLoss(Loss):
    """CLIP's symmetric contrastive loss: the baseline, without companion texts.

        L = 1/2 [ mean_i CE(s v_i.T, i) + mean_i CE(s t_i.V, i) ]

    Source: mlfoundations/open_clip `ClipLoss`, whose values and gradients it has in all gather modes.
    """

    paper = "Radford et al., ICML 2021, arXiv 2103.00020"

    @term()
    def contrastive_loss(self, x: Batch) -> Tensor:
        """See `functional.clip`."""
        return functional.clip(x.rows.image, x.rows.text, x.scale, columns=x.columns.of())
