"""The building blocks of the losses: tensors in, one scalar out, no state, no communication.

Legend: B samples, K negatives of each, D embedding width.

    v [B, D]     images          s            logit scale (exponentiated), one element
    t [B, D]     captions        m [B, K]     `valid`: negative k of sample i exists; None: all do
    n [B, K, D]  negatives       CE(row, j)   softmax cross-entropy of a row of logits, target j
    p [B, J, D]  other true captions          their `valid` is m [B, J], the number of them J_i

Features have unit length. Arithmetic is done in the dtype that comes in; the losses feed fp32.

A negative that does not exist has logit -inf in every softmax. What is stored in its slot changes
no value and no gradient, not even if it is NaN. Means run over all B rows where nothing else is said,
so a sample without negatives adds exactly 0 to the terms that look at its own negatives only, and one
without other true captions adds 0 to the terms about those.

`columns` is for several processes: the functions score the rows they are given against the columns
of the whole batch. None means that the rows are the whole batch. Where it has identities, `same`, a column
that is the same as a row is left out of that row's softmax (docs/losses.md#equal-pictures-and-captions).

Logits with all columns are made by `cross_entropy_of_product`, a block of rows at a time. Those with
own negatives are `[B, 1+K]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from open_clip_ext.losses.blockwise import sum_over_blocks
from open_clip_ext.losses.chunked_cross_entropy import cross_entropy_of_product
from open_clip_ext.losses.chunked_list_mle import Lists, list_mle_of_products
from open_clip_ext.losses.identities import Identities, Same


class Samples(NamedTuple):
    """Features, one row per sample. As columns: sample i of the rows is number `first + i` here."""

    image: Tensor
    text: Tensor
    neg: Tensor | None = None
    valid: Tensor | None = None
    first: int = 0
    same: Identities | None = None


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
    target, same = _own_column(v, columns), _same(v, columns)
    if bias is not None:
        return _sigmoid(v, columns.text, s, bias, target, _every(columns), same=same)
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
    target = _own_column(v, columns)
    texts, exists = _all_texts(columns)
    same = _same(v, columns, negatives=True)
    if bias is not None:
        return _sigmoid(v, texts, s, bias, target, _owners(columns), exists, same=same)
    image_to_text = cross_entropy_of_product(s * v, texts, target, exists, same=same)
    text_to_image = cross_entropy_of_product(s * t, columns.image, target, same=_same(t, columns))
    return (image_to_text + text_to_image) / 2


def image_grounded(v: Tensor, t: Tensor, n: Tensor, s: Tensor | float, valid: Tensor | None = None) -> Tensor:
    """Each image chooses between its caption and the caption's own negatives.

        L = mean_i -log  e^{s v_i.t_i} / ( e^{s v_i.t_i} + sum_k m_ik e^{s v_i.n_ik} )

    Source: DeGLA's image-grounded contrast, arXiv 2504.16801; xiaoxing2001/DeGLA@1c5e960
    `src/open_clip/loss.py`. Differs in the mask, and in that only B*(1+K) logits are made.
    """
    return _choose_first(s * _dot(v, t), s * _dot_own(v, n, valid), valid)


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
    return _choose_first(scale * _dot(t, teacher_t.detach()), scale * _dot_own(t, n, valid), valid)


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
    return tiled(columns.neg)[own], tiled(_mask(columns.neg, columns.valid))[own]


def self_distillation(
    v: Tensor,
    teacher_v: Tensor,
    t: Tensor,
    teacher_t: Tensor,
    n: Tensor,
    teacher_n: Tensor,
    valid: Tensor | None = None,
) -> Tensor:
    """Squared distance to the teacher's features, summed over images, captions and negatives.

        L = sum_i |v_i - v*_i|^2 + sum_i |t_i - t*_i|^2 + sum_ik m_ik |n_ik - n*_ik|^2

    A sum: it grows with B and K.

    Source: DeGLA, arXiv 2504.16801; xiaoxing2001/DeGLA@1c5e960 `src/open_clip/loss.py`. Differs in
    the mask only.
    """
    n, teacher_n = _existing(n, valid), _existing(teacher_n, valid)
    pairs = ((v, teacher_v), (t, teacher_t), (n, teacher_n))
    image, text, negative = ((x - y.detach()).square().sum() for x, y in pairs)
    return image + text + negative


def adaptive_thresholds(
    v: Tensor,
    t: Tensor,
    n: Tensor,
    s: Tensor,
    previous: Tensor,
    valid: Tensor | None = None,
    *,
    rule: Literal["mean", "max"] = "mean",
    cap: float = 10.0,
) -> Tensor:
    """How far, in logits, captions are ahead of the negatives of each type: the next margins `[K]`.

        p_i = s v_i.t_i      d_ik = s v_i.n_ik
        mean:  Th_k = clamp( mean_i p_i  -  sum_i m_ik d_ik / sum_i m_ik , 0, cap )
        max:   Th_k = clamp( max_{i: m_ik} (p_i - d_ik) / 5              , 0, cap )

    The mean of p runs over all samples, the mean of d over existing negatives. A type without any
    keeps its `previous [K]` value. No gradient.

    Source: CE-CLIP, arXiv 2306.08832; lezhang7/Enhance-FineGrained@ef87eb7 `src/open_clip/loss.py`,
    clamp in `src/training/train.py`. Differs in that existing negatives are counted by the mask,
    not by `d != 0`, and in that an empty type keeps its value, where the authors divide 0 by 0.
    """
    with torch.no_grad():
        p, d = s * _dot(v, t), s * _dot_own(v, n, valid)
        m = _mask(n, valid)
        if rule == "mean":
            new = p.mean() - (d * m).sum(0) / m.sum(0)
        elif rule == "max":
            new = (p[:, None] - d).masked_fill(~m, -torch.inf).amax(0) / 5
        else:
            raise ValueError(f"rule is {rule!r}, expected one of mean, max")
        return torch.where(m.any(0), new.clamp(0, cap), previous)


def cross_modal_rank(
    v: Tensor,
    t: Tensor,
    n: Tensor,
    s: Tensor,
    thresholds: Tensor,
    valid: Tensor | None = None,
    *,
    rule: Literal["mean", "max"] | None = "mean",
    cap: float = 10.0,
    columns: Samples | None = None,
) -> tuple[Tensor, Tensor]:
    """Hinge that keeps each caption ahead of its negatives by a margin for each type of negative.

        L = 1/(B K) sum_ik m_ik max(0, Th_k + s v_i.n_ik - s v_i.t_i)

    The mean counts the slots of missing negatives, as the authors' does.

    Args:
        v: images.
        t: captions.
        n: negatives; the position k is the type.
        s: logit scale.
        thresholds: `[K]` margins in logits, used here as they are.
        valid: which negatives exist.
        rule: how the next margins follow from this batch; None: they stay.
        cap: greatest next margin.
        columns: the whole batch, for the next margins.

    Returns:
        The loss, and the margins `[K]` for the next step (see `adaptive_thresholds`).

    Source: CE-CLIP, arXiv 2306.08832; lezhang7/Enhance-FineGrained@ef87eb7 `src/open_clip/loss.py`.
    """
    behind = s * _dot_own(v, n, valid) - s * _dot(v, t)[:, None]
    hinge = F.relu(thresholds + behind)
    if valid is not None:
        hinge = hinge * valid
    if rule is None:
        return hinge.mean(), thresholds
    image, text, neg, exists, *_ = columns or Samples(v, t, n, valid)
    assert neg is not None
    new = adaptive_thresholds(image, text, neg, s, thresholds, exists, rule=rule, cap=cap)
    return hinge.mean(), new


def intra_modal(
    v: Tensor,
    t: Tensor,
    n: Tensor,
    s: Tensor,
    valid: Tensor | None = None,
    form: Literal["paper", "release", "head"] = "paper",
    *,
    columns: Samples | None = None,
) -> Tensor:
    """Each caption is told apart from all negatives of the batch, with its image as the positive.

        p_i = s v_i.t_i      e_i = s t_i.N          N: all B*K negatives
        paper    L = mean_i CE([p_i ; e_i], 0)
        release  L = mean_i CE([p_i ; e_i], 1)      the target is a negative
        head     L = mean_i CE(e_i, 0)              so it is here, and the positive is gone

    `release` and `head` pull every caption towards the first existing negative of the batch; they
    are here to repeat the authors' numbers. 0 if no negative exists.

    Source: CE-CLIP, arXiv 2306.08832; lezhang7/Enhance-FineGrained `src/open_clip/loss.py` at
    @7f4433a (paper), @7b58a00 and @b8a5244 (release), @ef87eb7 (head). Differs in the mask.
    """
    if form not in ("paper", "release", "head"):
        raise ValueError(f"form is {form!r}, expected one of paper, release, head")
    columns = columns or Samples(v, t, n, valid)
    negatives, exists = _all_negatives(columns)
    positive = None if form == "head" else s * _dot(v, t)
    same = _same_negatives(t, columns)
    if form == "paper":
        target = torch.zeros(len(t), dtype=torch.long, device=t.device)
        return cross_entropy_of_product(s * t, negatives, target, exists, positive, same=same)
    target = exists.int().argmax().expand(len(t)) + (form == "release")
    # With nothing to choose from, finite logits keep the gradient a number until the end.
    some = exists | ~exists.any()
    loss = cross_entropy_of_product(s * t, negatives, target, some, positive, same=same)
    return torch.where(exists.any(), loss, 0.0)


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
    target, weights = _own_column(x, columns), _weights(p, valid)
    others, exists = _existing(columns.neg, columns.valid), _mask(columns.neg, columns.valid)
    terms = [
        cross_entropy_of_product(
            *(s * x, others[:, j], target, exists[:, j]),
            weight=weights[:, j],
            same=_same(x, columns, slice(j, j + 1)),
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
    rows = s * _existing(p, valid).reshape(b * j, d)
    left_out = None
    if same is not None:
        left_out = Same(same.companions()[first * j : (first + b) * j], same.pairs(slice(None)))
    return cross_entropy_of_product(rows, y, target, weight=_weights(p, valid).flatten(), same=left_out)


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
        texts, exists = _all_negatives(columns)
        exists = exists.view(-1, p.shape[1]).to(v)
        share = exists / exists.sum(1, keepdim=True).clamp(min=1)
        owner = _every(columns).repeat_interleave(p.shape[1])
        own, same = _own_column(v, columns), _same_positives(v, columns)
        return _sigmoid(v, texts, s, bias, own, owner, share.flatten(), same=same)
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
    positive = s * _dot_own(v, p, valid)
    negatives = (s * _dot_own(v, n, negatives_valid)).masked_fill(~_mask(n, negatives_valid), -torch.inf)
    rows = torch.cat([positive[..., None], negatives[:, None].expand(-1, p.shape[1], -1)], dim=2)
    target = torch.zeros_like(positive, dtype=torch.long)
    losses = F.cross_entropy(rows.flatten(0, 1), target.flatten(), reduction="none").view_as(positive)
    return (losses * _weights(p, valid)).sum()


def keep_apart(t: Tensor, p: Tensor, margin: float = 0.0, valid: Tensor | None = None) -> Tensor:
    """Hinge that keeps the cosine of a caption with another true one of its image below `-margin`.

        L = mean_i 1/J_i sum_j m_ij max(0, t_i.p_ij + margin)

    Source: Omni-NegCLIP, arXiv 2603.29258; Jingqi-Xu/Omni-NegCLIP, where the margin is 0.9. Differs in the
    mask and in the default.
    """
    return (F.relu(_dot_own(t, p, valid) + margin) * _weights(p, valid)).sum()


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
    texts, exists = _all_negatives(columns)
    exists = exists | ~exists.any()
    m, own = _mask(p, valid), _existing(p, valid)
    has = m.any(1)
    m = m | ~has[:, None]  # of a row that does not count, finite numbers
    number, images = _own_column(v, columns), _every(columns)
    bags, pictures = _same_positives(v, columns), _same(v, columns, slice(None))

    def left_out(rows: slice, same: Same | None, owner: Tensor) -> Tensor:
        others = number[rows, None] != owner
        return torch.zeros_like(others) if same is None else others & same.of(rows)

    def score(rows: slice) -> Tensor:
        wrong = ~exists | left_out(rows, bags, images.repeat_interleave(p.shape[1]))
        every = (s * v[rows] @ texts.T).masked_fill(wrong, -torch.inf).logsumexp(1)
        wrong = ~m[rows, :, None] | left_out(rows, pictures, images)[:, None]
        others = (s * own[rows] @ columns.image.T).masked_fill(wrong, -torch.inf)
        right = (s * _dot_own(v[rows], own[rows], None)).masked_fill(~m[rows], -torch.inf)
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
    m = _mask(p, valid)
    has = m.any(1)
    bag = (s * _dot_own(v, p, valid)).masked_fill(~m & has[:, None], -torch.inf)
    negatives = (s * _dot_own(v, n, negatives_valid)).masked_fill(~_mask(n, negatives_valid), -torch.inf)
    loss = torch.cat([bag, negatives], 1).logsumexp(1) - bag.logsumexp(1)
    return torch.where(has, loss, 0.0).mean()


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
    texts, exists = _all_negatives(columns)
    owner = _every(columns).repeat_interleave(c.shape[1])
    own, same = _own_column(v, columns), _same_positives(v, columns)
    total = _sigmoid(v, texts, s, bias, own, owner, exists, same=same) * len(columns.image)
    return total / exists.sum().clamp(min=1)


def cross_modal_order(v: Tensor, t: Tensor, s: Tensor, *, columns: Samples | None = None) -> Tensor:
    """Images order captions as these captions order images, and the reverse.

        L = [ ListMLE(s v_i.T, s t_i.V) + ListMLE(s t_i.V, s v_i.T) ] / B

        ListMLE(x, y) = mean_i sum_j [ logsumexp_{l >= j} x_i,o(l) - x_i,o(j) ]    o sorts y_i, greatest first

    The second list is only sorted. B is the size of the whole batch. Memory: `list_mle_of_products`.

    Source: RankCLIP, arXiv 2404.09387; Jam1ezhang/RankCLIP@841d171. Differs in that equal numbers keep the
    order of the batch instead of a random one, no logit is taken for padding (theirs: one of exactly -1), and
    no 1e-10 is added within the logarithm.
    """
    columns = columns or Samples(v, t)
    return _order(Lists(s * v, columns.text), Lists(s * t, columns.image))


def in_modal_order(v: Tensor, t: Tensor, s: Tensor, *, columns: Samples | None = None) -> Tensor:
    """Images order images as their captions order captions, and the reverse.

        L = [ ListMLE(s v_i.V, s t_i.T) + ListMLE(s t_i.T, s v_i.V) ] / B

    Source and differences as of `cross_modal_order`.
    """
    columns = columns or Samples(v, t)
    return _order(Lists(s * v, columns.image), Lists(s * t, columns.text))


def disturbed_images(v: Tensor, t: Tensor, n: Tensor, valid: Tensor | None = None) -> Tensor:
    """Image negatives without images, `[B, K, D]`: each image moved as its caption was edited.

        v-_ik = unit( v_i + sg(n_ik - t_i) )        sg: no gradient

    Source: AHNPL, arXiv 2505.15576; nynu-BDAI/AHNPL@6f35f47. Differs in the unit length, which logits of
    cosines take for granted.
    """
    return F.normalize(v[:, None] + (_existing(n, valid) - t[:, None]).detach(), dim=-1)


def disturbed_contrast(
    v: Tensor,
    t: Tensor,
    n: Tensor,
    s: Tensor,
    valid: Tensor | None = None,
    form: Literal["paper", "own"] = "paper",
    *,
    columns: Samples | None = None,
) -> Tensor:
    """Disturbed images as the negatives of an image, or of its caption.

        paper  L = mean_i CE([s v_i.t_i ; s v_i.V-], 0)                    V-: all B*K, see `disturbed_images`
        own    L = mean_i CE(s [t_i.v_i ; t_i.v-_i1 ; .. ; t_i.v-_iK], 0)

    `own` is ours: the caption chooses among images, as an image does among texts in `image_grounded`.

    Source: AHNPL, arXiv 2505.15576; nynu-BDAI/AHNPL@6f35f47. Differs in the mask and in that `paper` has the
    positive as column 0 and the target. Theirs has no positive and target i, a disturbed image.
    """
    if form not in ("paper", "own"):
        raise ValueError(f"form is {form!r}, expected one of paper, own")
    positive = s * _dot(v, t)
    if form == "own":
        return _choose_first(positive, s * _dot_own(t, disturbed_images(v, t, n, valid), None), valid)
    columns = columns or Samples(v, t, n, valid)
    image, text, neg, exists, *_ = columns
    assert neg is not None
    images = disturbed_images(image, text, neg, exists).flatten(0, 1)
    target = torch.zeros(len(v), dtype=torch.long, device=v.device)
    exist, same = _mask(neg, exists).flatten(), _same_negatives(v, columns)
    return cross_entropy_of_product(s * v, images, target, exist, positive, same=same)


def _order(x: Lists, y: Lists) -> Tensor:
    return (list_mle_of_products(x, y) + list_mle_of_products(y, x)) / len(x.columns)


def _weights(p: Tensor, valid: Tensor | None) -> Tensor:
    """Of a mean over samples of means over their existing texts: 1/(B J_i) of each of these, `[B, J]`."""
    exists = _mask(p, valid).to(p.dtype)
    return exists / exists.sum(1, keepdim=True).clamp(min=1) / len(p)


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
    exists, weight = columns.valid, _shares(valid, columns.valid, x)
    some = exists | ~exists.any()
    target = _target(_own_column(x, columns), valid, exists)
    x, y = _existing(x, valid), _existing(y, valid)
    own = None if foil is None else s * _dot(x, _existing(foil, valid))
    partners, others = _existing(columns.text, exists), _existing(columns.image, exists)
    there, same = target + (own is not None), _same(x, columns)
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


def selective_calibration(
    v: Tensor,
    t: Tensor,
    n: Tensor,
    s: Tensor,
    focal: float,
    label_smoothing: float,
    valid: Tensor | None = None,
    *,
    exists: Tensor | None = None,
) -> Tensor:
    """`calibrated_choice` of each image between its caption and own negatives.

        z_i = s [v_i.t_i ; v_i.n_i1 ; .. ; v_i.n_iK]

    Args:
        v: images.
        t: captions.
        n: negatives.
        s: logit scale.
        focal: exponent g >= 0.
        label_smoothing: e, from 0 to 1.
        valid: which negatives exist.
        exists: the same of the whole batch, if the rows are a part of it.

    Source: FSC-CLIP's global regularization, arXiv 2410.05210.
    """
    logits = s * torch.cat([_dot(v, t)[:, None], _dot_own(v, n, valid)], 1)
    return calibrated_choice(logits, focal, label_smoothing, _mask(n, valid), exists=exists)


def calibrated_choice(
    logits: Tensor, focal: float, label_smoothing: float, valid: Tensor, *, exists: Tensor | None = None
) -> Tensor:
    """A choice of the first of 1+K; easy ones count less, and labels are smooth.

        p_i  = softmax(z_i)                                        c_i = 1 + sum_k m_ik
        y_i0 = 1 - e + e/c_i      y_ik = m_ik e/c_i                e: label_smoothing
        L    = mean_i sum_k y_ik (1 - p_ik)^g (-log p_ik)          g: focal

    The mean is over samples with a negative, 0 without any. With e = g = 0 it is the cross-entropy of those.

    Args:
        logits: z `[B, 1+K]`; what stands for missing negatives does not matter if it is finite.
        focal: exponent g >= 0.
        label_smoothing: e, from 0 to 1.
        valid: which negatives exist `[B, K]`.
        exists: the same of the whole batch, if the rows are a part of it.

    Source: FSC-CLIP's selective calibrated regularization, arXiv 2410.05210; ytaek-oh/fsc-clip@604015d
    `src/training/losses`. Differs in that missing negatives have no logit; there it is 0, and stays.
    """
    has = valid.any(1)
    y = torch.cat([torch.ones_like(valid[:, :1]), valid], 1)
    log_p = logits.masked_fill(~y, -torch.inf).log_softmax(1)
    # Where there is no choice p is 0 or 1, and a power or a product with it may have no gradient.
    log_p = torch.where(y & has[:, None], log_p, -1.0)
    y = y.to(log_p)
    y = label_smoothing * y / y.sum(1, keepdim=True)
    y = y + (1 - label_smoothing) * F.pad(torch.ones_like(y[:, :1]), (0, valid.shape[1]))
    wrong = -log_p.expm1().clamp(max=-torch.finfo(log_p.dtype).tiny)
    each = -(y * wrong**focal * log_p).sum(1)
    return (each * _shares(has, has if exists is None else exists.any(1), each)).sum()


def local_similarity(patches: Tensor, words: Tensor, mask: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """Each image with J texts of its own, word by word: a word meets the patches that look like it.

        a_tp = (T_t.P_p - min_p T_t.P_p) / sum_p (T_t.P_p - min_p T_t.P_p)      constant
        u_t  = norm(sum_p a_tp P_p)         S = log sum_t exp(s u_t.norm(T_t))

    Args:
        patches: P `[B, P, D]`, not normalized.
        words: T `[B, J, L, D]`; their length does not matter.
        mask: which words count `[B, J, L]`.
        s: logit scale.

    Returns:
        S `[B, J]`, in which s is a constant, and its derivative by s, a constant too. So S can be gathered
        without gradients, and s still gets the whole of its own by S + (s - constant(s)) dS/ds. Both are 0
        for a text without a word that counts.

    Source: FSC-CLIP's local hard negative loss, arXiv 2410.05210; ytaek-oh/fsc-clip@604015d
    `src/training/losses/loss.py`. There a_tp is scaled to [0, 1] first, which its sum undoes. Differs where
    all patches look the same to a word: a_tp is 1/P, there 0/0.
    """
    words = F.normalize(words.masked_fill(~mask[..., None], 0), dim=-1)
    with torch.no_grad():
        a = words.flatten(1, 2) @ patches.mT
        a = a - a.amin(-1, keepdim=True)
        a = torch.where(a.amax(-1, keepdim=True) > 0, a, 1.0)
        a = a / a.sum(-1, keepdim=True)
    cosines = (F.normalize(a @ patches, dim=-1).view_as(words) * words).sum(-1)
    some = mask.any(-1)
    logits = (s.detach() * cosines).masked_fill(~mask & some[..., None], -torch.inf)
    slope = (logits.softmax(-1) * cosines).sum(-1).detach()
    return logits.logsumexp(-1).masked_fill(~some, 0), slope.masked_fill(~some, 0)


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
    exists, weight = columns.valid, _shares(valid, columns.valid, x).repeat(2) / 2
    rows = torch.cat([_existing(x, valid), _existing(y, valid)])
    every = torch.cat([_existing(columns.image, exists), _existing(columns.text, exists)])
    own = _own_column(x, columns)
    partner, skip = torch.cat([own + len(exists), own]), torch.cat([own, own + len(exists)])
    target = _target(partner, valid.repeat(2), exists.repeat(2))
    some, same = (exists | ~exists.any()).repeat(2), _same(x, columns)
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
    own = _own_column(v, columns)
    texts, exists = _all_texts(columns)
    same = _same(v, columns, negatives=True)
    if bias is not None:
        captions, masked = _every(columns), _every(columns).repeat_interleave(n.shape[1])
        skip = torch.cat([torch.full_like(captions, -1), masked])
        return _sigmoid(v, texts, s, bias, own, _owners(columns), exists, same=same, skip=skip)
    there = cross_entropy_of_product(s * v, texts, own, exists, same=same)
    rows, is_row = _all_texts(Samples(v, t, n, valid))
    target = torch.cat([own, own.repeat_interleave(n.shape[1])])
    weight, same = _shares(is_row, exists, rows), None
    if columns.same is not None:
        b, k, first = *n.shape[:2], columns.first
        captions = columns.same.pairs()[first : first + b, [0, 1, 1]]
        masked = columns.same.companions()[first * k : (first + b) * k]
        # Two captions may be alike once words are masked: either then fits both images.
        same = Same(torch.cat([captions, masked]), columns.same.pairs(slice(None)))
    back = cross_entropy_of_product(s * rows, columns.image, target, weight=weight, same=same)
    return (there + back) / 2


def negative_images_clip(
    texts: Samples,
    images: Samples,
    s: Tensor,
    *,
    columns: tuple[Samples, Samples] | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Contrastive loss with negatives on both sides, in which a negative image finds its negative.

        L = 1/3 [ mean_i CE(s v_i.[T ; N], i) + mean_i CE(s t_i.[V ; V-], i) + L_pair ]
        L_pair = mean_ik CE(s v-_ik.[T ; N], n_ik)             of the pairs that exist

    V- are all negative images of the batch, N all negatives. With a logit bias, SigLIP's loss of all images
    with all texts, half the mean over V and half that over the V- that have their negative.

    Args:
        texts: of samples, with their negatives.
        images: the same with images and texts exchanged: `image` are captions, `text` images, `neg` negative
            images `[B, K, D]`, each of which belongs to a negative place by place.
        s: logit scale.
        columns: both of the whole batch.
        bias: logit bias, if there is one.

    Source: CoN-CLIP, arXiv 2403.20312; jaisidhsingh/CoN-CLIP@503388a. Differs in that K is any number and
    either side of a pair may be missing: what is there stays a column, and L_pair is 0 without any pair.
    """
    all_texts, all_images = columns or (texts, images)
    target = _own_column(texts.image, all_texts)
    if bias is not None:
        every, exists = _all_texts(all_texts)
        there = _sigmoid(texts.image, every, s, bias, target, _owners(all_texts), exists)
        pairs = _negatives_find(images, texts, s, all_images, all_texts, captions=True, bias=bias)
        return (there + pairs) / 2
    there = cross_entropy_of_product(s * texts.image, *_listed(all_texts, target))
    back = cross_entropy_of_product(s * texts.text, *_listed(all_images, target))
    return (there + back + _negatives_find(images, texts, s, all_images, all_texts, captions=True)) / 3


