"""The order in which upstream's webdataset pipeline reads, as a function of seed and epoch."""

from __future__ import annotations

from typing import Any

from open_clip_train.data import SharedEpoch, detshuffle2
from webdataset.filters import FilterFunction, _shuffle

from open_clip_ext.training.seeding import derive_seed, worker


class ResampleSeed:
    """The seed of upstream's shard resampling, to which it adds the epoch itself."""

    def __init__(self, seed: int, rank: int) -> None:
        self.seed, self.rank = seed, rank

    def __call__(self) -> int:
        """The seed of this worker."""
        return derive_seed(self.seed, self.rank, worker())


def seed_shuffles(stages: list[Any], epoch: SharedEpoch, seed: int, rank: int) -> None:
    """Make the order in which upstream's webdataset pipeline reads repeatable, in place."""
    if hasattr(stages[0], "worker_seed"):
        stages[0].worker_seed = ResampleSeed(seed, rank)
    for i, stage in enumerate(stages):
        if isinstance(stage, FilterFunction) and stage.f is _shuffle:
            stages[i] = detshuffle2(**stage.kw, seed=seed, epoch=epoch)
