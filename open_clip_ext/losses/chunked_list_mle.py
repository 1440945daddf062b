"""ListMLE of two products of features, without the whole matrices of logits.

Legend: R rows, C columns, D embedding width.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from open_clip_ext.losses.chunked_cross_entropy import blocks


class Lists(NamedTuple):
    """One list of C numbers for each of R rows: `rows [R, D] @ columns [C, D].T`."""

    rows: Tensor
    columns: Tensor


def list_mle_of_products(x: Lists, y: Lists) -> Tensor:
    """How likely the lists of `x` make the order of those of `y`, as a negative log likelihood.

        L = mean_i sum_j [ logsumexp_{l >= j} x_i,o(l)  -  x_i,o(j) ]        o sorts y_i, greatest first

    Equal numbers of y keep the order of the columns. `y` is only sorted, so it gets no gradient.

    Takes memory for R*D + C*D numbers and about ten matrices of one block: logits, their order and what the
    gradient is made of. It is known in the forward pass, as in `cross_entropy_of_product`, and can be
    differentiated once.

    Args:
        x: the lists that are scored.
        y: the lists that say in which order, of the same sizes.
    """
    if not torch.is_grad_enabled():
        x = Lists(x.rows.detach(), x.columns.detach())
    return _ListMLEOfProducts.apply(*x, y.rows.detach(), y.columns.detach())  # type: ignore[no-any-return]


class _ListMLEOfProducts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, columns: Tensor, y: Tensor, y_columns: Tensor) -> Tensor:
        x_live, columns_live, _, _ = ctx.needs_input_grad
        grad_x = torch.empty_like(x) if x_live else None
        grad_columns = torch.zeros_like(columns) if columns_live else None
        losses = x.new_empty(len(x))
        with torch.autocast(x.device.type, enabled=False):
            for rows in blocks(len(x), len(columns)):
                order = (y[rows] @ y_columns.T).argsort(dim=1, descending=True, stable=True)
                chosen = (x[rows] @ columns.T).gather(1, order)
                rest = chosen.flip(1).logcumsumexp(1).flip(1)
                losses[rows] = (rest - chosen).sum(1)
                # Of the sum over j: e^x_l sum_{j <= l} e^-rest_j - 1.
                sorted_gradient = (chosen + (-rest).logcumsumexp(1)).exp() - 1
                gradient = torch.empty_like(chosen).scatter_(1, order, sorted_gradient) / len(x)
                if grad_x is not None:
                    torch.mm(gradient, columns, out=grad_x[rows])
                if grad_columns is not None:
                    grad_columns.addmm_(gradient.T, x[rows])
        ctx.save_for_backward(grad_x, grad_columns)
        return losses.mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, columns = (None if g is None else grad * g for g in ctx.saved_tensors)
        return x, columns, None, None
