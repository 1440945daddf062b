"""Sums over rows that each need a row of logits with the whole batch, a block of rows at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from open_clip_ext.losses.chunked_cross_entropy import blocks
from open_clip_ext.precision import without_tf32


def sum_over_blocks(score: Callable[[slice], Tensor], rows: int, columns: int) -> Tensor:
    """The sum of `score` over slices of the rows, each with as many logits as memory should hold.

    If there are several, none keeps its logits: the backward pass makes them once more. For sums whose
    gradient has no closed form as short as that of a cross-entropy.

    Args:
        score: a scalar for the rows of a slice.
        rows: how many there are.
        columns: logits of each row.
    """
    slices = blocks(rows, columns)
    if len(slices) == 1:
        return score(slices[0])

    def again(block: slice) -> Tensor:
        with without_tf32():  # in the backward pass, too, which comes after the loss
            return score(block)

    parts = [checkpoint(again, block, use_reentrant=False, preserve_rng_state=False) for block in slices]
    return torch.stack(parts).sum()
