"""Which samples show the same picture or have the same text, so that they are no negatives of each other.

An identity is an int64 number, and equal numbers mean the same picture or the same text. That of a picture is
never that of a text: they are hashes.

A contrast scores pairs of a picture and its texts. A row or column of its logits carries the identities
`[1+n]` of its pair: the picture first, then the n texts. A row and a column are the same if the pictures are
equal, or one of the texts is.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Identities(NamedTuple):
    """Identities of some samples, int64.

    Attributes:
        picture: `[B]`.
        text: `[B, n]`, the texts of the pair: the caption alone in most contrasts.
        neg: `[B, K]`, companions of a kind; of a missing one, that of the caption.
    """

    picture: Tensor
    text: Tensor
    neg: Tensor | None = None

    def pairs(self, companions: slice = slice(0)) -> Tensor:
        """Pairs `[B, 1+n]`, to whose texts some of the companions may belong, which are true then."""
        texts = [self.text] if self.neg is None else [self.text, self.neg[:, companions]]
        return torch.cat([self.picture[:, None], *texts], dim=1)

    def beside(self, *places: int) -> Identities:
        """The same, in which companions at some places belong to the texts of the pairs, and no others."""
        assert self.neg is not None
        return Identities(self.picture, torch.cat([self.text, self.neg[:, list(places)]], dim=1))

    def companions(self) -> Tensor:
        """True companions, each as a pair with its picture and its sample's texts: `[B*K, 2+n]`."""
        assert self.neg is not None
        pairs = self.pairs()[:, None].expand(-1, self.neg.shape[1], -1)
        return torch.cat([pairs, self.neg[..., None]], dim=2).flatten(0, 1)

    def negatives(self) -> Tensor:
        """Untrue companions `[B*K, 2]`: a text without a picture, as what it is untrue of is no matter.

        One that reads as the caption of a sample has that one's picture, of several such samples the first's.
        """
        assert self.neg is not None
        neg = self.neg.flatten()
        captions, order = self.text[:, 0].sort(stable=True)
        at = torch.searchsorted(captions, neg).clamp(max=len(captions) - 1)
        # A text's identity is that of no picture.
        picture = torch.where(captions[at] == neg, self.picture[order[at]], neg)
        return torch.stack([picture, neg], dim=1)


class Same(NamedTuple):
    """The identities of rows `[R, 1+n]` and columns `[C, 1+m]` of logits."""

    rows: Tensor
    columns: Tensor

    def of(self, rows: slice) -> Tensor:
        """Which columns are the same as each of some rows: bool, `[rows, C]`."""
        picture, *texts = self.rows[rows].unbind(1)
        other, *others = self.columns.unbind(1)
        same = picture[:, None] == other
        for text in texts:
            for column in others:
                same |= text[:, None] == column
        return same
