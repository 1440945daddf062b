"""CE-CLIP: a ranking hinge with adaptive margins and a contrast within the text side."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from open_clip_ext.losses import functional
from open_clip_ext.losses.base import Batch, option, term
from open_clip_ext.losses.margins import AdaptiveMarginLoss


class CECLIPLoss(AdaptiveMarginLoss):
    """CE-CLIP's loss.

        L = L_neg + cmr_weight L_cmr + imc_weight L_imc

        L_cmr = 1/(B K) sum_ik m_ik max(0, Th_k + s v_i.n_ik - s v_i.t_i)        see `AdaptiveMarginLoss`
        L_imc = mean_i CE([s v_i.t_i ; s t_i.N], 0)

    Source: Contrasting Intra-Modal and Ranking Cross-Modal Hard Negatives to Enhance Visio-Linguistic
    Compositional Understanding, arXiv 2306.08832; lezhang7/Enhance-FineGrained@ef87eb7,
    `src/open_clip/loss.py`.

    Differs: missing negatives are masked in the contrastive and intra-modal terms; the thresholds
    are kept over epochs and saved; a type of negative that a batch lacks keeps its threshold.
    """

    paper = "Zhang et al., CVPR 2024, arXiv 2306.08832"
    imc_weight: float = option(default=0.2, least=0)
    imc: Literal["paper", "release", "head"] = option(default="paper", needs="imc_weight")

    @term("imc_weight")
    def imc_loss(self, x: Batch) -> Tensor:
        """The intra-modal contrast."""
        v, t, n, valid = x.rows.tensors("neg")
        return functional.intra_modal(v, t, n, x.scale, valid, self.imc, columns=x.columns.of("neg"))
