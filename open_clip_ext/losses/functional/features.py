"""Of features alone: distillation, the principal part of a batch.

Notation: see the package.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from open_clip_ext.losses.blockwise import sum_over_blocks
from open_clip_ext.losses.functional.samples import existing


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
    n, teacher_n = existing(n, valid), existing(teacher_n, valid)
    pairs = ((v, teacher_v), (t, teacher_t), (n, teacher_n))
    image, text, negative = ((x - y.detach()).square().sum() for x, y in pairs)
    return image + text + negative


def moved(x: Tensor, base: Tensor) -> Tensor:
    """How far features are from those of another model.

        L = mean_i |x_i - x0_i|^2       x0: base

    Gradients reach x, never x0.

    Args:
        x: `[..., D]`.
        base: the same of the other model.
    """
    return (x - base.detach()).square().sum(-1).mean()


def moved_similarity(pair: tuple[Tensor, Tensor], base: tuple[Tensor, Tensor]) -> Tensor:
    """How far the similarities of images and texts are from those of another model.

        L = mean_ij (v_i.t_j - v0_i.t0_j)^2       v0, t0: base

    Unlike `moved` this lets features turn together. Gradients reach v and t, never v0 and t0.

    Args:
        pair: images v `[R, D]`, and texts t `[..., D]`, each compared with every image.
        base: the same of the other model.
    """
    (v, t), (v0, t0) = ((images, texts.flatten(0, -2)) for images, texts in (pair, base))
    v0, t0 = v0.detach(), t0.detach()

    def score(block: slice) -> Tensor:
        return (v[block] @ t.T - v0[block] @ t0.T).square().sum()

    return sum_over_blocks(score, len(v), len(t)) / (len(v) * len(t))


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
