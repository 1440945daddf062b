"""Further true captions, as targets, as queries, and in bags.

Notation: see the package.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from open_clip_ext.losses.blockwise import sum_over_blocks
from open_clip_ext.losses.chunked_cross_entropy import cross_entropy_of_product
from open_clip_ext.losses.functional.samples import (
    Samples,
    dot_own,
    every_column,
    existing,
    mask_of,
    negatives_of,
    own_column,
    same_as,
    same_positives,
    shares_of,
    sigmoid,
)
from open_clip_ext.losses.identities import Identities, Same


def to_positives(
    x: Tensor, p: Tensor, s: Tensor, valid: Tensor | None = None, *, columns: Samples | None = None
) -> Tensor:
    """Each row finds its other true captions, one at a time, among those of all samples.

        L = mean_i 1/J_i sum_j m_ij CE(s x_i.P_j, i)        P_j: those of all samples at place j

    Captions of one sample never compete: places have a softmax each. 0 for a row without any.

    Source: TSVLC's positive term with x = v and x = t, arXiv 2211.11733; SivanDoveh/TSVLC@90b18e7
    `src/open_clip/loss.py`. Differs in that J is any number and captions may be missing, where the authors
    put the caption itself in place of a missing one.

    Args:
        x: images or captions, `[B, D]`.
        p: other true captions.
        s: logit scale.
        valid: which of those exist.
        columns: the whole batch, with other true captions as its negatives.
    """
    columns = columns or Samples(x, x, p, valid)
    assert columns.neg is not None
    target, weights = own_column(x, columns), shares_of(p, valid)
    others, exists = existing(columns.neg, columns.valid), mask_of(columns.neg, columns.valid)
    terms = [
        cross_entropy_of_product(
            *(s * x, others[:, j], target, exists[:, j]),
            weight=weights[:, j],
            same=same_as(x, columns, slice(j, j + 1)),
        )
        for j in range(p.shape[1])
    ]
    return torch.stack(terms).sum()


def from_positives(
    p: Tensor,
    y: Tensor,
    s: Tensor,
    valid: Tensor | None = None,
    *,
    first: int = 0,
    same: Identities | None = None,
) -> Tensor:
    """Each other true caption finds its sample.

        L = mean_i 1/J_i sum_j m_ij CE(s p_ij.Y, i)        0 for a sample without any

    Source: READ's alignment of paraphrases with Y = T, arXiv 2510.16540; JiH00nKw0n/READ-CLIP@b2f096c.
    Differs in that J is any number and captions may be missing.

    Args:
        p: other true captions.
        y: what they choose from, `[C, D]`: images or captions of the whole batch.
        s: logit scale.
        valid: which of the captions exist.
        first: number of the first row of `p` among those of `y`.
        same: identities of the whole batch, with other true captions as its negatives.
    """
    b, j, d = p.shape
    target = torch.arange(first, first + b, device=p.device).repeat_interleave(j)
    rows = s * existing(p, valid).reshape(b * j, d)
    left_out = None
    if same is not None:
        left_out = Same(same.companions()[first * j : (first + b) * j], same.pairs(slice(None)))
    return cross_entropy_of_product(rows, y, target, weight=shares_of(p, valid).flatten(), same=left_out)


def positives_clip(
    v: Tensor,
    p: Tensor,
    s: Tensor,
    valid: Tensor | None = None,
    *,
    columns: Samples | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """The symmetric contrastive loss with each other true caption in the caption's place, averaged.

        L = 1/2 mean_i 1/J_i sum_j m_ij [ CE(s v_i.P_j, i) + CE(s p_ij.V, i) ]

    With a logit bias b:

        L = mean_i sum_l 1/J_l sum_j m_lj -log sigmoid(y_il (s v_i.p_lj + b))    y_il: 1 where i = l, else -1

    With one existing caption for each sample, it is `clip`. Arguments as in `to_positives`.

    Source: the first term of CLIC, arXiv 2505.24424, AmitPeleg/CLIC@dc845c7. Differs in the mask.
    """
    columns = columns or Samples(v, v, p, valid)
    if bias is not None:
        texts, exists = negatives_of(columns)
        exists = exists.view(-1, p.shape[1]).to(v)
        share = exists / exists.sum(1, keepdim=True).clamp(min=1)
        owner = every_column(columns).repeat_interleave(p.shape[1])
        own, same = own_column(v, columns), same_positives(v, columns)
        return sigmoid(v, texts, s, bias, own, owner, share.flatten(), same=same)
    image_to_text = to_positives(v, p, s, valid, columns=columns)
    own = from_positives(p, columns.image, s, valid, first=columns.first, same=columns.same)
    return (image_to_text + own) / 2


def image_grounded_positives(
    v: Tensor,
    p: Tensor,
    n: Tensor,
    s: Tensor,
    valid: Tensor | None = None,
    negatives_valid: Tensor | None = None,
) -> Tensor:
    """`image_grounded` with each of several true captions as the positive, averaged.

        L = mean_i 1/J_i sum_j m_ij CE(s [v_i.p_ij ; v_i.n_i1 ; .. ; v_i.n_iK], 0)

    Args:
        v: images.
        p: true captions.
        n: negatives, which each of them is held against.
        s: logit scale.
        valid: which true captions exist.
        negatives_valid: which negatives exist.
    """
    positive = s * dot_own(v, p, valid)
    negatives = (s * dot_own(v, n, negatives_valid)).masked_fill(~mask_of(n, negatives_valid), -torch.inf)
    rows = torch.cat([positive[..., None], negatives[:, None].expand(-1, p.shape[1], -1)], dim=2)
    target = torch.zeros_like(positive, dtype=torch.long)
    losses = F.cross_entropy(rows.flatten(0, 1), target.flatten(), reduction="none").view_as(positive)
    return (losses * shares_of(p, valid)).sum()


def keep_apart(t: Tensor, p: Tensor, margin: float = 0.0, valid: Tensor | None = None) -> Tensor:
    """Hinge that keeps the cosine of a caption with another true one of its image below `-margin`.

        L = mean_i 1/J_i sum_j m_ij max(0, t_i.p_ij + margin)

    Source: Omni-NegCLIP, arXiv 2603.29258; Jingqi-Xu/Omni-NegCLIP, where the margin is 0.9. Differs in the
    mask and in the default.
    """
    return (F.relu(dot_own(t, p, valid) + margin) * shares_of(p, valid)).sum()


def bag_clip(
    v: Tensor, p: Tensor, s: Tensor, valid: Tensor | None = None, *, columns: Samples | None = None
) -> Tensor:
    """Contrastive loss of images and bags of captions: some of its bag is close to an image, not each.

        L = mean_i [ logsumexp({x_ijm}_jm, {x_jim}_jm) - logsumexp_m x_iim ]        x_ijm = s v_i.p_jm

    The first set is image i with the bags of all samples, the second its bag with all images; x_iim is in
    both. 0 for a sample without any. Arguments as in `to_positives`.

    Source: DAC, arXiv 2305.19595; SivanDoveh/DAC@ca23611 `src/open_clip/loss.py`, as MIL-NCE, arXiv
    1912.06430. Differs in the mask.
    """
    columns = columns or Samples(v, v, p, valid)
    texts, exists = negatives_of(columns)
    exists = exists | ~exists.any()
    m, own = mask_of(p, valid), existing(p, valid)
    has = m.any(1)
    m = m | ~has[:, None]  # of a row that does not count, finite numbers
    number, images = own_column(v, columns), every_column(columns)
    bags, pictures = same_positives(v, columns), same_as(v, columns, slice(None))

    def left_out(rows: slice, same: Same | None, owner: Tensor) -> Tensor:
        others = number[rows, None] != owner
        return torch.zeros_like(others) if same is None else others & same.of(rows)

    def score(rows: slice) -> Tensor:
        wrong = ~exists | left_out(rows, bags, images.repeat_interleave(p.shape[1]))
        every = (s * v[rows] @ texts.T).masked_fill(wrong, -torch.inf).logsumexp(1)
        wrong = ~m[rows, :, None] | left_out(rows, pictures, images)[:, None]
        others = (s * own[rows] @ columns.image.T).masked_fill(wrong, -torch.inf)
        right = (s * dot_own(v[rows], own[rows], None)).masked_fill(~m[rows], -torch.inf)
        loss = torch.logaddexp(every, others.flatten(1).logsumexp(1)) - right.logsumexp(1)
        return torch.where(has[rows], loss, 0.0).sum()

    return sum_over_blocks(score, len(v), 2 * len(texts)) / len(v)


def image_grounded_bag(
    v: Tensor,
    p: Tensor,
    n: Tensor,
    s: Tensor,
    valid: Tensor | None = None,
    negatives_valid: Tensor | None = None,
) -> Tensor:
    """Each image chooses between its bag of captions and its own negatives, whichever of the bag it is.

        L = mean_i [ logsumexp({s v_i.p_im}_m, {s v_i.n_ik}_k) - logsumexp_m s v_i.p_im ]

    0 for a sample without captions, or without negatives. Arguments as in `image_grounded_positives`.

    Source: DAC, arXiv 2305.19595; SivanDoveh/DAC@ca23611 `src/open_clip/loss.py`. Differs in the mask, and in
    that there may be any number of negatives, where theirs has one for each caption.
    """
    m = mask_of(p, valid)
    has = m.any(1)
    bag = (s * dot_own(v, p, valid)).masked_fill(~m & has[:, None], -torch.inf)
    negatives = (s * dot_own(v, n, negatives_valid)).masked_fill(~mask_of(n, negatives_valid), -torch.inf)
    loss = torch.cat([bag, negatives], 1).logsumexp(1) - bag.logsumexp(1)
    return torch.where(has, loss, 0.0).mean()
