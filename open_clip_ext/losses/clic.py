"""CLIC: two pictures in one, with captions in both orders and a word exchanged between them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from open_clip_ext.losses import functional
from open_clip_ext.losses.base import Batch, Loss, clip, option, term
from open_clip_ext.losses.batch import Rows


class CLICLoss(Loss):
    """CLIC's loss on pairs of samples of the batch; with `alternate`, every second step is CLIP's on samples.

        L = pair_weight L_pair + own_weight L_own + same_weight mean_i |p_i1 - p_i2|^2
        u_i is picture i beside the next one, p_i1 "A. B.", p_i2 "B. A.", n_i p_i1 with two words exchanged

    Source: arXiv 2505.24424; AmitPeleg/CLIC@dc845c7. Differs: two true texts, not four. `steps` is a buffer.
    """

    paper = "Peleg et al., NeurIPS 2025, arXiv 2505.24424"
    companions, companion_images = {"pair": 1, "pair_pos": 1, "pair_neg": 1}, {"pair": 1}
    pairs = takes_bias = True
    pair_weight: float = option(default=0.5, least=0)
    own_weight: float = option(default=0.5, least=0)
    same_weight: float = option(default=1.0, least=0)
    alternate: bool = option(default=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.steps = nn.Buffer(torch.zeros((), dtype=torch.long))

    @term()
    def contrastive_loss(self, x: Batch) -> Tensor:
        """See `functional.positives_clip`, and `functional.clip`; notes that a step is under way."""
        self.stage(steps=self.steps + 1)
        (u, p, valid), (all_u, all_p, exist) = shown(x.rows), shown(x.columns)
        columns = functional.Samples(all_u, all_u, all_p, exist, x.columns.first)
        pairs = functional.positives_clip(u, p, x.scale, valid, columns=columns, bias=x.bias)
        return torch.where(self.steps % 2 * self.alternate == 0, self.pair_weight * pairs, clip(x))

    @term("own_weight")
    def own_loss(self, x: Batch) -> Tensor:
        """See `functional.image_grounded_positives`."""
        (u, p, valid), n, exists = shown(x.rows), x.rows.features("pair_neg"), x.rows.exists("pair_neg")
        loss = functional.image_grounded_positives(u, p, n, x.scale, valid, exists)
        return torch.where(self.steps % 2 * self.alternate == 0, loss, 0.0)

    @term("same_weight")
    def same_loss(self, x: Batch) -> Tensor:
        """See `functional.same_place`."""
        return functional.same_place(*shown(x.rows)[1:]).where(self.steps % 2 * self.alternate == 0, 0.0)


def shown(rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures of two [B, D], the true texts about each [B, J, D], and which of these exist."""
    texts, exist = (torch.cat([of("pair"), of("pair_pos")], dim=1) for of in (rows.features, rows.exists))
    there = rows.images_exist("pair")[:, :1]
    return torch.where(there, rows.images("pair")[:, 0], 0.0), texts, exist & there
