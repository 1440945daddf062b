"""CE-CLIP: adaptive margins, ranks across modalities, contrast among texts.

Notation: see the package.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from open_clip_ext.losses.chunked_cross_entropy import cross_entropy_of_product
from open_clip_ext.losses.functional.samples import (
    Samples,
    dot,
    dot_own,
    mask_of,
    negatives_of,
    same_negatives,
)


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
        p, d = s * dot(v, t), s * dot_own(v, n, valid)
        m = mask_of(n, valid)
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
    behind = s * dot_own(v, n, valid) - s * dot(v, t)[:, None]
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
    negatives, exists = negatives_of(columns)
    positive = None if form == "head" else s * dot(v, t)
    same = same_negatives(t, columns)
    if form == "paper":
        target = torch.zeros(len(t), dtype=torch.long, device=t.device)
        return cross_entropy_of_product(s * t, negatives, target, exists, positive, same=same)
    target = exists.int().argmax().expand(len(t)) + (form == "release")
    # With nothing to choose from, finite logits keep the gradient a number until the end.
    some = exists | ~exists.any()
    loss = cross_entropy_of_product(s * t, negatives, target, some, positive, same=same)
    return torch.where(exists.any(), loss, 0.0)
