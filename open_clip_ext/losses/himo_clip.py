"""HiMo-CLIP: images against captions, and against what the batch's captions differ most in."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from open_clip_ext.losses import functional
from open_clip_ext.losses.base import Batch, Loss, option, term


class HiMoCLIPLoss(Loss):
    """HiMo-CLIP's loss.

        L    = L_clip(V, T) + component_weight L_clip(V, T')          both with label_smoothing
        t'_i = mu + (t_i - mu) C^T C      C: the fewest principal components of T with `ratio` of its variance

    t' is not normalised again. The authors train on long captions.

    Source: HiMo-CLIP: Modeling Semantic Hierarchy and Monotonicity in Vision-Language Alignment, arXiv
    2511.06653; UnicomAI/HiMo-CLIP@f235e97 `model/himo.py`, whose ratio is 0.85.

    Differs: the components are those of the captions of all processes, where theirs are of one, so that the
    loss does not depend on how a batch is split. The gradient is that of theirs where theirs is a number;
    it grows without bound as the last kept and the first dropped component come to explain the same, which
    `basis="constant"` avoids: captions then do not learn to turn the components.
    """

    paper = "Wu et al., AAAI 2026, arXiv 2511.06653"
    takes_bias = True
    component_weight: float = option(default=1.0, least=0)
    ratio: float = option(default=0.85, least=0, most=1, needs="component_weight")
    basis: Literal["live", "constant"] = option(default="live", needs="component_weight")
    label_smoothing: float = option(default=0.1, least=0, most=1)

    @term()
    def contrastive_loss(self, x: Batch) -> Tensor:
        """See `functional.clip`."""
        return self._clip(x, x.rows.text, x.columns.of())

    @term("component_weight")
    def component_loss(self, x: Batch) -> Tensor:
        """The same with reduced captions; see `functional.principal_part`."""
        columns = x.columns.of()
        own, every = (
            functional.principal_part(t, columns.text, self.ratio, self.basis)
            for t in (x.rows.text, columns.text)
        )
        columns = columns._replace(text=every)
        return self._clip(x, own, columns)

    def _clip(self, x: Batch, t: Tensor, columns: functional.Samples) -> Tensor:
        e = self.label_smoothing
        return functional.clip(x.rows.image, t, x.scale, e, columns=columns, bias=x.bias)
