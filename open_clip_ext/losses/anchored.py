"""Anchored: learning on own negatives, while the base is held away from the training data."""

from __future__ import annotations

from torch import Tensor

from open_clip_ext.losses import functional
from open_clip_ext.losses.base import Batch, HardNegativeLoss, option, term


class AnchoredLoss(HardNegativeLoss):
    """The loss of this project.

        L       = L_neg + igc_weight L_igc
                  + image_anchor L_image + text_anchor L_text + similarity_anchor L_sim
        L_igc   = mean_i CE(s [v_i.t_i ; v_i.n_i1 ; .. ; v_i.n_iK], 0)
        L_image = mean_i |f(x_i) - f0(x_i)|^2      x: pictures mixed from blocks of the batch's
        L_text  = mean_r |g(r) - g0(r)|^2          r: reference texts, which the captions do not say
        L_sim   = mean_ir (f(x_i).g(r) - f0(x_i).g0(r))^2

    f and g are the towers, f0 and g0 those that the run started from. How it was found, what was tried beside
    it and what it does not do: docs/anchored.md.

    Source: L_neg is NegCLIP's, L_igc DeGLA's; the anchors are our own.
    """

    paper = "this project, docs/anchored.md; L_igc of Hu et al., ACM MM 2025, arXiv 2504.16801"
    igc_weight: float = option(default=1.0, least=0)
    image_anchor: float = option(default=2.0, least=0)
    text_anchor: float = option(default=2.0, least=0)
    similarity_anchor: float = option(default=20.0, least=0)

    @term("igc_weight")
    def igc_loss(self, x: Batch) -> Tensor:
        """The image-grounded contrast."""
        v, t, n, valid = x.rows.tensors("neg")
        return functional.image_grounded(v, t, n, x.scale, valid)
