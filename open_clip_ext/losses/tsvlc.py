"""TSVLC: NegCLIP's contrast, own negatives once more, and a paraphrase as a further positive."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from torch import Tensor

from open_clip_ext.losses import functional
from open_clip_ext.losses.base import Batch, Loss, clip, hard_negative_clip, option, term


class TSVLCLoss(Loss):
    """TSVLC's loss.

        L     = L_neg + igc_weight L_igc + pos_weight L_pos
        L_igc = mean_i CE(s [v_i.t_i ; v_i.n_i1 ; .. ; v_i.n_iK], 0)
        L_pos = 1/2 mean_i 1/J_i sum_j m_ij [ CE(s v_i.P_j, i) + CE(s t_i.P_j, i) ]

    P_j are the paraphrases of all samples at place j, J_i counts those of sample i.

    Source: Teaching Structured Vision & Language Concepts to Vision & Language Models, arXiv 2211.11733;
    SivanDoveh/TSVLC@90b18e7 `src/open_clip/loss.py`.

    Differs: means run over all samples, so one without negatives adds 0 to L_igc, where theirs is a mean over
    those that have some. One without a paraphrase adds 0 to L_pos, where theirs takes the caption itself.
    L_pos sees the whole batch; theirs, the rank's own samples.
    """

    paper = "Doveh et al., CVPR 2023, arXiv 2211.11733"
    companions: ClassVar[Mapping[str, int]] = {"neg": 1, "pos": 1}
    takes_bias = True
    igc_weight: float = option(default=1.0, least=0)
    pos_weight: float = option(default=1.0, least=0)
    # What images choose from in the first term; `captions` is their --no_neg_in_contrastive.
    contrast: Literal["negatives", "captions"] = "negatives"

    @term()
    def contrastive_loss(self, x: Batch) -> Tensor:
        """See `functional.hard_negative_clip`; `functional.clip` with captions alone."""
        return clip(x) if self.contrast == "captions" else hard_negative_clip(x)

    @term("igc_weight")
    def igc_loss(self, x: Batch) -> Tensor:
        """The image-grounded contrast."""
        v, t, n, valid = x.rows.tensors("neg")
        return functional.image_grounded(v, t, n, x.scale, valid)

    @term("pos_weight")
    def pos_loss(self, x: Batch) -> Tensor:
        """Images and captions find their paraphrases."""
        v, t, p, valid = x.rows.tensors("pos")
        image, text = (
            functional.to_positives(y, p, x.scale, valid, columns=x.columns.of("pos")) for y in (v, t)
        )
        return (image + text) / 2
