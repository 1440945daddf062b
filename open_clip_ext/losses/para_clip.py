"""ParaCLIP: a caption, its paraphrases and the image, in three contrasts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from open_clip_ext.losses import functional
from open_clip_ext.losses.base import Batch, Loss, term


class ParaCLIPLoss(Loss):
    """ParaCLIP's loss: two paraphrases of each caption (kind `pos`) lie between it and its image.

        L = L_clip(V, P_2) + L_clip(T, P_1) + L_clip(P_1, P_2)

    Where P_2 is missing, the image keeps its caption. Pairs of texts of which one is missing are left out.

    Source: Fine-tuning CLIP Text Encoders with Two-step Paraphrasing, arXiv 2402.15120; no code was read.
    """

    paper = "Kim et al., Findings of EACL 2024, arXiv 2402.15120"
    companions: ClassVar[Mapping[str, int]] = {"pos": 2}
    takes_bias = True

    @term()
    def image_loss(self, x: Batch) -> Tensor:
        """Images and second paraphrases, or captions in their place."""
        each = (rows.true_texts("pos") for rows in (x.rows, x.columns))
        own, every = (torch.where(m[:, 2:3], t[:, 2], t[:, 0]) for t, m in each)
        ids = x.columns.identities("pos")
        columns = x.columns.of()._replace(text=every, same=ids and ids.beside(1))
        return functional.clip(x.rows.image, own, x.scale, columns=columns, bias=x.bias)

    @term()
    def caption_loss(self, x: Batch) -> Tensor:
        """Captions and first paraphrases."""
        return between(x, 0, 1)

    @term()
    def paraphrase_loss(self, x: Batch) -> Tensor:
        """First and second paraphrases."""
        return between(x, 1, 2)

    def configure(self, companions: Mapping[str, int]) -> None:
        """Raise ValueError unless captions get two paraphrases."""
        if companions.get("pos", 0) != 2:
            raise ValueError(f"companions are {dict(companions)}, expected two pos")


def between(x: Batch, a: int, b: int) -> Tensor:
    """The contrast of two of caption and paraphrases; see `functional.existing_pairs`."""
    (t, m), (every, exist) = x.rows.true_texts("pos"), x.columns.true_texts("pos")
    ids, both = x.columns.identities("pos"), exist[:, a] & exist[:, b]
    same = ids and ids.beside(*range(b))
    columns = functional.Samples(every[:, a], every[:, b], None, both, x.columns.first, same)
    return functional.existing_pairs(t[:, a], t[:, b], x.scale, m[:, a] & m[:, b], columns=columns)
