"""AHNPL: CE-CLIP's terms, and negatives of images made of the edits of their captions."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from open_clip_ext.losses import functional
from open_clip_ext.losses.base import Batch, option, term
from open_clip_ext.losses.margins import AdaptiveMarginLoss


class AHNPLLoss(AdaptiveMarginLoss):
    """AHNPL's loss, its two contrasts with the positive that the released code leaves out.

        L       = L_neg + cmr_weight L_cmr + text_weight L_text + image_weight L_image
        L_text  = mean_i CE([s v_i.t_i ; s t_i.N], 0)
        L_image = mean_i CE([s v_i.t_i ; s v_i.V-], 0)        v-_ik = unit(v_i + sg(n_ik - t_i))

    L_neg and L_cmr are those of `AdaptiveMarginLoss`. `image="own"` is ours: the caption chooses between its
    image and that image's own disturbed ones, `functional.disturbed_contrast`.

    Source: Visual Perturbation and Adaptive Hard Negative Contrastive Learning, arXiv 2505.15576;
    nynu-BDAI/AHNPL@6f35f47 `open_clip/loss.py`.

    Differs: both contrasts of the released code have no positive and target i, which is a negative, most
    often of another sample. Their v- has no unit length. The hinge on positives, max(0, alpha - s v_i.t_i),
    is left out: alpha is a random number that is not trained, of the size of 1 where s v_i.t_i is near 25.
    Missing negatives are masked in every term, and several processes give the value of one.
    """

    paper = "Huang et al., IJCAI 2025, arXiv 2505.15576"
    text_weight: float = option(default=0.2, least=0)
    image_weight: float = option(default=0.2, least=0)
    image: Literal["paper", "own"] = option(default="paper", needs="image_weight")

    @term("text_weight")
    def text_loss(self, x: Batch) -> Tensor:
        """Captions are told apart from all edited ones."""
        v, t, n, valid = x.rows.tensors("neg")
        return functional.intra_modal(v, t, n, x.scale, valid, columns=x.columns.of("neg"))

    @term("image_weight")
    def image_loss(self, x: Batch) -> Tensor:
        """Images, or captions, are told apart from disturbed images."""
        v, t, n, valid = x.rows.tensors("neg")
        columns = x.columns.of("neg")
        return functional.disturbed_contrast(v, t, n, x.scale, valid, self.image, columns=columns)
