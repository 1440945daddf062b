"""MACCO, its text half: captions with words masked out stand next to the captions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from open_clip_ext.losses import functional
from open_clip_ext.losses.base import Batch, Loss, term


class MACCOLoss(Loss):
    """The text half of MACCO's cross-modal alignment.

        L = 1/2 [ mean_i CE(s v_i.[T ; M], i) + mean_r CE(s [T ; M]_r.V, i of r) ]

    M are the captions with words of an attribute or a relation masked out (kind `masked`). An image prefers
    its whole caption to them, and each of them finds its image. One that is missing is no column and no row:
    a sample without any has its plain share.

    Masked images need boxes, and the reconstruction of masked words and patches needs heads of its own:
    both halves are not here, nor is what the text half gains without them known.

    Source: Cross-Modal Masked Compositional Concept Modeling for Enhancing Visio-Linguistic
    Compositionality, arXiv 2606.13288; hiker-lw/MACCO@a8f08fa `src/open_clip_code/loss_fn`.
    """

    paper = "Li et al., ACL 2026, arXiv 2606.13288"
    companions: ClassVar[Mapping[str, int]] = {"masked": 1}
    takes_bias = True

    @term()
    def contrastive_loss(self, x: Batch) -> Tensor:
        """See `functional.masked_clip`."""
        v, t, masked, valid = x.rows.tensors("masked")
        columns = x.columns.of("masked")
        return functional.masked_clip(v, t, masked, x.scale, valid, columns=columns, bias=x.bias)
