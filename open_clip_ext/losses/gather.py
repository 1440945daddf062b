"""What ranks tell each other: the rows of a tensor, or the mean of a term."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable


def gather(
    x: Tensor,
    *,
    rank: int = 0,
    world_size: int = 1,
    local_loss: bool = False,
    gather_with_grad: bool = False,
) -> Tensor:
    """Concatenate `x [b, ...]` of all ranks in rank order along the batch axis: `[W*b, ...]`.

    Where gradients go is decided as in `open_clip.ClipLoss`:

    * `gather_with_grad`: every rank's slice is live; the backward pass sums over ranks.
    * otherwise, the own slice is live and the others are constants;
    * with `local_loss` and no `gather_with_grad`, all slices are constants: the rank's own rows
      stand beside the gathered columns and carry the gradient alone.

    Args:
        x: same shape and dtype on every rank; a bool tensor comes back as bool.
        rank: this process.
        world_size: number of processes; 1 returns `x` itself, without communication.
        local_loss: the caller uses the result as columns only.
        gather_with_grad: let gradients cross ranks.
    """
    if world_size == 1:
        return x
    if x.dtype == torch.bool:  # not every backend moves bools
        return gather(x.to(torch.uint8), rank=rank, world_size=world_size).bool()
    if gather_with_grad and x.requires_grad:
        return _GatherWithGrad.apply(x, world_size)  # type: ignore[no-any-return]
    slices = _slices(x, world_size)
    if not local_loss:
        slices[rank] = x
    return torch.cat(slices, dim=0)


def average(
    x: Tensor, *, world_size: int = 1, local_loss: bool = False, gather_with_grad: bool = False
) -> Tensor:
    """The mean over ranks of `x`, a mean of each rank's own rows, as if those had been gathered.

    Value and gradient are those of the mean over `gather`ed rows, for a term in which rows do not meet
    and in which nothing but rows is learned (no logit scale). 4 bytes travel in place of the rows.

    * `gather_with_grad`: every rank sends a gradient to these rows, so W times 1/W.
    * otherwise, this rank alone does: 1/W.
    * with `local_loss`, each rank keeps its own `x`.

    Args:
        x: the rank's own value.
        world_size: number of processes; 1 returns `x` itself, without communication.
        local_loss: the caller's loss is that of its own rows.
        gather_with_grad: gradients cross ranks.
    """
    if world_size == 1 or local_loss:
        return x
    mean = x.detach().clone()
    dist.all_reduce(mean)
    live = x if gather_with_grad else x / world_size
    return live + (mean / world_size - live).detach()


class _GatherWithGrad(torch.autograd.Function):
    """All ranks' rows, live: each rank gets the sum of the gradients that all ranks have for its rows.

    torch's own functions for this were renamed twice between the versions that this package runs on.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, world_size: int) -> Tensor:
        ctx.world_size = world_size
        return torch.cat(_slices(x, world_size), dim=0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        grad = grad.contiguous()  # a collective sends memory as it lies, whatever the strides say
        if dist.get_backend() in ("nccl", "xccl"):
            parts = grad.chunk(ctx.world_size)
            own = torch.empty_like(parts[0])
            dist.reduce_scatter(own, list(parts))
            return own, None
        received = torch.empty_like(grad)
        dist.all_to_all_single(received, grad)
        return torch.stack(received.chunk(ctx.world_size)).sum(0), None


def _slices(x: Tensor, world_size: int) -> list[Tensor]:
    """`x` of every rank, as constants."""
    x = x.detach().contiguous()
    slices = [torch.empty_like(x) for _ in range(world_size)]
    dist.all_gather(slices, x)
    return slices
