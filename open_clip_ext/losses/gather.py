"""What ranks tell each other: the rows of a tensor, or the mean of a term."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_nn
from torch import Tensor


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
        whole: Tensor = torch.cat(dist_nn.all_gather(x), dim=0)  # type: ignore[no-untyped-call]
        # On gloo, torch sends a gradient in the order of its memory and reads it in that of its strides.
        whole.register_hook(Tensor.contiguous)  # type: ignore[no-untyped-call]
        return whole
    x = x.contiguous()
    slices = [torch.empty_like(x) for _ in range(world_size)]
    dist.all_gather(slices, x.detach())
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
