"""Contrasts with the whole batch, without further true captions.

Notation: see the package.
"""

from __future__ import annotations

import torch
from torch import Tensor

from open_clip_ext.losses.chunked_cross_entropy import cross_entropy_of_product
from open_clip_ext.losses.functional.samples import (
    Samples,
    every_column,
    existing,
    own_column,
    owners,
    row_shares,
    same_as,
    sigmoid,
    targets,
    texts_of,
)
from open_clip_ext.losses.identities import Same


def clip(
    v: Tensor,
    t: Tensor,
    s: Tensor,
    label_smoothing: float = 0.0,
    *,
    columns: Samples | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Symmetric contrastive loss of images and captions.

        L = 1/2 [ mean_i CE(s v_i.T, i) + mean_i CE(s t_i.V, i) ]

    With label smoothing e, target i of B columns has the share 1 - e + e/B, and each other one e/B.
    With a logit bias b, SigLIP's loss, and no smoothing:

        L = mean_i sum_j -log sigmoid(y_ij (s v_i.t_j + b))        y_ij: 1 where i = j, else -1

    Source: CLIP, arXiv 2103.00020; SigLIP, arXiv 2303.15343; mlfoundations/open_clip `ClipLoss` and
    `SigLipLoss`. No difference.
    """
    columns = columns or Samples(v, t)
    target, same = own_column(v, columns), same_as(v, columns)
    if bias is not None:
        return sigmoid(v, columns.text, s, bias, target, every_column(columns), same=same)
    image_to_text, text_to_image = (
        cross_entropy_of_product(s * x, y, target, same=same, label_smoothing=label_smoothing)
        for x, y in ((v, columns.text), (t, columns.image))
    )
    return (image_to_text + text_to_image) / 2


def hard_negative_clip(
    v: Tensor,
    t: Tensor,
    n: Tensor,
    s: Tensor,
    valid: Tensor | None = None,
    *,
    columns: Samples | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Contrastive loss where every image also sees the negatives of every caption.

        L = 1/2 [ mean_i CE(s v_i.[T ; N], i) + mean_i CE(s t_i.V, i) ]        N: all B*K negatives

    Negatives are columns of image to text only. Without any valid negative it equals `clip`. With a logit
    bias b, they are wrong texts for every image, in SigLIP's loss:

        L = mean_i [ sum_j -log sigmoid(y_ij (s v_i.t_j + b)) + sum_jk m_jk -log sigmoid(-(s v_i.n_jk + b)) ]

    Source: NegCLIP, arXiv 2210.01936; vinid/neg_clip@e680f8e `ClipLoss`. Also the base of CE-CLIP
    and DeGLA. Differs in that K is any number and negatives may be missing.
    """
    columns = columns or Samples(v, t, n, valid)
    target = own_column(v, columns)
    texts, exists = texts_of(columns)
    same = same_as(v, columns, negatives=True)
    if bias is not None:
        return sigmoid(v, texts, s, bias, target, owners(columns), exists, same=same)
    image_to_text = cross_entropy_of_product(s * v, texts, target, exists, same=same)
    text_to_image = cross_entropy_of_product(s * t, columns.image, target, same=same_as(t, columns))
    return (image_to_text + text_to_image) / 2


def nt_xent(
    x: Tensor, y: Tensor, temperature: float, valid: Tensor, *, columns: Samples | None = None
) -> Tensor:
    """Each of a pair finds the other among all texts of the pairs that exist but itself.

        L = mean_r CE(z_r.Z / temperature without r itself, partner of r)       Z = [X ; Y], existing pairs

    0 if no pair exists, or only one.

    Args:
        x: `[B, D]`.
        y: `[B, D]`, partners of x.
        temperature: above 0.
        valid: `[B]`, which pairs exist.
        columns: x and y (as `image` and `text`) and `valid [B]` of the whole batch.

    Source: SimCLR, arXiv 2002.05709, as CLAP uses it, arXiv 2311.16445; YichaoCai1/CLAP@d91a680.
    """
    columns = columns or Samples(x, y, valid=valid)
    assert columns.valid is not None
    exists, weight = columns.valid, row_shares(valid, columns.valid, x).repeat(2) / 2
    rows = torch.cat([existing(x, valid), existing(y, valid)])
    every = torch.cat([existing(columns.image, exists), existing(columns.text, exists)])
    own = own_column(x, columns)
    partner, skip = torch.cat([own + len(exists), own]), torch.cat([own, own + len(exists)])
    target = targets(partner, valid.repeat(2), exists.repeat(2))
    some, same = (exists | ~exists.any()).repeat(2), same_as(x, columns)
    if same is not None:
        same = Same(*(ids.repeat(2, 1) for ids in same))
    return cross_entropy_of_product(
        rows / temperature, every, target, some, weight=weight, skip=skip, same=same
    )


def masked_clip(
    v: Tensor,
    t: Tensor,
    n: Tensor,
    s: Tensor,
    valid: Tensor | None = None,
    *,
    columns: Samples | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Contrastive loss in which masked captions are columns for images, and have images to find.

        L = 1/2 [ mean_i CE(s v_i.[T ; N], i) + mean_r CE(s [T ; N]_r.V, i of r) ]

    N are all masked captions of the batch that exist, and r runs over them and the captions. Without any it
    equals `clip`. With a logit bias it is `hard_negative_clip` without the pairs of an image and its own
    masked captions, which the two directions would call both right and wrong.

    Source: MACCO, arXiv 2606.13288; hiker-lw/MACCO@a8f08fa `src/open_clip_code/loss_fn`, without masked
    images. Differs in that there may be any number of masked captions, or none.
    """
    columns = columns or Samples(v, t, n, valid)
    own = own_column(v, columns)
    texts, exists = texts_of(columns)
    same = same_as(v, columns, negatives=True)
    if bias is not None:
        captions, masked = every_column(columns), every_column(columns).repeat_interleave(n.shape[1])
        skip = torch.cat([torch.full_like(captions, -1), masked])
        return sigmoid(v, texts, s, bias, own, owners(columns), exists, same=same, skip=skip)
    there = cross_entropy_of_product(s * v, texts, own, exists, same=same)
    rows, is_row = texts_of(Samples(v, t, n, valid))
    target = torch.cat([own, own.repeat_interleave(n.shape[1])])
    weight, same = row_shares(is_row, exists, rows), None
    if columns.same is not None:
        b, k, first = *n.shape[:2], columns.first
        captions = columns.same.pairs()[first : first + b, [0, 1, 1]]
        masked = columns.same.companions()[first * k : (first + b) * k]
        # Two captions may be alike once words are masked: either then fits both images.
        same = Same(torch.cat([captions, masked]), columns.same.pairs(slice(None)))
    back = cross_entropy_of_product(s * rows, columns.image, target, weight=weight, same=same)
    return (there + back) / 2
