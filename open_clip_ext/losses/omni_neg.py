"""Omni-NegCLIP: captions with an untrue negation as negatives, captions with a true one as captions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from open_clip_ext.losses import functional
from open_clip_ext.losses.base import Batch, Loss, clip, hard_negative_clip, option, term


class OmniNegLoss(Loss):
    """Omni-NegCLIP's two stages in one.

        L          = L_presence + L_absence + caption_weight L_clip + apart_weight L_apart
        L_presence = 1/3 [ mean_i CE(s v_i.[T ; N], i) + mean_i CE(s t_i.V, i) + L_igc ]
        L_absence  = 1/2 mean_i 1/J_i sum_j m_ij [ CE(s v_i.A_j, i) + CE(s a_ij.V, i) ]
        L_apart    = mean_i 1/J_i sum_j m_ij max(0, t_i.a_ij + margin)

    `neg` are captions that deny what is there (untrue). `absence`, a_ij, are captions that deny what is not
    there (true). L_igc as in `functional.image_grounded`; A_j: those of all samples at place j.

    Source: Omni-NegCLIP, arXiv 2603.29258; Jingqi-Xu/Omni-NegCLIP.

    Differs: their stages have a data set each; here, each caption brings both. Their margin is 0.9, ours 0.
    A sample without an absence caption adds 0 to L_absence and L_apart.
    """

    paper = "Xu, CVPR 2026 workshops, arXiv 2603.29258"
    companions: ClassVar[Mapping[str, int]] = {"neg": 1, "absence": 1}
    takes_bias = True
    caption_weight: float = option(default=1.0, least=0)
    apart_weight: float = option(default=1.0, least=0)
    margin: float = option(default=0.0, least=-1, most=1, needs="apart_weight")

    @term()
    def presence_loss(self, x: Batch) -> Tensor:
        """The first stage."""
        v, t, n, valid = x.rows.tensors("neg")
        return (2 * hard_negative_clip(x) + functional.image_grounded(v, t, n, x.scale, valid)) / 3

    @term()
    def absence_loss(self, x: Batch) -> Tensor:
        """Captions with a true negation in the captions' place."""
        v, _, a, valid = x.rows.tensors("absence")
        columns = x.columns.of("absence")
        return functional.positives_clip(v, a, x.scale, valid, columns=columns, bias=x.bias)

    @term("caption_weight")
    def caption_loss(self, x: Batch) -> Tensor:
        """The captions themselves."""
        return clip(x)

    @term("apart_weight")
    def apart_loss(self, x: Batch) -> Tensor:
        """Both true captions apart, of own rows: there is no logit scale in it."""
        _, t, a, valid = x.own.tensors("absence")
        return self.average(functional.keep_apart(t, a, self.margin, valid))
