"""NegCLIP: captions with edited words as extra columns of the contrastive loss, and hard images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from open_clip_ext.losses import functional
from open_clip_ext.losses.base import Batch, HardNegativeLoss, term


class NegCLIPLoss(HardNegativeLoss):
    """NegCLIP's contrastive loss.

        L = 1/2 [ mean_i CE(s v_i.[T ; N], i) + mean_i CE(s t_i.V, i) ]        N: all B*K negatives

    With hard images (kind `hard`, images like those of the batch), each is a further sample: it joins V, its
    caption (texts of kind `hard`) joins T, and the negatives of that (kind `hard_neg`) join N. The means run
    over all of these samples.

    Source: When and Why Vision-Language Models Behave like Bags-of-Words, and What to Do About It?,
    arXiv 2210.01936; vinid/neg_clip@e680f8e `src/open_clip/loss.py`, `ClipLoss`.

    Differs: any K, missing negatives and hard images, and several processes, where the authors' gather reads
    negatives as captions.
    """

    paper = "Yuksekgonul et al., ICLR 2023, arXiv 2210.01936"
    companions: ClassVar[Mapping[str, int]] = {"neg": 4, "hard": 0, "hard_neg": 0}
    companion_images: ClassVar[Mapping[str, int]] = {"hard": 0}

    def configure(self, companions: Mapping[str, int]) -> None:
        """Raise ValueError for negatives of hard captions without these."""
        if "hard_neg" in companions and "hard" not in companions:
            raise ValueError(
                "hard_neg are the negatives of hard images; add --companion-images hard=1 --companions hard=1"
            )

    @term()
    def contrastive_loss(self, x: Batch) -> Tensor:
        """See `functional.hard_negative_clip` and `functional.more_pairs_clip`."""
        if not x.has_images("hard"):
            return super().contrastive_loss(x)
        negatives = [x.columns.of(kind) for kind in ("neg", "hard_neg") if x.has(kind)]
        rows, columns = ((y.of("hard"), y.of_images("hard")) for y in (x.rows, x.columns))
        return functional.more_pairs_clip(*rows, x.scale, negatives, columns=columns, bias=x.bias)
