"""READ, the half about paraphrases: NegCLIP's contrast, and paraphrases that find their captions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from open_clip_ext.losses import functional
from open_clip_ext.losses.base import Batch, HardNegativeLoss, option, term


class READLoss(HardNegativeLoss):
    """READ's loss without its reconstruction term.

        L     = L_neg + par_weight L_par
        L_par = mean_i 1/J_i sum_j m_ij CE(s p_ij.T, i)        p: paraphrases

    READ's other half is the loss of a frozen language model that writes the caption from its feature. It
    needs that model and a learned projection, so it is not here.

    Source: READ-CLIP, arXiv 2510.16540; JiH00nKw0n/READ-CLIP@b2f096c.

    Differs: any K and J, and missing companions. A sample without a paraphrase adds 0 to L_par; its caption
    is still one to choose from.
    """

    paper = "Kwon et al., NeurIPS 2025, arXiv 2510.16540"
    companions: ClassVar[Mapping[str, int]] = {"neg": 3, "pos": 1}
    par_weight: float = option(default=0.5, least=0)

    @term("par_weight")
    def par_loss(self, x: Batch) -> Tensor:
        """Paraphrases find their captions."""
        p, valid = x.rows.features("pos"), x.rows.exists("pos")
        first, same = x.columns.first, x.columns.identities("pos")
        return functional.from_positives(p, x.columns.text, x.scale, valid, first=first, same=same)
