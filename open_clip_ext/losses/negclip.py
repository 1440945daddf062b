"""NegCLIP: captions with edited words as extra columns of the contrastive loss."""

from __future__ import annotations

from open_clip_ext.losses.base import HardNegativeLoss


class NegCLIPLoss(HardNegativeLoss):
    """NegCLIP's contrastive loss.

        L = 1/2 [ mean_i CE(s v_i.[T ; N], i) + mean_i CE(s t_i.V, i) ]        N: all B*K negatives

    Source: When and Why Vision-Language Models Behave like Bags-of-Words, and What to Do About It?,
    arXiv 2210.01936; vinid/neg_clip@e680f8e `src/open_clip/loss.py`, `ClipLoss`.

    Differs: any K, missing negatives, and several processes, where the authors' gather reads
    negatives as captions. Hard images are a matter of the data: they come as samples of the batch.
    """

    paper = "Yuksekgonul et al., ICLR 2023, arXiv 2210.01936"
