"""DAC: a bag of dense captions of each image, of which some may be wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from open_clip_ext.losses import functional
from open_clip_ext.losses.base import Batch, HardNegativeLoss, option, term


class DACLoss(HardNegativeLoss):
    """DAC's loss: NegCLIP's contrast, own negatives once more, and a bag of captions in two contrasts.

        L     = L_neg + igc_weight L_igc + mil_weight L_mil + own_weight L_own
        L_mil = mean_i [ logsumexp({x_ijm}_jm, {x_jim}_jm) - logsumexp_m x_iim ]       x_ijm = s v_i.p_jm
        L_own = mean_i [ logsumexp({x_iim}_m, {s v_i.n_ik}_k) - logsumexp_m x_iim ]

    p_im are the dense captions of image i (kind `pos`): an image is close to some of its bag, not to each.
    A sample without any contributes 0 to L_mil and L_own, one without negatives 0 to L_igc and L_own.

    Source: Dense and Aligned Captions Promote Compositional Reasoning in VL Models, arXiv 2305.19595;
    SivanDoveh/DAC@ca23611 `src/open_clip/loss.py`.

    Differs: the negatives of a caption and those of its dense captions are one kind, and all are columns in
    L_neg; missing texts have no logit, where theirs are 0.
    """

    paper = "Doveh et al., NeurIPS 2023, arXiv 2305.19595"
    companions: ClassVar[Mapping[str, int]] = {"neg": 4, "pos": 2}
    igc_weight: float = option(default=1.0, least=0)
    mil_weight: float = option(default=1.0, least=0)
    own_weight: float = option(default=1.0, least=0)

    @term("igc_weight")
    def igc_loss(self, x: Batch) -> Tensor:
        """The image-grounded contrast."""
        v, t, n, valid = x.rows.tensors("neg")
        return functional.image_grounded(v, t, n, x.scale, valid)

    @term("mil_weight")
    def mil_loss(self, x: Batch) -> Tensor:
        """Bags of the whole batch; see `functional.bag_clip`."""
        v, _, p, valid = x.rows.tensors("pos")
        return functional.bag_clip(v, p, x.scale, valid, columns=x.columns.of("pos"))

    @term("own_weight")
    def own_loss(self, x: Batch) -> Tensor:
        """The bag of an image against its negatives; see `functional.image_grounded_bag`."""
        v, _, p, valid = x.rows.tensors("pos")
        n, exists = x.rows.features("neg"), x.rows.exists("neg")
        return functional.image_grounded_bag(v, p, n, x.scale, valid, exists)
