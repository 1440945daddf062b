"""Randomness as a function of a place in the run, so that a resumed run repeats it.

Upstream seeds once per process. What a step draws (sample order, augmentation, dropout) then
depends on all steps before it, and webdataset's sample shuffle on the process id and the clock.
Here the order depends on seed and epoch, the draws of a sample on its place in the epoch, and those
of a step on rank and batch.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from open_clip_train.data import SharedEpoch, detshuffle2
from torch.utils.data import get_worker_info
from webdataset.filters import FilterFunction, _shuffle


def derive(seed: int, *path: int) -> int:
    """A 32-bit seed for the place `path` (epoch, rank, worker, ...) of the run with `seed`."""
    return int(np.random.SeedSequence([seed, *path]).generate_state(1)[0])


def seed_sample(seed: int, *path: int) -> None:
    """Seed the generators that a sample's transforms draw from: Python's, numpy's, torch's on the CPU."""
    derived = derive(seed, *path)
    random.seed(derived)
    np.random.seed(derived)
    torch.default_generator.manual_seed(derived)


def seed_step(seed: int, *path: int) -> None:
    """Seed all that a step may draw from: those of `seed_sample`, and torch's on accelerators."""
    seed_sample(seed, *path)
    if torch.accelerator.is_available():  # or it notes down, slowly, what to do once there is one
        torch.manual_seed(derive(seed, *path))


@contextmanager
def undisturbed() -> Iterator[None]:
    """Leave Python's, numpy's and torch's global generators as they were."""
    drawn, numpy_drawn = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        yield
    random.setstate(drawn)
    np.random.set_state(numpy_drawn)


class ResampleSeed:
    """The seed of upstream's shard resampling, to which it adds the epoch itself."""

    def __init__(self, seed: int, rank: int) -> None:
        self.seed, self.rank = seed, rank

    def __call__(self) -> int:
        """The seed of this worker."""
        return derive(self.seed, self.rank, worker())


def settle_order(stages: list[Any], epoch: SharedEpoch, seed: int, rank: int) -> None:
    """Make the order in which upstream's webdataset pipeline reads repeatable, in place."""
    if hasattr(stages[0], "worker_seed"):
        stages[0].worker_seed = ResampleSeed(seed, rank)
    for i, stage in enumerate(stages):
        if isinstance(stage, FilterFunction) and stage.f is _shuffle:
            stages[i] = detshuffle2(**stage.kw, seed=seed, epoch=epoch)


def worker() -> int:
    """The number of this loader worker; 0 in the main process."""
    info = get_worker_info()
    return 0 if info is None else info.id
