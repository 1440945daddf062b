"""Hard positives: edited captions that stay true count as captions, beside edited ones that do not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from open_clip_ext.losses import functional
from open_clip_ext.losses.base import Batch, Loss, option, term
from open_clip_ext.losses.batch import Rows
from open_clip_ext.losses.functional import Samples


class HardPositivesLoss(Loss):
    """Training with hard positives and hard negatives.

        L      = L_true + igc_weight L_own                                  c_i0 = t_i, c_ij = p_ij
        L_true = 1/2 mean_i 1/J_i sum_j m_ij [ CE(s v_i.C_j, i) + CE(s c_ij.V, i) ]
        L_own  = mean_i 1/J_i sum_j m_ij CE(s [v_i.c_ij ; v_i.n_i1 ; .. ; v_i.n_iK], 0)

    C_j are the true captions of all samples at place j, J_i counts those of sample i, its caption included.
    So a sample without hard positives gives plain CLIP, and one without negatives adds 0 to L_own.

    Source: The Hard Positive Truth about Vision-Language Compositionality, arXiv 2409.17958;
    amitakamath/hard_positives@33addaa has no training code, so the equation is our reading.
    """

    paper = "Kamath et al., ECCV 2024, arXiv 2409.17958"
    companions: ClassVar[Mapping[str, int]] = {"neg": 1, "pos": 1}
    takes_bias = True
    igc_weight: float = option(default=1.0, least=0)

    @term()
    def contrastive_loss(self, x: Batch) -> Tensor:
        """See `functional.positives_clip`."""
        rows, columns = true_captions(x.rows), true_captions(x.columns)
        assert rows.neg is not None
        c, valid = rows.neg, rows.valid
        return functional.positives_clip(rows.image, c, x.scale, valid, columns=columns, bias=x.bias)

    @term("igc_weight")
    def igc_loss(self, x: Batch) -> Tensor:
        """See `functional.image_grounded_positives`."""
        true = true_captions(x.rows)
        assert true.neg is not None
        n, exists = x.rows.features("neg"), x.rows.exists("neg")
        return functional.image_grounded_positives(true.image, true.neg, n, x.scale, true.valid, exists)


def true_captions(rows: Rows) -> Samples:
    """The samples with their captions `[B, 1+J, D]`, the hard positives after the first, as companions."""
    same = rows.identities("pos")
    if same is not None:
        same = same._replace(neg=same.pairs(slice(None))[:, 1:])
    return Samples(rows.image, rows.text, *rows.true_texts("pos"), rows.first, same)
