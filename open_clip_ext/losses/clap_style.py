"""CLAP-style invariance: a caption and its paraphrase find each other among all texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from open_clip_ext.losses import functional
from open_clip_ext.losses.base import Batch, ContrastiveLoss, option, term
from open_clip_ext.losses.identities import Identities


class CLAPStyleLoss(ContrastiveLoss):
    """An invariance term in the style of CLAP on top of CLIP's loss. It is not CLAP.

        L       = L_clip + style_weight L_style
        L_style = mean_k mean_r CE(z_r.Z / temperature without r itself, partner of r)        Z = [T ; P_k]

    p_ik is paraphrase k of caption i, and r runs over both sides of the pairs that exist: a caption without
    paraphrase k leaves Z and contributes 0 there.

    CLAP trains a small adapter on frozen text features of class names, so that content is kept and style is
    dropped, and has no images in its loss. Here the tower itself is trained, and CLIP's loss keeps it tied to
    images. There are no negatives: a paraphrase that drops a colour or a size teaches the opposite of a
    negative that exchanges it, and the two together are untested.

    Source: CLAP: Isolating Content from Style through Contrastive Learning with Augmented Prompts, arXiv
    2311.16445; YichaoCai1/CLAP@d91a680, for the form of the term and its temperature. The weight is ours.
    """

    paper = "after Cai et al., ECCV 2024, arXiv 2311.16445"
    companions: ClassVar[Mapping[str, int]] = {"pos": 1}
    style_weight: float = option(default=1.0, least=0)
    temperature: float = option(default=0.5, least=0.01, needs="style_weight")

    @term("style_weight")
    def style_loss(self, x: Batch) -> Tensor:
        """The invariance; see `functional.nt_xent`."""
        (_, t, p, valid), (_, every_t, every_p, exists) = x.rows.tensors("pos"), x.columns.tensors("pos")
        first, same, each = x.columns.first, x.columns.identities("pos"), []
        for k in range(p.shape[1]):
            ids = same and Identities(same.picture, same.pairs(slice(k, k + 1))[:, 1:])
            columns = functional.Samples(every_t, every_p[:, k], None, exists[:, k], first, ids)
            each.append(functional.nt_xent(t, p[:, k], self.temperature, valid[:, k], columns=columns))
        return torch.stack(each).mean()
