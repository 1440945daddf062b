"""NegCLIP: captions with edited words as extra columns of the contrastive loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from open_clip_ext.losses import functional
from open_clip_ext.losses.base import Loss, check_shapes, in_fp32


class NegCLIPLoss(Loss):
    """NegCLIP's contrastive loss.

        L = 1/2 [ mean_i CE(s v_i.[T ; N], i) + mean_i CE(s t_i.V, i) ]        N: all B*K negatives

    Source: arXiv 2210.01936; vinid/neg_clip@e680f8e `src/open_clip/loss.py`, `ClipLoss`.

    Differs: any K, missing negatives, and several processes, where the authors' gather reads
    negatives as captions. Hard images are a matter of the data: they come as samples of the batch.
    """

    companions: ClassVar[Mapping[str, int]] = {"neg": 4}
    paper: ClassVar[str] = (
        "Yuksekgonul et al., When and Why Vision-Language Models Behave like Bags-of-Words, and "
        "What to Do About It?, ICLR 2023, arXiv 2210.01936"
    )

    @in_fp32
    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor,
        neg_text_features: Tensor,
        neg_valid: Tensor | None = None,
        output_dict: bool = False,
    ) -> Tensor | dict[str, Tensor]:
        """Score a batch.

        Args:
            image_features: `[b, D]`, any float dtype.
            text_features: `[b, D]`.
            logit_scale: one element.
            neg_text_features: `[b, K, D]`.
            neg_valid: `[b, K]` bool; None means that all exist.
            output_dict: return the term by name.

        Raises:
            ValueError: a shape does not fit.
        """
        check_shapes(image_features, text_features, logit_scale, neg_text_features, neg_valid)
        rows, columns = self.share(image_features, text_features, neg_text_features, neg_valid)
        v, t, n, valid, _ = rows
        assert n is not None
        loss = functional.hard_negative_clip(v, t, n, logit_scale, valid, columns=columns)
        return self.finish({"contrastive_loss": loss}, output_dict)
