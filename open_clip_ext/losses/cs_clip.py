"""CS-CLIP: the units of a caption, each told apart from its foil."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from open_clip_ext.losses import functional
from open_clip_ext.losses.base import Batch, HardNegativeLoss, option, term
from open_clip_ext.losses.batch import Rows


class CSCLIPLoss(HardNegativeLoss):
    """CS-CLIP's loss: a unit is a phrase of the caption, its foil the same phrase with an edit.

        L      = L_neg + unit_weight L_unit
        L_unit = mean_k 1/2 [ mean_i CE([s v_i.C_k ; s v_i.f_ik], i) + mean_i CE(s c_ik.V, i) ]

    c_ik is unit k of caption i, f_ik its foil. In L_unit, i, C_k and V run over the samples whose unit k
    exists with its foil. A sample without leaves both directions, so that it contributes 0: it has nothing
    true to be found by. Phrase and foil belong together place by place.

    Source: Half-Truths Break Similarity-Based Retrieval, arXiv 2602.23906; kargibora/CS-CLIP@183aca8.
    """

    paper = "Kargi et al., 2026, arXiv 2602.23906"
    companions: ClassVar[Mapping[str, int]] = {"neg": 1, "phrase": 2, "foil": 2}
    aligned = (("phrase", "foil"),)
    unit_weight: float = option(default=0.5, least=0)

    @term("unit_weight")
    def unit_loss(self, x: Batch) -> Tensor:
        """The contrast of units; see `functional.units`."""

        def exists(rows: Rows) -> Tensor:
            return rows.exists("phrase") & rows.exists("foil")

        columns = x.columns.of("phrase")._replace(valid=exists(x.columns))
        v, _, c, _ = x.rows.tensors("phrase")
        return functional.units(v, c, x.rows.features("foil"), x.scale, exists(x.rows), columns=columns)
