"""TripletCLIP: NegCLIP's contrast, and the same of negative images and their captions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from open_clip_ext.losses import functional
from open_clip_ext.losses.base import Batch, HardNegativeLoss, term


class TripletCLIPLoss(HardNegativeLoss):
    """TripletCLIP's loss.

        L     = L_neg(V, T, N) + L_neg(V-, N, T)
        L_neg(V, T, N) = 1/2 [ mean_i CE(s v_i.[T ; N], i) + mean_i CE(s t_i.V, i) ]

    n_i is the negative caption, v-_i an image made from it: for that image the negative is true.

    Source: TripletCLIP, arXiv 2411.02545; tripletclip/TripletCLIP@abbf81c.

    Differs: any K, missing negatives and images, and several processes.
    """

    paper = "Patel et al., NeurIPS 2024, arXiv 2411.02545"
    companions: ClassVar[Mapping[str, int]] = {"neg": 1}
    companion_images: ClassVar[Mapping[str, int]] = {"neg": 1}

    @term()
    def negatives_loss(self, x: Batch) -> Tensor:
        """The second contrast; see `functional.negative_pairs_clip`."""
        rows, columns = ((y.of("neg"), y.of_images("neg")) for y in (x.rows, x.columns))
        return functional.negative_pairs_clip(*rows, x.scale, columns=columns, bias=x.bias)
