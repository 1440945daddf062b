"""FSC-CLIP: calibrated choices, and similarities of patches and words.

Notation: see the package.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from open_clip_ext.losses.functional.samples import dot, dot_own, mask_of, row_shares


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
    logits = s * torch.cat([dot(v, t)[:, None], dot_own(v, n, valid)], 1)
    return calibrated_choice(logits, focal, label_smoothing, mask_of(n, valid), exists=exists)


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
    return (each * row_shares(has, has if exists is None else exists.any(1), each)).sum()


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
