"""Randomness as a function of seed, epoch, rank and worker, so that a resumed run repeats it.

Upstream seeds once per process. What an epoch draws (sample order, augmentation, dropout) then
depends on all epochs before it, and webdataset's sample shuffle on the process id and the clock.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from open_clip_train.data import SharedEpoch, detshuffle2
from torch.utils.data import get_worker_info
from webdataset.filters import FilterFunction, _shuffle


def derive(seed: int, *path: int) -> int:
    """A 32-bit seed for the place `path` (epoch, rank, worker) of the run with `seed`."""
    return int(np.random.SeedSequence([seed, *path]).generate_state(1)[0])


def seed_everything(seed: int, *path: int) -> None:
    """Seed Python's, numpy's and torch's global generators of this process."""
    derived = derive(seed, *path)
    random.seed(derived)
    np.random.seed(derived)
    torch.manual_seed(derived)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Leave Python's, numpy's and torch's global generators as they were."""
    drawn, numpy_drawn = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        yield
    random.setstate(drawn)
    np.random.set_state(numpy_drawn)


class SeedWorker:
    """A webdataset stage that seeds its worker anew when an epoch begins."""

    def __init__(self, seed: int, rank: int, epoch: SharedEpoch) -> None:
        self.seed, self.rank, self.epoch = seed, rank, epoch

    def __call__(self, source: Iterable[Any]) -> Iterator[Any]:
        """Pass everything on."""
        seed_everything(self.seed, self.epoch.get_value(), self.rank, _worker())
        yield from source


class ResampleSeed:
    """The seed of upstream's shard resampling, to which it adds the epoch itself."""

    def __init__(self, seed: int, rank: int) -> None:
        self.seed, self.rank = seed, rank

    def __call__(self) -> int:
        """The seed of this worker."""
        return derive(self.seed, self.rank, _worker())


def settle_webdataset(stages: list[Any], epoch: SharedEpoch, seed: int, rank: int) -> None:
    """Make the stages of upstream's webdataset pipeline repeatable, in place."""
    if hasattr(stages[0], "worker_seed"):
        stages[0].worker_seed = ResampleSeed(seed, rank)
    stages.insert(1, SeedWorker(seed, rank, epoch))
    for i, stage in enumerate(stages):
        if isinstance(stage, FilterFunction) and stage.f is _shuffle:
            stages[i] = detshuffle2(**stage.kw, seed=seed, epoch=epoch)


def _worker() -> int:
    info = get_worker_info()
    return 0 if info is None else info.id
