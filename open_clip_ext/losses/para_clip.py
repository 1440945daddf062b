"""ParaCLIP: a caption, its paraphrases and the image, in three contrasts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from open_clip_ext.losses import functional
from open_clip_ext.losses.base import Batch, Loss, term
from open_clip_ext.losses.batch import Rows
from open_clip_ext.losses.identities import Identities


class ParaCLIPLoss(Loss):
    """ParaCLIP's loss: two paraphrases of each caption (kind `pos`) lie between it and its image.

        L = L_clip(V, P_2) + L_clip(T, P_1) + L_clip(P_1, P_2)

    Where P_2 is missing, the image keeps its caption. A pair of texts of which one is missing leaves both
    directions, and adds 0 to the other two terms.

    Source: Fine-tuning CLIP Text Encoders with Two-step Paraphrasing, arXiv 2402.15120; no code was read.
    """

    paper = "Kim et al., Findings of EACL 2024, arXiv 2402.15120"
    companions: ClassVar[Mapping[str, int]] = {"pos": 2}
    takes_bias = True

    @term()
    def image_loss(self, x: Batch) -> Tensor:
        """Images and second paraphrases, or captions in their place."""
        own, every = (
            torch.where(r.exists("pos")[:, 1:2], r.features("pos")[:, 1], r.text) for r in (x.rows, x.columns)
        )
        columns = functional.Samples(x.columns.image, every, first=x.columns.first, same=_same(x, 1))
        return functional.clip(x.rows.image, own, x.scale, columns=columns, bias=x.bias)

    @term()
    def caption_loss(self, x: Batch) -> Tensor:
        """Captions and first paraphrases."""
        return _contrast(x, [0], lambda r: (r.text, r.features("pos")[:, 0], r.exists("pos")[:, 0]))

    @term()
    def paraphrase_loss(self, x: Batch) -> Tensor:
        """First and second paraphrases."""
        both = [0, 1]
        return _contrast(
            x, both, lambda r: (*r.features("pos")[:, :2].unbind(1), r.exists("pos")[:, :2].all(1))
        )

    def configure(self, companions: Mapping[str, int]) -> None:
        """Raise ValueError unless captions get two paraphrases."""
        if companions.get("pos", 0) != 2:
            raise ValueError(f"companions are {dict(companions)}, expected two pos")


def _contrast(x: Batch, places: Sequence[int], pairs: Callable[[Rows], tuple[Tensor, ...]]) -> Tensor:
    (y, z, valid), (every_y, every_z, exists) = pairs(x.rows), pairs(x.columns)
    columns = functional.Samples(every_y, every_z, None, exists, x.columns.first, _same(x, *places))
    return functional.existing_pairs(y, z, x.scale, valid, columns=columns)


def _same(x: Batch, *places: int) -> Identities | None:
    same = x.columns.identities("pos")
    return same and same.beside(*places)
