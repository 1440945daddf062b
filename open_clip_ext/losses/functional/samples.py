"""What the functions share: the samples they score against, masks, products with own texts.

Notation: see the package.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from open_clip_ext.losses.blockwise import sum_over_blocks
from open_clip_ext.losses.chunked_cross_entropy import cross_entropy_of_product
from open_clip_ext.losses.identities import Identities, Same


class Samples(NamedTuple):
    """Features, one row per sample. As columns: sample i of the rows is number `first + i` here."""

    image: Tensor
    text: Tensor
    neg: Tensor | None = None
    valid: Tensor | None = None
    first: int = 0
    same: Identities | None = None


def shares_of(p: Tensor, valid: Tensor | None) -> Tensor:
    """Of a mean over samples of means over their existing texts: 1/(B J_i) of each of these, `[B, J]`."""
    exists = mask_of(p, valid).to(p.dtype)
    return exists / exists.sum(1, keepdim=True).clamp(min=1) / len(p)


def mask_of(n: Tensor, valid: Tensor | None) -> Tensor:
    """`valid [B, K]`, spelled out."""
    return torch.ones_like(n[..., 0], dtype=torch.bool) if valid is None else valid.bool()


def existing(n: Tensor, valid: Tensor | None) -> Tensor:
    """`n` with zeros where there is no text: 0 * NaN would be NaN, in the gradient too."""
    return n if valid is None else torch.where(valid.bool()[..., None], n, 0.0)


def dot(x: Tensor, y: Tensor) -> Tensor:
    """Row by row: `[B]`."""
    return (x * y).sum(-1)


def dot_own(x: Tensor, n: Tensor, valid: Tensor | None) -> Tensor:
    """Each row with its own negatives, 0 for those that do not exist: `[B, K]`."""
    return torch.einsum("bd,bkd->bk", x, existing(n, valid))


def negatives_of(columns: Samples) -> tuple[Tensor, Tensor]:
    """All negatives of the columns `[B*K, D]`, and which exist `[B*K]`."""
    assert columns.neg is not None
    negatives = existing(columns.neg, columns.valid).flatten(0, 1)
    return negatives, mask_of(columns.neg, columns.valid).flatten()


def texts_of(columns: Samples) -> tuple[Tensor, Tensor]:
    """All captions and then all negatives of the columns `[B*(1+K), D]`, and which exist."""
    negatives, exists = negatives_of(columns)
    return torch.cat([columns.text, negatives]), torch.cat([exists.new_ones(len(columns.text)), exists])


def listed(columns: Samples, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Texts and negatives as columns, the target between them and their mask."""
    texts, exists = texts_of(columns)
    return texts, target, exists


def own_negatives(own: Tensor, k: int) -> Tensor:
    """The numbers among all negatives of those of samples `own [b]`, `[b*k]`."""
    return (own[:, None] * k + torch.arange(k, device=own.device)).flatten()


