"""CLIP: the loss of the host, under this package's contract."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from open_clip_ext.losses import functional
from open_clip_ext.losses.base import Loss, check_shapes, in_fp32


class CLIPLoss(Loss):
    """CLIP's symmetric contrastive loss: the baseline, without companion texts.

        L = 1/2 [ mean_i CE(s v_i.T, i) + mean_i CE(s t_i.V, i) ]

    Source: arXiv 2103.00020; mlfoundations/open_clip `ClipLoss`, whose values and gradients it
    has in all gather modes.
    """

    companions: ClassVar[Mapping[str, int]] = {}
    paper: ClassVar[str] = (
        "Radford et al., Learning Transferable Visual Models From Natural Language Supervision, "
        "ICML 2021, arXiv 2103.00020"
    )

    @in_fp32
    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor,
        output_dict: bool = False,
    ) -> Tensor | dict[str, Tensor]:
        """Score a batch.

        Args:
            image_features: `[b, D]`, any float dtype.
            text_features: `[b, D]`.
            logit_scale: one element.
            output_dict: return the term by name.

        Raises:
            ValueError: a shape does not fit.
        """
        check_shapes(image_features, text_features, logit_scale)
        rows, columns = self.share(image_features, text_features)
        loss = functional.clip(rows.image, rows.text, logit_scale, columns=columns)
        return self.finish({"contrastive_loss": loss}, output_dict)
