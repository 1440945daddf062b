"""DeGLA: local alignment with own negatives, self-distillation from a moving-average teacher."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from open_clip_ext.losses import functional
from open_clip_ext.losses.base import Batch, HardNegativeLoss, Teacher, option, term


class DeGLALoss(HardNegativeLoss):
    """DeGLA's loss.

        L         = L_neg + igc_weight L_igc + tgc_weight L_tgc + distill_weight L_distill
        L_igc     = mean_i CE(s [v_i.t_i ; v_i.n_i1 ; .. ; v_i.n_iK], 0)
        L_tgc     = mean_i CE(c [t_i.t*_i ; t_i.n_i1 ; .. ; t_i.n_iK], 0)   c: tgc_scale, *: teacher
        L_distill = sum_i |v_i - v*_i|^2 + sum_i |t_i - t*_i|^2 + sum_ik |n_ik - n*_ik|^2

    L_distill is a sum over the global batch: its weight is for B = 256, K = 4; else `0.005 * 256 / B`.

    Source: Decoupled Global-Local Alignment for Improving Compositional Understanding, arXiv 2504.16801;
    xiaoxing2001/DeGLA@1c5e960 `src/open_clip/loss.py`. Differs: L_tgc takes own negatives, where the released
    code takes those of other captions (`tgc="released"`); missing negatives are masked in every term.
    """

    paper = "Hu et al., ACM MM 2025, arXiv 2504.16801"
    igc_weight: float = option(default=0.1, least=0)
    tgc_weight: float = option(default=0.1, least=0)
    distill_weight: float = option(default=0.005, least=0)
    tgc_scale: float = option(default=10.0, least=0, needs="tgc_weight")
    ema_decay: float = option(default=0.9996, least=0, most=1, needs=("tgc_weight", "distill_weight"))
    tgc: Literal["paper", "released"] = option(default="paper", needs="tgc_weight")
    teacher_checkpoint: str = option(default="", needs=("tgc_weight", "distill_weight"))
    teacher = Teacher(decay="ema_decay", checkpoint="teacher_checkpoint")

    @term("igc_weight")
    def igc_loss(self, x: Batch) -> Tensor:
        """The image-grounded contrast."""
        v, t, n, valid = x.rows.tensors("neg")
        return functional.image_grounded(v, t, n, x.scale, valid)

    @term("tgc_weight")
    def tgc_loss(self, x: Batch) -> Tensor:
        """The text-grounded contrast."""
        if self.tgc == "paper":  # of own rows alone, as there is no logit scale in it
            _, t, n, valid = x.own.tensors("neg")
            return self.average(functional.text_grounded(t, x.teacher.own.text, n, self.tgc_scale, valid))
        n, valid = functional.released_negatives(x.columns.of("neg"), len(x.rows.text))
        return functional.text_grounded(x.rows.text, x.teacher.rows.text, n, self.tgc_scale, valid)

    @term("distill_weight")
    def distill_loss(self, x: Batch) -> Tensor:
        """The distillation of own rows, as a mean over ranks of what is a sum over them."""
        (v, t, n, valid), (tv, tt, tn, _) = x.own.tensors("neg"), x.teacher.own.tensors("neg")
        return self.world_size * self.average(functional.self_distillation(v, tv, t, tt, n, tn, valid))
