"""CoN-CLIP: NegCLIP's contrast with negated captions, and with an image for each of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from open_clip_ext.losses import functional
from open_clip_ext.losses.base import Batch, HardNegativeLoss, term


class CoNCLIPLoss(HardNegativeLoss):
    """CoN-CLIP's loss, without negative images and with them (`--companion-images neg=1`).

        without:  L = 1/2 [ mean_i CE(s v_i.[T ; N], i) + mean_i CE(s t_i.V, i) ]
        with:     L = 1/3 [ mean_i CE(s v_i.[T ; N], i) + mean_i CE(s t_i.[V ; V-], i)
                            + mean_i CE(s v-_i.[T ; N], n_i) ]

    n_i is the negated caption, v-_i an image that it is true of. The first equation is NegCLIP's. What makes
    it CoN-CLIP is the data and the locked image tower (`--lock-image`).

    Source: Learn "No" to Say "Yes" Better, arXiv 2403.20312; jaisidhsingh/CoN-CLIP@503388a.

    Differs: any K, missing negatives and images, and several processes.
    """

    paper = "Singh et al., WACV 2025, arXiv 2403.20312"
    companions: ClassVar[Mapping[str, int]] = {"neg": 1}
    companion_images: ClassVar[Mapping[str, int]] = {"neg": 0}

    @term()
    def contrastive_loss(self, x: Batch) -> Tensor:
        """See `functional.hard_negative_clip` and `functional.negative_images_clip`."""
        if not x.has_images("neg"):
            return super().contrastive_loss(x)
        rows, columns = ((y.of("neg"), y.of_images("neg")) for y in (x.rows, x.columns))
        return functional.negative_images_clip(*rows, x.scale, columns=columns, bias=x.bias)
