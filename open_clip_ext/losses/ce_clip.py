"""CE-CLIP: a ranking hinge with adaptive margins and a contrast within the text side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from open_clip_ext.losses import functional
from open_clip_ext.losses.base import (
    Loss,
    check_at_least_zero,
    check_choice,
    check_shapes,
    in_fp32,
)


class CECLIPLoss(Loss):
    """CE-CLIP's loss.

        L = L_neg + cmr_weight L_cmr + imc_weight L_imc

        L_cmr = 1/(B K) sum_ik m_ik max(0, Th_k + s v_i.n_ik - s v_i.t_i)
        Th_k  = clamp( mean_i p_i - mean_{i: m_ik} d_ik , 0, threshold_cap )   of the step before
        L_imc = mean_i CE([s v_i.t_i ; s t_i.N], 0)

    Source: arXiv 2306.08832; lezhang7/Enhance-FineGrained@ef87eb7 `src/open_clip/loss.py`.

    Differs: missing negatives are masked in the contrastive and intra-modal terms; the thresholds
    are kept over epochs and saved; a type of negative that a batch lacks keeps its threshold.

    Args:
        cmr_weight: weight of the ranking hinge.
        imc_weight: weight of the intra-modal contrast.
        threshold: how the hinge's margins follow from the batch, or one constant margin in logits.
        threshold_cap: greatest adaptive margin, in logits.
        imc: the intra-modal contrast as in the paper, or one of two published programs.
        local_loss: as in `Loss`.
        gather_with_grad: as in `Loss`.
        cache_labels: as in `Loss`.
        rank: as in `Loss`.
        world_size: as in `Loss`.

    Attributes:
        thresholds: buffer `[K]`, zeros at first, empty until K is known; None if constant.
    """

    companions: ClassVar[Mapping[str, int]] = {"neg": 4}
    paper: ClassVar[str] = (
        "Zhang et al., Contrasting Intra-Modal and Ranking Cross-Modal Hard Negatives to Enhance "
        "Visio-Linguistic Compositional Understanding, CVPR 2024, arXiv 2306.08832"
    )
    thresholds: Tensor | None

    def __init__(
        self,
        *,
        cmr_weight: float = 0.2,
        imc_weight: float = 0.2,
        threshold: Literal["mean", "max"] | float = "mean",
        threshold_cap: float = 10.0,
        imc: Literal["paper", "release", "head"] = "paper",
        local_loss: bool = False,
        gather_with_grad: bool = False,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(
            local_loss=local_loss,
            gather_with_grad=gather_with_grad,
            cache_labels=cache_labels,
            rank=rank,
            world_size=world_size,
        )
        check_at_least_zero(cmr_weight=cmr_weight, imc_weight=imc_weight, threshold_cap=threshold_cap)
        if not isinstance(threshold, str):
            check_at_least_zero(threshold=threshold)
        elif threshold not in ("mean", "max"):
            raise ValueError(f"threshold is {threshold!r}, expected mean, max or a number >= 0")
        check_choice("imc", imc, "paper", "release", "head")
        self.cmr_weight = cmr_weight
        self.imc_weight = imc_weight
        self.threshold = threshold
        self.threshold_cap = threshold_cap
        self.imc = imc
        self.register_buffer("thresholds", torch.zeros(0) if isinstance(threshold, str) else None)
        self._recorded: Tensor | None = None

    @in_fp32
    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor,
        neg_text_features: Tensor,
        neg_valid: Tensor | None = None,
        output_dict: bool = False,
    ) -> Tensor | dict[str, Tensor]:
        """Score a batch; in training mode, also record the thresholds that `commit` puts in place.

        Args:
            image_features: `[b, D]`, any float dtype.
            text_features: `[b, D]`.
            logit_scale: one element.
            neg_text_features: `[b, K, D]`; position k is the type of the negative.
            neg_valid: `[b, K]` bool; None means that all exist.
            output_dict: return the weighted terms by name.

        Raises:
            ValueError: a shape does not fit, or K is not the one of the thresholds.
        """
        known = None if self.thresholds is None else len(self.thresholds)
        check_shapes(image_features, text_features, logit_scale, neg_text_features, neg_valid, known)
        rows, columns = self.share(image_features, text_features, neg_text_features, neg_valid)
        v, t, n, valid, _ = rows
        assert n is not None
        s = logit_scale

        cmr = imc = v.new_zeros(())
        itc = functional.hard_negative_clip(v, t, n, s, valid, columns=columns)
        if self.cmr_weight:
            rule, cap = (
                self.threshold if isinstance(self.threshold, str) else None,
                self.threshold_cap,
            )
            cmr, new = functional.cross_modal_rank(
                v, t, n, s, self._margins(n), valid, rule=rule, cap=cap, columns=columns
            )
            if self.training and rule:
                self._recorded = new
        if self.imc_weight:
            imc = functional.intra_modal(v, t, n, s, valid, self.imc, columns=columns)

        terms = {
            "contrastive_loss": itc,
            "cmr_loss": self.cmr_weight * cmr,
            "imc_loss": self.imc_weight * imc,
        }
        return self.finish(terms, output_dict)

    def configure(self, companions: Mapping[str, int]) -> None:
        """Size the thresholds for the companion texts of this run.

        Raises:
            ValueError: there are no negatives among them.
        """
        if companions.get("neg", 0) < 1:
            raise ValueError(f"companions are {dict(companions)}, expected at least one neg")
        if self.thresholds is not None:
            self.thresholds = self.thresholds.new_zeros(companions["neg"])

    def commit(self) -> None:
        """Put the thresholds of the last training batch in place, if there are any."""
        if self._recorded is not None and self.thresholds is not None:
            self.thresholds.copy_(self._recorded)
        self._recorded = None

    def idle_options(self) -> dict[str, str]:
        """Options without effect beside the others, each with the reason."""
        idle = {}
        if not isinstance(self.threshold, str):
            idle["threshold_cap"] = f"threshold is the constant {self.threshold}"
        if not self.cmr_weight:
            idle |= dict.fromkeys(("threshold", "threshold_cap"), "cmr_weight is 0")
        if not self.imc_weight:
            idle["imc"] = "imc_weight is 0"
        return idle

    def _margins(self, n: Tensor) -> Tensor:
        if self.thresholds is None:
            return n.new_full(n.shape[1:2], float(self.threshold))
        if not len(self.thresholds):
            self.thresholds = n.new_zeros(n.shape[1])
        return self.thresholds.to(n)

    def _load_from_state_dict(self, state: Mapping[str, Any], prefix: str, *args: Any) -> None:
        # Nobody may have told K yet, here or where the state was written.
        saved = state.get(prefix + "thresholds")
        if saved is not None and self.thresholds is not None:
            if not (len(saved) and len(self.thresholds)):
                self.thresholds = self.thresholds.new_zeros(len(saved))
            self._recorded = None
        super()._load_from_state_dict(state, prefix, *args)
