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

import numpy as np
import torch
from torch.utils.data import get_worker_info


def derive_seed(seed: int, *path: int) -> int:
    """A 32-bit seed for the place `path` (epoch, rank, worker, ...) of the run with `seed`."""
    return int(np.random.SeedSequence([seed, *path]).generate_state(1)[0])


def seed_sample(seed: int, *path: int) -> None:
    """Seed the generators that a sample's transforms draw from: Python's, numpy's, torch's on the CPU."""
    derived = derive_seed(seed, *path)
    random.seed(derived)
    np.random.seed(derived)
    torch.default_generator.manual_seed(derived)


def seed_step(seed: int, *path: int) -> None:
    """Seed all that a step may draw from: those of `seed_sample`, and torch's on accelerators."""
    seed_sample(seed, *path)
    if torch.accelerator.is_available():  # or it notes down, slowly, what to do once there is one
        torch.manual_seed(derive_seed(seed, *path))


@contextmanager
def preserve_rng_state() -> Iterator[None]:
    """Leave Python's, numpy's and torch's global generators as they were."""
    drawn, numpy_drawn = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        yield
    random.setstate(drawn)
    np.random.set_state(numpy_drawn)


def worker() -> int:
    """The number of this loader worker; 0 in the main process."""
    info = get_worker_info()
    return 0 if info is None else info.id
