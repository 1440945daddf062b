"""What losses share whose negatives keep a distance that adapts: CE-CLIP's ranking hinge and its margins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from open_clip_ext.losses import functional
from open_clip_ext.losses.base import Batch, HardNegativeLoss, option, term


class AdaptiveMarginLoss(HardNegativeLoss):
    """NegCLIP's contrast and CE-CLIP's ranking hinge.

        L     = L_neg + cmr_weight L_cmr
        L_cmr = 1/(B K) sum_ik m_ik max(0, Th_k + s v_i.n_ik - s v_i.t_i)
        Th_k  = clamp( mean_i p_i - mean_{i: m_ik} d_ik , 0, threshold_cap )   of the step before

    Source: `functional.cross_modal_rank` and `functional.adaptive_thresholds`.

    Attributes:
        thresholds: buffer `[K]`, zeros at first, empty until K is known; None if constant.
    """

    cmr_weight: float = option(default=0.2, least=0)
    # A number is a constant margin, in logits; so is the cap of an adaptive one.
    threshold: Literal["mean", "max"] | float = option(default="mean", least=0, needs="cmr_weight")
    threshold_cap: float = option(default=10.0, least=0, needs="cmr_weight")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._rule = self.threshold if isinstance(self.threshold, str) else None
        self.thresholds: Tensor | None = nn.Buffer(torch.zeros(0)) if self._rule else None

    @term("cmr_weight")
    def cmr_loss(self, x: Batch) -> Tensor:
        """The ranking hinge; stages the margins of the next step."""
        v, t, n, valid = x.rows.tensors("neg")
        if self.thresholds is None:
            margins = n.new_full(n.shape[1:2], float(self.threshold))
        else:
            if not len(self.thresholds):
                self.thresholds = n.new_zeros(n.shape[1])
            margins = self.thresholds.to(n)
        cap, columns = self.threshold_cap, x.columns.of("neg")
        loss, new = functional.cross_modal_rank(
            v, t, n, x.scale, margins, valid, rule=self._rule, cap=cap, columns=columns
        )
        if self.thresholds is not None:
            self.stage(thresholds=new)
        return loss

    def configure(self, companions: Mapping[str, int]) -> None:
        """Size the thresholds for the companions of this run; raises ValueError without negatives."""
        if companions.get("neg", 0) < 1:
            raise ValueError(f"companions are {dict(companions)}, expected at least one neg")
        if self.thresholds is not None:
            self.thresholds = self.thresholds.new_zeros(companions["neg"])

    def known_counts(self) -> Mapping[str, int]:
        """As many negatives as thresholds."""
        return {} if self.thresholds is None or not len(self.thresholds) else {"neg": len(self.thresholds)}

    def idle_options(self) -> dict[str, str]:
        """As declared, and the cap of a constant threshold."""
        constant = {} if self._rule else {"threshold_cap": f"threshold is the constant {self.threshold}"}
        return {**constant, **super().idle_options()}
