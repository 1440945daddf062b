"""FSC-CLIP, its global part: a contrast with own negatives that spares what is learned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from open_clip_ext.losses import functional
from open_clip_ext.losses.base import Batch, Loss, option, term


class FSCCLIPLoss(Loss):
    """The global part of FSC-CLIP's loss. Negatives are no columns of its contrastive term.

        L     = L_clip + scr_weight L_scr
        L_scr = mean_i sum_k y_ik (1 - p_ik)^focal (-log p_ik)      p_i = softmax(s v_i.[t_i ; n_i])

    n_i are the K negatives of caption i. The target y_i is 1 - label_smoothing at the caption, and the rest
    in equal parts at the caption and its negatives.

    The local part compares patches with words. It needs the dense tokens of both towers, which losses are
    not given yet.

    Source: Preserving Multi-Modal Capabilities of Pre-trained VLMs for Improving Vision-Linguistic
    Compositionality, arXiv 2410.05210; ytaek-oh/fsc-clip@604015d `src/training/losses/loss.py`.

    Differs: missing negatives have no logit, where theirs have 0; the mean is over all processes, where
    theirs is of one. As there, it leaves out samples without a negative: these contribute 0.
    """

    paper = "Oh et al., EMNLP 2024, arXiv 2410.05210"
    companions: ClassVar[Mapping[str, int]] = {"neg": 3}
    scr_weight: float = option(default=0.5, least=0)
    focal: float = option(default=2.0, least=0, needs="scr_weight")
    label_smoothing: float = option(default=0.02, least=0, most=1, needs="scr_weight")

    @term()
    def contrastive_loss(self, x: Batch) -> Tensor:
        """See `functional.clip`."""
        return functional.clip(x.rows.image, x.rows.text, x.scale, columns=x.columns.of())

    @term("scr_weight")
    def scr_loss(self, x: Batch) -> Tensor:
        """The calibrated contrast; see `functional.selective_calibration`."""
        v, t, n, valid = x.rows.tensors("neg")
        options, exists = (self.focal, self.label_smoothing), x.columns.exists("neg")
        return functional.selective_calibration(v, t, n, x.scale, *options, valid, exists=exists)
