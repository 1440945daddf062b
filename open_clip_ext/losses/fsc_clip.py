"""FSC-CLIP: contrasts with own negatives, of whole texts and word by word, that spare what is learned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from open_clip_ext.losses import functional
from open_clip_ext.losses.base import Batch, ContrastiveLoss, option, term


class FSCCLIPLoss(ContrastiveLoss):
    """FSC-CLIP's loss. Negatives are no columns of its contrastive term.

        L      = L_clip + scr_weight SCR(z) + local_weight SCR(z')
        SCR(z) = mean_i sum_k y_ik (1 - p_ik)^focal (-log p_ik)      p_i = softmax(z_i)
        z_i    = s v_i.[t_i ; n_i]                                   whole texts
        z'_i   = [S(i, t_i) ; S(i, n_i)]                             S: `functional.local_similarity`

    n_i are the K negatives of caption i. The target y_i is 1 - label_smoothing at the caption, and the rest
    in equal parts at the caption and its negatives.

    The local part needs the dense tokens of both towers. The start of a text is no word, its end is one.

    Source: Preserving Multi-Modal Capabilities of Pre-trained VLMs for Improving Vision-Linguistic
    Compositionality, arXiv 2410.05210; ytaek-oh/fsc-clip@604015d `src/training/losses/loss.py`.

    Differs: missing negatives have no logit, where theirs have 0; the means are over all processes, where
    theirs are of one. As there, they leave out samples without a negative: these contribute 0.
    """

    paper = "Oh et al., EMNLP 2024, arXiv 2410.05210"
    companions: ClassVar[Mapping[str, int]] = {"neg": 3}
    scr_weight: float = option(default=0.5, least=0)
    local_weight: float = option(default=0.2, least=0)
    focal: float = option(default=2.0, least=0, needs=("scr_weight", "local_weight"))
    label_smoothing: float = option(default=0.02, least=0, most=1, needs=("scr_weight", "local_weight"))

    @term("scr_weight")
    def scr_loss(self, x: Batch) -> Tensor:
        """The calibrated contrast; see `functional.selective_calibration`."""
        v, t, n, valid = x.rows.tensors("neg")
        options, exists = (self.focal, self.label_smoothing), x.columns.exists("neg")
        return functional.selective_calibration(v, t, n, x.scale, *options, valid, exists=exists)

    @term("local_weight", dense=True)
    def local_scr_loss(self, x: Batch) -> Tensor:
        """The same with similarities made word by word; only these are gathered."""
        (t, t_mask), (n, n_mask) = x.dense.words(), x.dense.words("neg")
        words = torch.cat([t[:, None], n], 1)
        mask = torch.cat([t_mask[:, None], n_mask & x.own.exists("neg")[..., None]], 1)
        own = functional.local_similarity(x.dense.patches, words[:, :, 1:], mask[:, :, 1:], x.scale)
        similarity, slope = x.of_rows(torch.stack(own, -1)).unbind(-1)
        # So that the scale gets its whole gradient on every rank, as from the other terms.
        logits = similarity + (x.scale - x.scale.detach()) * slope
        valid, exists = x.rows.exists("neg"), x.columns.exists("neg")
        return functional.calibrated_choice(logits, self.focal, self.label_smoothing, valid, exists=exists)
