"""RankCLIP: both modalities order the batch alike."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from open_clip_ext.losses import functional
from open_clip_ext.losses.base import Batch, ContrastiveLoss, option, term


class RankCLIPLoss(ContrastiveLoss):
    """RankCLIP's loss, without companion texts.

        L       = L_clip + r ( cross_weight L_cross + in_weight L_in )
        L_cross = [ ListMLE(s V T', s T V') + ListMLE(s T V', s V T') ] / B        see `functional`
        L_in    = [ ListMLE(s V V', s T T') + ListMLE(s T T', s V V') ] / B
        r       = min(1, steps / ramp_steps)        1 without a ramp

    The paper's factor of both terms is 1/32 times a number that rises with the epoch, linearly from 0 until
    it is 2 after two thirds of them: for its schedule, set `ramp_steps` to two thirds of all steps.

    Source: RankCLIP: Ranking-Consistent Language-Image Pretraining, arXiv 2404.09387; formulas of
    Jam1ezhang/RankCLIP@841d171. Differs: r rises by the step; see `functional.cross_modal_order`. Each term
    sorts two `[B, B]` matrices and holds a block of their rows at a time (`chunked_list_mle`).

    Attributes:
        steps: buffer, int64, steps so far.
    """

    paper = "Zhang et al., ICCV 2025, arXiv 2404.09387"
    cross_weight: float = option(default=2 / 32, least=0)
    in_weight: float = option(default=2 / 32, least=0)
    ramp_steps: int = option(default=0, least=0, needs=("cross_weight", "in_weight"))

    def __post_init__(self) -> None:
        super().__post_init__()
        self.steps = nn.Buffer(torch.zeros((), dtype=torch.long))

    @term()
    def contrastive_loss(self, x: Batch) -> Tensor:
        """CLIP's, which notes that a step is under way."""
        self.stage(steps=self.steps + 1)
        return super().contrastive_loss(x)

    @term("cross_weight")
    def cross_loss(self, x: Batch) -> Tensor:
        """Orders across modalities."""
        order = functional.cross_modal_order(x.rows.image, x.rows.text, x.scale, columns=x.columns.of())
        return self.ramp() * order

    @term("in_weight")
    def in_loss(self, x: Batch) -> Tensor:
        """Orders within each modality."""
        order = functional.in_modal_order(x.rows.image, x.rows.text, x.scale, columns=x.columns.of())
        return self.ramp() * order

    def ramp(self) -> Tensor | float:
        """The share of their weights that the two terms have at this step."""
        return (self.steps / self.ramp_steps).clamp(max=1) if self.ramp_steps else 1.0
