"""Each sample's own candidates: its caption among its negatives.

Notation: see the package.
"""

from __future__ import annotations

import torch
from torch import Tensor

from open_clip_ext.losses.functional.samples import Samples, choose_first, dot, dot_own, mask_of


def image_grounded(v: Tensor, t: Tensor, n: Tensor, s: Tensor | float, valid: Tensor | None = None) -> Tensor:
    """Each image chooses between its caption and the caption's own negatives.

        L = mean_i -log  e^{s v_i.t_i} / ( e^{s v_i.t_i} + sum_k m_ik e^{s v_i.n_ik} )

    Source: DeGLA's image-grounded contrast, arXiv 2504.16801; xiaoxing2001/DeGLA@1c5e960
    `src/open_clip/loss.py`. Differs in the mask, and in that only B*(1+K) logits are made.
    """
    return choose_first(s * dot(v, t), s * dot_own(v, n, valid), valid)


def text_grounded(
    t: Tensor,
    teacher_t: Tensor,
    n: Tensor,
    scale: float = 10.0,
    valid: Tensor | None = None,
) -> Tensor:
    """Each caption chooses between the teacher's view of itself and its own negatives.

        L = mean_i -log  e^{c t_i.t*_i} / ( e^{c t_i.t*_i} + sum_k m_ik e^{c t_i.n_ik} )    c: scale

    Gradients reach t and n, never the teacher's t*.

    Source: DeGLA's text-grounded contrast, arXiv 2504.16801; xiaoxing2001/DeGLA@1c5e960
    `src/open_clip/loss.py`, where a tiled mask picks the negatives of other captions: that is
    this function given `tiled(n)` and `tiled(valid)`.
    """
    return choose_first(scale * dot(t, teacher_t.detach()), scale * dot_own(t, n, valid), valid)


def tiled(x: Tensor) -> Tensor:
    """Put flat row `i + k*B` of `x [B, K, ...]` in slot (i, k), as DeGLA's released code reads it.

    Flat rows are sample-major (`i*K + k`), so slot (i, k) receives a negative of another caption,
    number `(i + k*B) // K`. Of use only to repeat the authors' numbers.
    """
    b, k = x.shape[:2]
    return x.reshape(k, b, *x.shape[2:]).transpose(0, 1)


def released_negatives(columns: Samples, rows: int) -> tuple[Tensor, Tensor]:
    """The negatives `[rows, K, D]` and mask of `tiled`, for as many rows from `columns.first` on."""
    assert columns.neg is not None
    own = slice(columns.first, columns.first + rows)
    return tiled(columns.neg)[own], tiled(mask_of(columns.neg, columns.valid))[own]


def same_place(p: Tensor, valid: Tensor | None = None) -> Tensor:
    """Squared distance of the first two true texts of each sample.

        L = mean_i |p_i1 - p_i2|^2        0 for a sample that lacks one of them

    Source: CLIC's term for both orders of two captions, arXiv 2505.24424, AmitPeleg/CLIC@dc845c7. Differs in
    the mask.
    """
    both = mask_of(p, valid)[:, :2].all(1)
    return torch.where(both[:, None], p[:, 0] - p[:, 1], 0.0).square().sum(1).mean()
