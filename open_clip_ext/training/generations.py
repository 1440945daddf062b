"""Generations: every so many steps the text tower goes back towards the weights that it started from.

What fits a trainer of iterated learning (Zheng et al., CVPR 2024, arXiv 2404.02145), for any loss. An
experiment: docs/losses.md says what it leaves out.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import nn
from torch.optim import Optimizer

from open_clip_ext import plugins
from open_clip_ext.errors import InputError

FLAG = "--generations"


@dataclass(frozen=True)
class Schedule:
    """When generations change, and how.

    Attributes:
        every: optimizer steps of a generation.
        keep: share of its weights that the text tower keeps; the rest are those of the start.
        pause: steps at the beginning of each generation but the first in which the image tower stays.
    """

    every: int
    keep: float = 0.0
    pause: int = 0

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name, value in asdict(self).items())


def parse(pairs: Sequence[str]) -> Schedule:
    """The schedule in the words of the flag. Raises InputError."""
    chosen = plugins.parse_options(plugins.options(Schedule), pairs, FLAG, FLAG)
    if "every" not in chosen:
        raise InputError(f"{FLAG} {' '.join(pairs)}: add every=STEPS, the length of a generation")
    schedule = Schedule(**chosen)
    if schedule.every < 1:
        raise InputError(f"{FLAG} every={schedule.every}: give a number of steps, at least 1")
    if not 0 <= schedule.keep < 1:
        raise InputError(f"{FLAG} keep={schedule.keep:g}: give a share of at least 0 and below 1")
    if not 0 <= schedule.pause < schedule.every:
        raise InputError(
            f"{FLAG} pause={schedule.pause}: give a number of steps from 0 to {schedule.every - 1}, as a "
            f"generation has {schedule.every}"
        )
    return schedule


class Generations:
    """The text tower of a run, taken back after every `schedule.every` steps.

        text <- (1 - keep) start + keep text        and the optimizer forgets its state of these weights

    In the `pause` steps after it, the optimizer does not see the image tower. Everything follows from the
    number of steps that took place, the same on all ranks, so `start` is the only state. It lies in main
    memory: one copy of the text tower's trained weights per process, and one in each checkpoint.

    Args:
        schedule: when, and how.
        model: an open_clip CLIP before its first step, not wrapped.

    Raises:
        InputError: a tower that this is about is locked.
    """

    def __init__(self, schedule: Schedule, model: nn.Module) -> None:
        self.schedule = schedule
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.image = [p for name, p in trained.items() if name.startswith("visual.")]
        self.text = {
            name: p
            for name, p in trained.items()
            if not name.startswith("visual.") and name not in ("logit_scale", "logit_bias")
        }
        if not self.text:
            raise InputError(f"{FLAG} has no effect on a locked text tower; leave it out, or --lock-text")
        if schedule.pause and not self.image:
            raise InputError(
                f"{FLAG} pause={schedule.pause} has no effect on a locked image tower; leave it out"
            )
        self.start = {name: p.detach().to("cpu", copy=True) for name, p in self.text.items()}

    def before_step(self, steps: int) -> None:
        """Hide the gradients of a paused image tower from the optimizer, after `steps` steps of the run.

        Without a gradient a weight stays as it is; with one of 0, momentum and weight decay would move it.
        """
        if steps >= self.schedule.every and steps % self.schedule.every < self.schedule.pause:
            for p in self.image:
                p.grad = None

    @torch.no_grad()
    def after_step(self, steps: int, optimizer: Optimizer) -> None:
        """Begin a generation if one ended with step number `steps` of the run, from 1."""
        if steps % self.schedule.every:
            return
        for name, p in self.text.items():
            p.copy_(torch.lerp(self.start[name].to(p.device), p, self.schedule.keep))
            optimizer.state.pop(p, None)
        number = steps // self.schedule.every + 1
        logging.info(
            f"open_clip_ext: generation {number} begins after step {steps}: the text tower keeps "
            f"{self.schedule.keep:g} of its weights"
        )