def choose_of_negatives(
    rows: Samples,
    partners: Samples,
    s: Tensor,
    all_rows: Samples,
    all_partners: Samples,
    *,
    captions: bool,
    bias: Tensor | None = None,
) -> Tensor:
    """Mean cross-entropy of negatives that look for their partners among all of these.

    Args:
        rows: with the negatives that look.
        partners: of the same samples, with those that are looked for.
        s: logit scale.
        all_rows: of the whole batch.
        all_partners: of the whole batch.
        captions: whether the partners' own samples are columns, too.
        bias: logit bias, if there is one.
    """
    x, valid = negatives_of(rows)
    _, with_partner = negatives_of(partners)
    _, every = negatives_of(all_rows)
    columns, exists = negatives_of(all_partners)
    target = own_negatives(own_column(rows.image, all_rows), len(x) // len(rows.image))
    everywhere = every & exists
    if captions:
        columns, exists = texts_of(all_partners)
        target = target + len(all_partners.text)
    return choose(x, target, columns, exists, s, valid & with_partner, everywhere, bias)


def choose(
    x: Tensor,
    target: Tensor,
    columns: Tensor,
    exists: Tensor,
    s: Tensor,
    valid: Tensor,
    everywhere: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    """Mean over the rows that exist of CE(s x.columns, target), with a bias of `sigmoid`; 0 if none does."""
    if bias is not None:
        owner = torch.arange(len(columns), device=x.device)
        return sigmoid(x, columns, s, bias, target, owner, exists, rows=row_shares(valid, everywhere, x))
    some = exists | ~exists.any()
    target = torch.where(valid | ~exists.any(), target, exists.int().argmax())
    return cross_entropy_of_product(s * x, columns, target, some, weight=row_shares(valid, everywhere, x))


def row_shares(valid: Tensor, exists: Tensor, like: Tensor) -> Tensor:
    """Weights of rows in the mean over those that exist in the whole batch.

    The sum over own rows alone, `local_loss`, is a share of that mean: W of them have to average to it.
    """
    return valid.to(like) * (len(exists) / len(valid)) / exists.sum().clamp(min=1)


def targets(own: Tensor, valid: Tensor, exists: Tensor) -> Tensor:
    """The own column; of a row that does not exist, any that does, for a finite loss times 0."""
    return torch.where(valid | ~exists.any(), own, exists.int().argmax())


def sigmoid(
    v: Tensor,
    texts: Tensor,
    s: Tensor,
    bias: Tensor,
    own: Tensor,
    owner: Tensor,
    weight: Tensor | None = None,
    *,
    rows: Tensor | None = None,
    same: Same | None = None,
    skip: Tensor | None = None,
) -> Tensor:
    """Each image with each text: mean over images of a sum over texts c, in blocks of images.

        L = mean_i sum_c w_c -log sigmoid(y_ic (s v_i.x_c + b))        y_ic: 1 where c is of i, else -1

    Args:
        v: images `[b, D]`.
        texts: x `[C, D]`.
        s: logit scale.
        bias: b.
        own: the number of each image among all `[b]`.
        owner: that of the image of each text `[C]`; -1 for a text that is true of none.
        weight: w `[C]`; None for 1.
        rows: weights of the images in place of the mean's `[b]`.
        same: identities; a pair that is the same is left out, unless the text is the image's own.
        skip: the number of an image for which each text is left out `[C]`; -1 for none.
    """
    shares = v.new_full(v.shape[:1], 1 / len(v)) if rows is None else rows

    def score(block: slice) -> Tensor:
        logits = s * v[block] @ texts.T + bias
        right = own[block, None] == owner
        each = F.logsigmoid(torch.where(right, logits, -logits))
        if weight is not None:
            each = each * weight
        if same is not None:
            each = each.masked_fill(same.of(block) & ~right, 0)
        if skip is not None:
            each = each.masked_fill(own[block, None] == skip, 0)
        return -(each.sum(1) * shares[block]).sum()

    return sum_over_blocks(score, len(v), len(texts))


def every_column(columns: Samples) -> Tensor:
    """The numbers of all images `[B]`."""
    return torch.arange(len(columns.image), device=columns.image.device)


def owners(columns: Samples) -> Tensor:
    """The `owner` of `texts_of`: captions are true of their images, negatives of none."""
    assert columns.neg is not None
    captions = every_column(columns)
    return torch.cat([captions, captions.new_full((columns.neg.shape[:2].numel(),), -1)])


def own_column(rows: Tensor, columns: Samples) -> Tensor:
    """The numbers of these rows among all samples `[b]`."""
    return torch.arange(columns.first, columns.first + len(rows), device=rows.device)


def same_as(
    rows: Tensor, columns: Samples, companions: slice = slice(0), *, negatives: bool = False
) -> Same | None:
    """Identities of rows and captions or images, and of all negatives behind them; None without identities.

    `companions` are those that belong to their texts.
    """
    if columns.same is None:
        return None
    pairs = columns.same.pairs(companions)
    own = pairs[columns.first : columns.first + len(rows)]
    return Same(own, torch.cat([pairs, columns.same.negatives()]) if negatives else pairs)


def same_negatives(rows: Tensor, columns: Samples) -> Same | None:
    """The same with all negatives alone as the columns."""
    same = same_as(rows, columns)
    return None if same is None or columns.same is None else Same(same.rows, columns.same.negatives())


def same_positives(rows: Tensor, columns: Samples) -> Same | None:
    """Identities of images with all true companions, and of each of these."""
    same = same_as(rows, columns, slice(None))
    return None if same is None or columns.same is None else Same(same.rows, columns.same.companions())


def _first_of(logits: Tensor) -> Tensor:
    """Cross-entropy with column 0 as the target of every row."""
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device))


def choose_first(positive: Tensor, negatives: Tensor, valid: Tensor | None) -> Tensor:
    """Cross-entropy of `positive [B]` among own `negatives [B, K]`."""
    if valid is not None:
        negatives = negatives.masked_fill(~valid.bool(), -torch.inf)
    return _first_of(torch.cat([positive[:, None], negatives], dim=1))