def negative_pairs_clip(
    texts: Samples,
    images: Samples,
    s: Tensor,
    *,
    columns: tuple[Samples, Samples] | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """`hard_negative_clip` of negative images and their negatives, with captions as negatives of these.

        L = 1/2 [ mean_ik CE(s v-_ik.[T ; N], n_ik) + mean_ik CE(s n_ik.V-, v-_ik) ]     pairs that exist

    Arguments as in `negative_images_clip`. 0 without any pair. With a logit bias, SigLIP's loss of the V-
    with all texts.

    Source: TripletCLIP, arXiv 2411.02545; tripletclip/TripletCLIP@abbf81c. Differs in that K is any number
    and either side of a pair may be missing: what is there stays a column.
    """
    all_texts, all_images = columns or (texts, images)
    there = _negatives_find(images, texts, s, all_images, all_texts, captions=True, bias=bias)
    if bias is not None:
        return there
    back = _negatives_find(texts, images, s, all_texts, all_images, captions=False)
    return (there + back) / 2


def more_pairs_clip(
    texts: Samples,
    images: Samples,
    s: Tensor,
    negatives: Sequence[Samples],
    *,
    columns: tuple[Samples, Samples] | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Contrastive loss of samples and of further pairs that came with them, and negatives.

        L = 1/2 [ mean_r CE(s x_r.[Y ; N], r) + mean_r CE(s y_r.X, r) ]     x: V and V', y: T and T'

    r runs over the samples, and over their further pairs v'_ik, t'_ik that exist. With a logit bias, SigLIP's
    loss of these images with all texts.

    Args:
        texts: of samples, with their further captions as negatives.
        images: the same with images and texts exchanged, as in `negative_images_clip`.
        s: logit scale.
        negatives: samples of the whole batch, with texts that are wrong columns for all images.
        columns: both of the whole batch.
        bias: logit bias, if there is one.

    Source: NegCLIP with hard images, arXiv 2210.01936; vinid/neg_clip@e680f8e `ClipLoss`, whose batch has
    them as further samples. Differs in that any may be missing: what is there of a pair stays a column.
    """
    all_texts, all_images = columns or (texts, images)
    assert texts.neg is not None
    k = texts.neg.shape[1]
    (v, v_exist), (t, t_exist) = _all_texts(images), _all_texts(texts)
    (every_v, every_v_exist), (every_t, every_t_exist) = _all_texts(all_images), _all_texts(all_texts)
    own = _own_column(texts.image, all_texts)
    target = torch.cat([own, len(all_texts.image) + _own_negatives(own, k)])
    pairs, every_pair = v_exist & t_exist, every_v_exist & every_t_exist
    wrong = [_all_negatives(samples) for samples in negatives]
    columns_t = torch.cat([every_t, *(x for x, _ in wrong)])
    columns_t_exist = torch.cat([every_t_exist, *(exist for _, exist in wrong)])
    there = _find(v, target, columns_t, columns_t_exist, s, pairs, every_pair, bias)
    if bias is not None:
        return there
    return (there + _find(t, target, every_v, every_v_exist, s, pairs, every_pair)) / 2


def same_place(p: Tensor, valid: Tensor | None = None) -> Tensor:
    """Squared distance of the first two true texts of each sample.

        L = mean_i |p_i1 - p_i2|^2        0 for a sample that lacks one of them

    Source: CLIC's term for both orders of two captions, arXiv 2505.24424, AmitPeleg/CLIC@dc845c7. Differs in
    the mask.
    """
    both = _mask(p, valid)[:, :2].all(1)
    return torch.where(both[:, None], p[:, 0] - p[:, 1], 0.0).square().sum(1).mean()


def principal_part(x: Tensor, t: Tensor, ratio: float, basis: Literal["live", "constant"]) -> Tensor:
    """`x` without the directions in which the captions of a batch differ least.

        x' = mu + (x - mu) P            mu: mean of T      P: projector on the first m components of T - mu
        m: smallest with  sum_{j <= m} e_j^2 >= ratio sum_j e_j^2       e: singular values of T - mu

    Not normalised again.

    Args:
        x: `[R, D]`.
        t: T, `[B, D]`, captions of the whole batch.
        ratio: share of the variance to keep, from 0 to 1.
        basis: whether gradients know that P follows T (`live`), or P is a constant. mu is live always.

    Source: HiMo-CLIP, arXiv 2511.06653; UnicomAI/HiMo-CLIP@f235e97 `model/himo.py`. Differs in that T is
    that of all processes, and in how the gradient of P is made: it divides by differences of e_j^2 of kept
    and dropped components alone, where that of a decomposition divides by those of all, which may be 0.
    """
    if basis not in ("live", "constant"):
        raise ValueError(f"basis is {basis!r}, expected one of live, constant")
    mean = t.mean(0)
    with torch.no_grad():
        _, singular, c = torch.linalg.svd(t - mean, full_matrices=True)
        e2 = F.pad(singular.square(), (0, len(c) - len(singular)))
        # A component is kept if those ahead of it are too few. Of equal captions none is.
        kept = F.pad(e2.cumsum(0)[:-1], (1, 0)) < ratio * e2.sum()
        projector = c.T @ (kept[:, None] * c)
        gap = torch.where(kept[:, None] & ~kept, e2[:, None] - e2, 0.0)
        closeness = torch.where(gap > 0, 1 / gap, 0.0)
    if basis == "live":
        along = (t - mean) @ c.T
        # Turns kept components towards dropped ones: nothing by value, and the derivative of P.
        turn = closeness * (along.T @ along)
        turn = turn + turn.T
        projector = projector + c.T @ (turn - turn.detach()) @ c
    reduced: Tensor = mean + (x - mean) @ projector
    return reduced


def _mask(n: Tensor, valid: Tensor | None) -> Tensor:
    """`valid [B, K]`, spelled out."""
    return torch.ones_like(n[..., 0], dtype=torch.bool) if valid is None else valid.bool()


def _existing(n: Tensor, valid: Tensor | None) -> Tensor:
    """`n` with zeros where there is no text: 0 * NaN would be NaN, in the gradient too."""
    return n if valid is None else torch.where(valid.bool()[..., None], n, 0.0)


def _dot(x: Tensor, y: Tensor) -> Tensor:
    """Row by row: `[B]`."""
    return (x * y).sum(-1)


def _dot_own(x: Tensor, n: Tensor, valid: Tensor | None) -> Tensor:
    """Each row with its own negatives, 0 for those that do not exist: `[B, K]`."""
    return torch.einsum("bd,bkd->bk", x, _existing(n, valid))


def _all_negatives(columns: Samples) -> tuple[Tensor, Tensor]:
    """All negatives of the columns `[B*K, D]`, and which exist `[B*K]`."""
    assert columns.neg is not None
    negatives = _existing(columns.neg, columns.valid).flatten(0, 1)
    return negatives, _mask(columns.neg, columns.valid).flatten()


def _all_texts(columns: Samples) -> tuple[Tensor, Tensor]:
    """All captions and then all negatives of the columns `[B*(1+K), D]`, and which exist."""
    negatives, exists = _all_negatives(columns)
    return torch.cat([columns.text, negatives]), torch.cat([exists.new_ones(len(columns.text)), exists])


def _listed(columns: Samples, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Texts and negatives as columns, the target between them and their mask."""
    texts, exists = _all_texts(columns)
    return texts, target, exists


def _own_negatives(own: Tensor, k: int) -> Tensor:
    """The numbers among all negatives of those of samples `own [b]`, `[b*k]`."""
    return (own[:, None] * k + torch.arange(k, device=own.device)).flatten()


def _negatives_find(
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
    x, valid = _all_negatives(rows)
    _, with_partner = _all_negatives(partners)
    _, every = _all_negatives(all_rows)
    columns, exists = _all_negatives(all_partners)
    target = _own_negatives(_own_column(rows.image, all_rows), len(x) // len(rows.image))
    everywhere = every & exists
    if captions:
        columns, exists = _all_texts(all_partners)
        target = target + len(all_partners.text)
    return _find(x, target, columns, exists, s, valid & with_partner, everywhere, bias)


def _find(
    x: Tensor,
    target: Tensor,
    columns: Tensor,
    exists: Tensor,
    s: Tensor,
    valid: Tensor,
    everywhere: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    """Mean over the rows that exist of CE(s x.columns, target), with a bias of `_sigmoid`; 0 if none does."""
    if bias is not None:
        owner = torch.arange(len(columns), device=x.device)
        return _sigmoid(x, columns, s, bias, target, owner, exists, rows=_shares(valid, everywhere, x))
    some = exists | ~exists.any()
    target = torch.where(valid | ~exists.any(), target, exists.int().argmax())
    return cross_entropy_of_product(s * x, columns, target, some, weight=_shares(valid, everywhere, x))


def _shares(valid: Tensor, exists: Tensor, like: Tensor) -> Tensor:
    """Weights of rows in the mean over those that exist in the whole batch.

    The sum over own rows alone, `local_loss`, is a share of that mean: W of them have to average to it.
    """
    return valid.to(like) * (len(exists) / len(valid)) / exists.sum().clamp(min=1)


def _target(own: Tensor, valid: Tensor, exists: Tensor) -> Tensor:
    """The own column; of a row that does not exist, any that does, for a finite loss times 0."""
    return torch.where(valid | ~exists.any(), own, exists.int().argmax())


def _sigmoid(
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


def _every(columns: Samples) -> Tensor:
    return torch.arange(len(columns.image), device=columns.image.device)


def _owners(columns: Samples) -> Tensor:
    """The `owner` of `_all_texts`: captions are true of their images, negatives of none."""
    assert columns.neg is not None
    captions = _every(columns)
    return torch.cat([captions, captions.new_full((columns.neg.shape[:2].numel(),), -1)])


def _own_column(rows: Tensor, columns: Samples) -> Tensor:
    return torch.arange(columns.first, columns.first + len(rows), device=rows.device)


def _same(
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


def _same_negatives(rows: Tensor, columns: Samples) -> Same | None:
    """The same with all negatives alone as the columns."""
    same = _same(rows, columns)
    return None if same is None or columns.same is None else Same(same.rows, columns.same.negatives())


def _same_positives(rows: Tensor, columns: Samples) -> Same | None:
    """Identities of images with all true companions, and of each of these."""
    same = _same(rows, columns, slice(None))
    return None if same is None or columns.same is None else Same(same.rows, columns.same.companions())


def _first_of(logits: Tensor) -> Tensor:
    """Cross-entropy with column 0 as the target of every row."""
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device))


def _choose_first(positive: Tensor, negatives: Tensor, valid: Tensor | None) -> Tensor:
    if valid is not None:
        negatives = negatives.masked_fill(~valid.bool(), -torch.inf)
    return _first_of(torch.cat([positive[:, None], negatives], dim=1))
