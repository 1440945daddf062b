"""DeGLA: local alignment with own negatives, self-distillation from a moving-average teacher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from torch import Tensor, nn

from open_clip_ext.losses import functional
from open_clip_ext.losses.base import (
    Loss,
    check_at_least_zero,
    check_choice,
    check_shapes,
    in_fp32,
)

if TYPE_CHECKING:
    from open_clip_ext.teacher import EMATeacher


class DeGLALoss(Loss):
    """DeGLA's loss.

        L = L_neg + igc_weight L_igc + tgc_weight L_tgc + distill_weight L_distill

        L_igc     = mean_i CE(s [v_i.t_i ; v_i.n_i1 ; .. ; v_i.n_iK], 0)
        L_tgc     = mean_i CE(c [t_i.t*_i ; t_i.n_i1 ; .. ; t_i.n_iK], 0)   c: tgc_scale, *: teacher
        L_distill = sum_i |v_i - v*_i|^2 + sum_i |t_i - t*_i|^2 + sum_ik |n_ik - n*_ik|^2

    Source: arXiv 2504.16801; xiaoxing2001/DeGLA@1c5e960 `src/open_clip/loss.py`.

    Differs: L_tgc contrasts a caption with its own negatives, where the released code takes those
    of other captions (`tgc="released"` repeats that); missing negatives are masked in every term.

    L_distill is a sum over the global batch: the published weight belongs to B = 256, K = 4. For
    another B use `0.005 * 256 / B`.

    Args:
        igc_weight: weight of the image-grounded contrast.
        tgc_weight: weight of the text-grounded contrast.
        distill_weight: weight of the distillation.
        tgc_scale: logit scale of the text-grounded contrast, not learned.
        ema_decay: share of the teacher that stays at a step, in [0, 1].
        tgc: negatives of the text-grounded contrast as in the paper, or as in the released code.
        teacher_checkpoint: weights to start the teacher from; empty: the student's at the start.
        local_loss: as in `Loss`.
        gather_with_grad: as in `Loss`.
        cache_labels: as in `Loss`.
        rank: as in `Loss`.
        world_size: as in `Loss`.
    """

    companions: ClassVar[Mapping[str, int]] = {"neg": 4}
    paper: ClassVar[str] = (
        "Hu et al., Decoupled Global-Local Alignment for Improving Compositional Understanding, "
        "ACM MM 2025, arXiv 2504.16801"
    )

    def __init__(
        self,
        *,
        igc_weight: float = 0.1,
        tgc_weight: float = 0.1,
        distill_weight: float = 0.005,
        tgc_scale: float = 10.0,
        ema_decay: float = 0.9996,
        tgc: Literal["paper", "released"] = "paper",
        teacher_checkpoint: str = "",
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
        check_at_least_zero(
            igc_weight=igc_weight,
            tgc_weight=tgc_weight,
            distill_weight=distill_weight,
            tgc_scale=tgc_scale,
        )
        if not 0 <= ema_decay <= 1:
            raise ValueError(f"ema_decay is {ema_decay!r}, expected a number in [0, 1]")
        check_choice("tgc", tgc, "paper", "released")
        self.igc_weight = igc_weight
        self.tgc_weight = tgc_weight
        self.distill_weight = distill_weight
        self.tgc_scale = tgc_scale
        self.ema_decay = ema_decay
        self.tgc = tgc
        self.teacher_checkpoint = teacher_checkpoint

    @in_fp32
    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor,
        neg_text_features: Tensor,
        neg_valid: Tensor | None = None,
        teacher_image_features: Tensor | None = None,
        teacher_text_features: Tensor | None = None,
        teacher_neg_text_features: Tensor | None = None,
        output_dict: bool = False,
    ) -> Tensor | dict[str, Tensor]:
        """Score a batch.

        Args:
            image_features: `[b, D]`, any float dtype.
            text_features: `[b, D]`.
            logit_scale: one element.
            neg_text_features: `[b, K, D]`.
            neg_valid: `[b, K]` bool; None means that all exist.
            teacher_image_features: `[b, D]`, needed by the distillation; gets no gradient.
            teacher_text_features: `[b, D]`, needed by the distillation and `tgc_loss`.
            teacher_neg_text_features: `[b, K, D]`, needed by the distillation.
            output_dict: return the weighted terms by name.

        Raises:
            ValueError: a shape does not fit, or a teacher's tensor is missing.
        """
        check_shapes(
            image_features,
            text_features,
            logit_scale,
            neg_text_features,
            neg_valid,
            teacher_image_features=teacher_image_features,
            teacher_text_features=teacher_text_features,
            teacher_neg_text_features=teacher_neg_text_features,
        )
        rows, columns = self.share(image_features, text_features, neg_text_features, neg_valid)
        v, t, n, valid, _ = rows
        assert n is not None
        s = logit_scale

        igc = tgc = distill = v.new_zeros(())
        base = functional.hard_negative_clip(v, t, n, s, valid, columns=columns)
        if self.igc_weight:
            igc = functional.image_grounded(v, t, n, s, valid)
        # Without the logit scale, own rows will do: what the teacher says need not be gathered.
        v, t, n, valid = image_features, text_features, neg_text_features, neg_valid
        if self.tgc_weight:
            teacher_t = _required("teacher_text_features", teacher_text_features)
            if self.tgc == "paper":
                tgc = self.average(functional.text_grounded(t, teacher_t, n, self.tgc_scale, valid))
            else:
                tgc = self._released(rows, columns, teacher_t)
        if self.distill_weight:
            teacher_v = _required("teacher_image_features", teacher_image_features)
            teacher_t = _required("teacher_text_features", teacher_text_features)
            teacher_n = _required("teacher_neg_text_features", teacher_neg_text_features)
            own = functional.self_distillation(v, teacher_v, t, teacher_t, n, teacher_n, valid)
            distill = self.world_size * self.average(own)

        terms = {
            "contrastive_loss": base,
            "igc_loss": self.igc_weight * igc,
            "tgc_loss": self.tgc_weight * tgc,
            "distill_loss": self.distill_weight * distill,
        }
        return self.finish(terms, output_dict)

    def make_teacher(self, model: nn.Module) -> EMATeacher | None:
        """Build the teacher for `model`, or None if no term with a weight looks at it."""
        if not (self.tgc_weight or self.distill_weight):
            return None
        from open_clip_ext.teacher import EMATeacher

        return EMATeacher(model, decay=self.ema_decay, checkpoint=self.teacher_checkpoint or None)

    def idle_options(self) -> dict[str, str]:
        """Options without effect beside the others, each with the reason."""
        idle: dict[str, str] = {}
        if not self.tgc_weight:
            idle |= dict.fromkeys(("tgc", "tgc_scale"), "tgc_weight is 0")
            if not self.distill_weight:
                reason = "tgc_weight and distill_weight are 0"
                idle |= dict.fromkeys(("ema_decay", "teacher_checkpoint"), reason)
        return idle

    def _released(self, rows: functional.Batch, columns: functional.Batch, teacher_t: Tensor) -> Tensor:
        """The text-grounded contrast with the negatives that the released code takes: anybody's."""
        assert columns.neg is not None
        assert columns.valid is not None
        if not self.local_loss:
            teacher_t = self.gather(teacher_t.detach())
        own = slice(columns.first, columns.first + len(rows.text))
        negatives, exists = functional.tiled(columns.neg)[own], functional.tiled(columns.valid)[own]
        return functional.text_grounded(rows.text, teacher_t, negatives, self.tgc_scale, exists)


def _required(name: str, x: Tensor | None) -> Tensor:
    if x is None:
        raise ValueError(f"{name} is missing, and a term with a weight above 0 needs it")
    return x
