"""The straightforward way to do what the package does: what the benchmark compares with.

Written from the formulas as one writes them first, and as the released programs have them: whole matrices of
logits for every term, masks as large, and a moving average that makes new tensors.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def degla(v, t, n, s, teacher_v, teacher_t, teacher_n, *, tgc_scale=10.0):
    """DeGLA's total with its published weights, every negative present."""
    b, k = n.shape[:2]
    texts = torch.cat([t, n.flatten(0, 1)])
    target = torch.arange(b, device=v.device)

    image_to_text = s * v @ texts.T  # [B, B(1+K)]
    text_to_image = s * texts @ v.T  # [B(1+K), B], of which the captions' rows are used
    contrastive = (F.cross_entropy(image_to_text, target) + F.cross_entropy(text_to_image[:b], target)) / 2

    # Column j of the captions, and columns j*K .. j*K+K-1 of the negatives, belong to sample j.
    own_caption = torch.eye(b, dtype=torch.bool, device=v.device)
    own = torch.cat([own_caption, own_caption.repeat_interleave(k, dim=1)], dim=1)
    image_local = (s * v @ texts.T).masked_fill(~own, -torch.inf)
    text_local = tgc_scale * t @ torch.cat([teacher_t, n.flatten(0, 1)]).T
    text_local = text_local.masked_fill(~own, -torch.inf)
    igc, tgc = F.cross_entropy(image_local, target), F.cross_entropy(text_local, target)

    pairs = ((v, teacher_v), (t, teacher_t), (n, teacher_n))
    distill = sum(F.mse_loss(x, y, reduction="sum") for x, y in pairs)
    return contrastive + 0.1 * igc + 0.1 * tgc + 0.005 * distill


@torch.no_grad()
def move_teacher(teacher, student, decay):
    """An exponential moving average, tensor by tensor, each into a new tensor."""
    for mean, new in zip(teacher.parameters(), student.parameters(), strict=True):
        mean.data = decay * mean.data + (1 - decay) * new.data
