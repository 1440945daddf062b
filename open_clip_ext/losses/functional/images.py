"""Companion images, and images disturbed by negatives.

Notation: see the package.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from open_clip_ext.losses.chunked_cross_entropy import cross_entropy_of_product
from open_clip_ext.losses.functional.samples import (
    Samples,
    choose,
    choose_first,
    choose_of_negatives,
    dot,
    dot_own,
    existing,
    listed,
    mask_of,
    negatives_of,
    own_column,
    own_negatives,
    owners,
    same_negatives,
    sigmoid,
    texts_of,
)


def disturbed_images(v: Tensor, t: Tensor, n: Tensor, valid: Tensor | None = None) -> Tensor:
    """Image negatives without images, `[B, K, D]`: each image moved as its caption was edited.

        v-_ik = unit( v_i + sg(n_ik - t_i) )        sg: no gradient

    Source: AHNPL, arXiv 2505.15576; nynu-BDAI/AHNPL@6f35f47. Differs in the unit length, which logits of
    cosines take for granted.
    """
    return F.normalize(v[:, None] + (existing(n, valid) - t[:, None]).detach(), dim=-1)


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
    positive = s * dot(v, t)
    if form == "own":
        return choose_first(positive, s * dot_own(t, disturbed_images(v, t, n, valid), None), valid)
    columns = columns or Samples(v, t, n, valid)
    image, text, neg, exists, *_ = columns
    assert neg is not None
    images = disturbed_images(image, text, neg, exists).flatten(0, 1)
    target = torch.zeros(len(v), dtype=torch.long, device=v.device)
    exist, same = mask_of(neg, exists).flatten(), same_negatives(v, columns)
    return cross_entropy_of_product(s * v, images, target, exist, positive, same=same)


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
    target = own_column(texts.image, all_texts)
    if bias is not None:
        every, exists = texts_of(all_texts)
        there = sigmoid(texts.image, every, s, bias, target, owners(all_texts), exists)
        pairs = choose_of_negatives(images, texts, s, all_images, all_texts, captions=True, bias=bias)
        return (there + pairs) / 2
    there = cross_entropy_of_product(s * texts.image, *listed(all_texts, target))
    back = cross_entropy_of_product(s * texts.text, *listed(all_images, target))
    return (there + back + choose_of_negatives(images, texts, s, all_images, all_texts, captions=True)) / 3


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
    there = choose_of_negatives(images, texts, s, all_images, all_texts, captions=True, bias=bias)
    if bias is not None:
        return there
    back = choose_of_negatives(texts, images, s, all_texts, all_images, captions=False)
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
    (v, v_exist), (t, t_exist) = texts_of(images), texts_of(texts)
    (every_v, every_v_exist), (every_t, every_t_exist) = texts_of(all_images), texts_of(all_texts)
    own = own_column(texts.image, all_texts)
    target = torch.cat([own, len(all_texts.image) + own_negatives(own, k)])
    pairs, every_pair = v_exist & t_exist, every_v_exist & every_t_exist
    wrong = [negatives_of(samples) for samples in negatives]
    columns_t = torch.cat([every_t, *(x for x, _ in wrong)])
    columns_t_exist = torch.cat([every_t_exist, *(exist for _, exist in wrong)])
    there = choose(v, target, columns_t, columns_t_exist, s, pairs, every_pair, bias)
    if bias is not None:
        return there
    return (there + choose(t, target, every_v, every_v_exist, s, pairs, every_pair)) / 2
