"""C2LIP, its loss on phrases: images and phrases of captions, each pair by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from open_clip_ext.losses import functional
from open_clip_ext.losses.base import Batch, Loss, option, term


class C2LIPLoss(Loss):
    """C2LIP's loss without its term on patches: SigLIP's loss, and the same with noun phrases.

        L     = 1/B sum_ij  -log sigmoid(y_ij (s v_i.t_j + b)) + npc_weight L_npc
        L_npc = 1/N sum_ijk m_jk -log sigmoid(y_ij (s v_i.c_jk + b))      y_ij: 1 where i = j, else -1

    c_jk is phrase k of caption j, and N the number of all phrases; L_npc is 0 where there is none. b is the
    model's logit bias. A model without one, such as CLIP, gets the constant `bias`: it belongs between the
    logits of right and of wrong pairs.

    Source: No Hard Negatives Required, arXiv 2603.25722; SamsungLabs/concept_centric_clip@9d02526
    `src/open_clip/loss.py`.

    Differs: a caption without a phrase has no column in L_npc, where theirs takes the caption itself.
    """

    paper = "Pham et al., CVPR 2026, arXiv 2603.25722"
    companions: ClassVar[Mapping[str, int]] = {"phrase": 2}
    takes_bias = True
    npc_weight: float = option(default=1.0, least=0)
    # SigLIP's initial one; without effect where the model has its own.
    bias: float = -10.0

    @term()
    def contrastive_loss(self, x: Batch) -> Tensor:
        """SigLIP's loss; see `functional.clip`."""
        bias = self._bias(x)
        return functional.clip(x.rows.image, x.rows.text, x.scale, columns=x.columns.of(), bias=bias)

    @term("npc_weight")
    def npc_loss(self, x: Batch) -> Tensor:
        """The same with phrases in the captions' place; see `functional.sigmoid_contrast`."""
        v, _, c, valid = x.rows.tensors("phrase")
        columns = x.columns.of("phrase")
        return functional.sigmoid_contrast(v, c, x.scale, self._bias(x), valid, columns=columns)

    def _bias(self, x: Batch) -> Tensor:
        return x.scale.new_tensor(self.bias) if x.bias is None else x.bias
