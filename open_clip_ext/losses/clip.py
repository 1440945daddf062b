"""CLIP: the loss of the host, under this package's contract."""

from __future__ import annotations

from open_clip_ext.losses.base import ContrastiveLoss


class CLIPLoss(ContrastiveLoss):
    """CLIP's symmetric contrastive loss: the baseline, without companion texts.

        L = 1/2 [ mean_i CE(s v_i.T, i) + mean_i CE(s t_i.V, i) ]

    SigLIP's loss on a model with a logit bias; see `functional.clip`.

    Source: mlfoundations/open_clip `ClipLoss`, whose values and gradients it has in all gather modes, and
    `SigLipLoss`.
    """

    paper = "Radford et al., ICML 2021, arXiv 2103.00020"
