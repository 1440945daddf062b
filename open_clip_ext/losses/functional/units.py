"""Units of captions with foils, and phrases with a sigmoid.

Notation: see the package.
"""

from __future__ import annotations

import torch
from torch import Tensor

from open_clip_ext.losses.chunked_cross_entropy import cross_entropy_of_product
from open_clip_ext.losses.functional.samples import (
    Samples,
    dot,
    every_column,
    existing,
    negatives_of,
    own_column,
    row_shares,
    same_as,
    same_positives,
    sigmoid,
    targets,
)
from open_clip_ext.losses.identities import Identities


def sigmoid_contrast(
    v: Tensor,
    c: Tensor,
    s: Tensor,
    bias: Tensor,
    valid: Tensor | None = None,
    *,
    columns: Samples | None = None,
) -> Tensor:
    """Images and texts, each pair by itself: whether they belong together.

        L = 1/N sum_ijk m_jk -log sigmoid(y_ij (s v_i.c_jk + b))        y_ij: 1 where i = j, else -1

    N is the number of texts that exist; 0 if there is none.

    Args:
        v: images.
        c: `[B, K, D]`, true texts of each.
        s: logit scale.
        bias: b, one element.
        valid: `[B, K]`, which texts exist.
        columns: the whole batch, with the texts as its negatives.

    Source: with captions, SigLIP, arXiv 2303.15343; with phrases, C2LIP, arXiv 2603.25722,
    SamsungLabs/concept_centric_clip@9d02526 `src/open_clip/loss.py`. Differs in the mask.
    """
    columns = columns or Samples(v, v, c, valid)
    texts, exists = negatives_of(columns)
    owner = every_column(columns).repeat_interleave(c.shape[1])
    own, same = own_column(v, columns), same_positives(v, columns)
    total = sigmoid(v, texts, s, bias, own, owner, exists, same=same) * len(columns.image)
    return total / exists.sum().clamp(min=1)


def existing_pairs(
    x: Tensor,
    y: Tensor,
    s: Tensor,
    valid: Tensor,
    foil: Tensor | None = None,
    *,
    columns: Samples | None = None,
) -> Tensor:
    """Symmetric contrastive loss of the pairs that exist; the others leave both directions.

        L = 1/2 [ mean_i CE([s x_i.Y ; s x_i.f_i], i) + mean_i CE(s y_i.X, i) ]       i, X, Y: existing pairs

    0 if no pair exists.

    Args:
        x: `[B, D]`.
        y: `[B, D]`, partners of x.
        s: logit scale.
        valid: `[B]`, which pairs exist.
        foil: `[B, D]`, f: a further column of its own row; None: there is none.
        columns: x, y and `valid [B]` of the whole batch; where both are texts, so are those of `same`.

    Source: CS-CLIP, arXiv 2602.23906; kargibora/CS-CLIP@183aca8, for one unit. With all pairs
    and no foil: `clip`.
    """
    columns = columns or Samples(x, y, valid=valid)
    assert columns.valid is not None
    exists, weight = columns.valid, row_shares(valid, columns.valid, x)
    some = exists | ~exists.any()
    target = targets(own_column(x, columns), valid, exists)
    x, y = existing(x, valid), existing(y, valid)
    own = None if foil is None else s * dot(x, existing(foil, valid))
    partners, others = existing(columns.text, exists), existing(columns.image, exists)
    there, same = target + (own is not None), same_as(x, columns)
    there = cross_entropy_of_product(s * x, partners, there, some, own, weight, same=same)
    back = cross_entropy_of_product(s * y, others, target, some, weight=weight, same=same)
    return (there + back) / 2


def units(
    v: Tensor, c: Tensor, f: Tensor, s: Tensor, valid: Tensor, *, columns: Samples | None = None
) -> Tensor:
    """Images against the units of captions, each next to its foil.

        L = mean_k 1/2 [ mean_i CE([s v_i.C_k ; s v_i.f_ik], i) + mean_i CE(s c_ik.V, i) ]

    i, C_k and V run over the samples whose unit k exists. A unit that no sample has counts as 0.

    Args:
        v: images `[B, D]`.
        c: units `[B, K, D]`.
        f: foils `[B, K, D]`.
        s: logit scale.
        valid: `[B, K]`, which units exist with their foil.
        columns: images, units as `neg` and their mask, of the whole batch.

    Source: CS-CLIP, arXiv 2602.23906; kargibora/CS-CLIP@183aca8. No difference: like there, a unit that two
    samples share is a wrong column for both, unless `columns` has identities.
    """
    image, _, every, exists, first, same = columns or Samples(v, v, c, valid)
    assert every is not None
    assert exists is not None
    identities: list[Identities | None] = [None] * c.shape[1]
    if same is not None:
        assert same.neg is not None
        # A unit is the text of its pair.
        identities = [Identities(same.picture, ids[:, None]) for ids in same.neg.unbind(1)]
    each = [
        existing_pairs(
            v,
            c[:, k],
            s,
            valid[:, k],
            f[:, k],
            columns=Samples(image, every[:, k], None, exists[:, k], first, ids),
        )
        for k, ids in enumerate(identities)
    ]
    return torch.stack(each).mean()
