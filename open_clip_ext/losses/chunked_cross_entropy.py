"""Softmax cross-entropy of a product of features, without the whole matrix of logits.

Legend: R rows, C columns, D embedding width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from open_clip_ext.losses.identities import Same

# Logits that exist at a time: 64 MB in fp32. A batch with fewer is one block.
BLOCK = 2**24


def cross_entropy_of_product(
    x: Tensor,
    columns: Tensor,
    target: Tensor,
    exists: Tensor | None = None,
    first: Tensor | None = None,
    weight: Tensor | None = None,
    skip: Tensor | None = None,
    same: Same | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Mean cross-entropy of the logits `x @ columns.T`, made a block of rows at a time.

        L = sum_i weight_i CE([first_i ; x_i.columns], target_i)        weight_i: 1/R unless given

    Takes memory for R*D + C*D numbers and one block. The gradient of a mean is known as soon as the
    row is, so each block leaves its share of it in the forward pass: no logit is kept or computed
    twice. It can be differentiated once.

    Args:
        x: `[R, D]`, multiplied by the logit scale.
        columns: `[C, D]`, of the same dtype.
        target: `[R]` int64, which logit of its row is the right one.
        exists: `[C]` bool; the logits of other columns are -inf. None: all exist.
        first: `[R]`, a logit of its own ahead of each row: number 0 of the row.
        weight: `[R]`, share of each row in the sum, constant. A row of weight 0 adds exactly 0, even if its
            target does not exist.
        skip: `[R]` int64, a column whose logit is -inf in this row alone, as is that of a row with itself.
        same: identities of rows and columns; a logit of a row with a column that is the same is -inf, except
            the target.
        label_smoothing: e, of which each finite logit gets an equal share, and the target 1 - e more.
    """
    if not torch.is_grad_enabled():
        x, columns, first = x.detach(), columns.detach(), None if first is None else first.detach()
    if weight is None:
        weight = x.new_full(x.shape[:1], 1 / len(x))
    return _CrossEntropyOfProduct.apply(  # type: ignore[no-any-return]
        x, columns, target, exists, first, weight, skip, same, label_smoothing
    )


class _CrossEntropyOfProduct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        columns: Tensor,
        target: Tensor,
        exists: Tensor | None,
        first: Tensor | None,
        weight: Tensor,
        skip: Tensor | None,
        same: Same | None,
        label_smoothing: float,
    ) -> Tensor:
        x_live, columns_live, _, _, first_live, *_ = ctx.needs_input_grad
        grad_x = torch.empty_like(x) if x_live else None
        grad_columns = torch.zeros_like(columns) if columns_live else None
        grad_first = torch.empty_like(first) if first_live and first is not None else None
        losses = x.new_empty(len(x))
        with torch.autocast(x.device.type, enabled=False):
            for rows in blocks(len(x), len(columns)):
                logits = x[rows] @ columns.T
                if exists is not None:
                    logits.masked_fill_(~exists, -torch.inf)
                if skip is not None:
                    logits.scatter_(1, skip[rows, None], -torch.inf)
                if first is not None:
                    logits = torch.cat([first[rows, None], logits], dim=1)
                right = target[rows, None]
                if same is not None:
                    left_out = torch.zeros_like(logits, dtype=torch.bool)
                    left_out[:, logits.shape[1] - len(columns) :] = same.of(rows)
                    logits.masked_fill_(left_out.scatter_(1, right, False), -torch.inf)
                logits -= logits.amax(dim=1, keepdim=True)
                chosen = logits.gather(1, right)
                if label_smoothing:
                    finite = logits.isfinite().to(logits)
                    smooth = finite * (label_smoothing / finite.sum(dim=1, keepdim=True))
                    mean = (smooth * logits.nan_to_num(neginf=0)).sum(dim=1, keepdim=True)
                    chosen = (1 - label_smoothing) * chosen + mean
                softmax = logits.exp_()
                total = softmax.sum(dim=1, keepdim=True)
                share = weight[rows, None]
                # Where a row does not count, its loss may be infinite, and nothing in it a number.
                ignored = share == 0
                losses[rows] = (share * (total.log() - chosen)).masked_fill(ignored, 0)[:, 0]
                # The gradient of the sum: (softmax - one at the right place) times the share.
                gradient = softmax.mul_(share / total)
                gradient.scatter_add_(1, right, share * (label_smoothing - 1))
                if label_smoothing:
                    gradient -= share * smooth
                gradient.masked_fill_(ignored, 0)
                if first is not None:
                    if grad_first is not None:
                        grad_first[rows] = gradient[:, 0]
                    gradient = gradient[:, 1:]
                if grad_x is not None:
                    torch.mm(gradient, columns, out=grad_x[rows])
                if grad_columns is not None:
                    grad_columns.addmm_(gradient.T, x[rows])
        ctx.save_for_backward(grad_x, grad_columns, grad_first)
        return losses.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, columns, first = (None if g is None else grad * g for g in ctx.saved_tensors)
        return x, columns, None, None, first, *[None] * 4


def blocks(rows: int, columns: int) -> list[slice]:
    """Slices of the rows, about equal, each with `BLOCK` logits at most or a single row."""
    count = -(-rows // max(1, BLOCK // columns))
    size = -(-rows // count)
    return [slice(i, i + size) for i in range(0, rows, size)]
