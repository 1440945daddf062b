"""DeGLA's loss alone, forward and backward, on random features; it has every term that others have."""

from __future__ import annotations

import measure
import straightforward
import torch

from open_clip_ext.losses import DeGLALoss

K, D = 4, 512


class Case:
    """The features of a batch, and both ways to score it."""

    def __init__(self, size: int) -> None:
        draw = torch.Generator(measure.DEVICE).manual_seed(0)

        def features(*shape: int) -> torch.Tensor:
            x = torch.empty(*shape, device=measure.DEVICE).normal_(generator=draw)
            return x.div_(x.norm(dim=-1, keepdim=True))

        shapes = (size, D), (size, D), (size, K, D)
        self.student = [features(*shape).requires_grad_() for shape in shapes]
        self.teacher = [features(*shape) for shape in shapes]
        self.scale = torch.tensor(50.0, device=measure.DEVICE, requires_grad=True)
        self.loss = DeGLALoss()

    def ours(self) -> float:
        v, t, n = self.student
        return self._backward(self.loss(v, t, self.scale, n, None, *self.teacher))

    def straightforward(self) -> float:
        v, t, n = self.student
        return self._backward(straightforward.degla(v, t, n, self.scale, *self.teacher))

    def _backward(self, total: torch.Tensor) -> float:
        for x in (*self.student, self.scale):
            x.grad = None
        total.backward()
        return total.item()

    def difference(self) -> float:
        """The largest relative difference of the value and of the gradients of features."""
        found = []
        for run in (self.ours, self.straightforward):
            value = torch.tensor(run())
            found.append([value, *(x.grad.cpu() for x in self.student)])
        return max(((a - b).norm() / b.norm()).item() for a, b in zip(*found, strict=True))


def compare(size: int, pairs: int) -> dict:
    Case(64).difference()  # warms up both
    case = Case(size)
    found = measure.in_turns(case.straightforward, case.ours, pairs, f"loss, B = {size}")
    return found | {"relative_difference": case.difference()}


def peak(size: int, ours: bool) -> float:
    """MB above the inputs."""
    case = Case(size)
    Case(8).ours()  # what libraries take once is no cost of the loss
    before = measure.peak_mb()
    case.ours() if ours else case.straightforward()
    return measure.peak_mb() - before
