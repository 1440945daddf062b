"""Training data that can be entered in the middle of an epoch.

A `Stream` stands in for upstream's loader: it yields the same batches, tells when a step is over,
and starts at any batch. A `Source` knows how its kind of data gets there without decoding what
lies before: by their place in the sampler (`Indexed`), or in the shards as they are read (`Shards`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch
from open_clip_train.data import SharedEpoch
from torch.utils.data import DataLoader, Dataset, RandomSampler
from webdataset.filters import FilterFunction, _batched, _select, _to_tuple

from open_clip_ext.errors import InputError
from open_clip_ext.host.shard_order import seed_shuffles
from open_clip_ext.host.tally import Tally
from open_clip_ext.training import seeding
from open_clip_ext.training.signals import shield_worker_from_signals


class Source(Protocol):
    """Batches of an epoch, from any batch on.

    Attributes:
        workers: how many loader workers decide what a batch holds; 0 if that depends on none.
        read: how far each of them has read for the batches given out.
    """

    workers: int
    read: list[int]

    def batches(self, epoch: int, first: int, read: Sequence[int] | None) -> Iterator[Any]:
        """The batches of `epoch` after the `first` ones, for which its workers had `read` so far.

        If that is not known, about as far as there.
        """


class Stream:
    """What upstream iterates over in place of its loader.

    Args:
        source: where the batches come from.
        loader: upstream's loader, for the two sizes that upstream keeps on it.
        seed: of the run.
        rank: this process.
    """

    def __init__(self, source: Source, loader: Any, seed: int, rank: int) -> None:
        self.source, self.seed, self.rank = source, seed, rank
        self.num_batches: int = loader.num_batches
        self.num_samples: int = loader.num_samples

    def begin(
        self,
        epoch: int,
        first: int,
        read: Sequence[int] | None,
        between: Callable[[int], None],
        waiting: Callable[[], AbstractContextManager[None]],
    ) -> None:
        """Set where the next iteration begins.

        `between` is called with the number of batches that upstream is done with, before each
        batch and after the last; each batch is awaited inside `waiting()`.
        """
        self.epoch, self.first, self.read, self.hooks = epoch, first, read, (between, waiting)

    def __iter__(self) -> Iterator[Any]:
        between, waiting = self.hooks
        del self.hooks  # they lead back here, and a cycle would keep the loader's workers
        whole = self.first >= self.num_batches
        batches = iter(()) if whole else self.source.batches(self.epoch, self.first, self.read)
        for done in itertools.count(self.first):
            between(done)
            with waiting(), _one_sentence():
                batch = next(batches, None)
            if batch is None:
                return
            seeding.seed_step(self.seed, self.epoch, self.rank, done)
            yield batch


@contextmanager
def _one_sentence() -> Iterator[None]:
    """Take the traceback that torch adds out of an InputError from a loader worker."""
    try:
        yield
    except InputError as error:
        name = f"{InputError.__module__}.{InputError.__qualname__}: "
        raise InputError(str(error).rpartition(name)[2].strip()) from None


class Indexed:
    """Upstream's CSV and synthetic data. What lies before is not even read.

    A sample's draws depend on seed, epoch and sample alone, so on no number of workers or ranks.

    Args:
        loader: upstream's.
        samples: what to take in place of its dataset.
        seed: of the run.
    """

    workers = 0

    def __init__(self, loader: Any, samples: Any, seed: int) -> None:
        self.seed = seed
        self.read: list[int] = []
        self.samples = _Seeded(samples, seed)
        self.rest = _Rest(loader.batch_sampler)
        self.order = torch.Generator()
        if isinstance(loader.sampler, RandomSampler):
            loader.sampler.generator = self.order
        # A loader takes no other dataset or sampler once it is made.
        self.loader: Any = DataLoader(
            self.samples,
            batch_sampler=self.rest,
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            pin_memory=loader.pin_memory,
            worker_init_fn=shield_worker_from_signals,
        )

    def batches(self, epoch: int, first: int, read: Sequence[int] | None) -> Iterator[Any]:
        """The batches of `epoch` after the `first` ones."""
        self.order.manual_seed(seeding.derive_seed(self.seed, epoch))
        self.samples.epoch, self.rest.first = epoch, first
        return iter(self.loader)


class _Seeded(Dataset[Any]):
    def __init__(self, samples: Any, seed: int) -> None:
        self.samples, self.seed, self.epoch = samples, seed, 0

    def __getitem__(self, index: int) -> Any:
        seeding.seed_sample(self.seed, self.epoch, index)
        return self.samples[index]


class _Rest:
    """A batch sampler without its first batches."""

    def __init__(self, batches: Iterable[list[int]]) -> None:
        self.batches, self.first = batches, 0

    def __iter__(self) -> Iterator[list[int]]:
        return itertools.islice(self.batches, self.first, None)


class Shards:
    """Upstream's webdataset pipeline. What lies before is read and shuffled, not decoded.

    Samples are numbered as they come out of the shuffle, broken ones too, and a batch brings along
    how far its worker had read for it. For batches given out before a resume a worker gives out
    None, so that the others keep their turns. Shards that bring no batch raise InputError, where
    upstream would begin them anew for ever.
    """

    def __init__(
        self, loader: Any, epoch: SharedEpoch, batch_size: int, seed: int, rank: int, tally: Tally
    ) -> None:
        self.loader, self.workers, self.batch_size = loader, max(1, loader.num_workers), batch_size
        self.read = [0] * self.workers
        stages = loader.dataset.pipeline
        seed_shuffles(stages, epoch, seed, rank)
        self.number = _Number(epoch, seed, rank)
        self.past = _Past(epoch)
        for stage, before, after in (
            (_select, [tally.shuffle], [tally.complete, self.number]),
            (_to_tuple, [], [self.number.stamp, tally.use]),
            (_batched, [], [_Batches(tally, self.number), self.past]),
        ):
            at = index(stages, stage)
            stages[at : at + 1] = *before, stages[at], *after
        loader.worker_init_fn = shield_worker_from_signals

    def batches(self, epoch: int, first: int, read: Sequence[int] | None) -> Iterator[Any]:
        """The batches of `epoch` after the `first` ones, for which its workers had `read` so far."""
        past = [(first - worker + self.workers - 1) // self.workers for worker in range(self.workers)]
        self.read = list(read or [batches * self.batch_size for batches in past])
        if first:  # workers outlive an epoch, and know what is set before the first
            self.past.start = epoch, past
            self.number.start = epoch, self.read[:]
        return self._watched(first)

    def _watched(self, first: int) -> Iterator[Any]:
        batches = itertools.islice(self.loader, first, None)
        for number, (images, texts, read) in enumerate(batches, start=first):
            self.read[number % self.workers] = int(read[-1])
            yield images, texts


class _Number:
    """Numbers the samples of an epoch and seeds their draws; passes over those before `start`."""

    def __init__(self, epoch: SharedEpoch, seed: int, rank: int) -> None:
        self.epoch, self.seed, self.rank = epoch, seed, rank
        self.start: tuple[int, list[int]] = (-1, [])
        self.current, self.count = -1, 0
        self.passing = False

    def __call__(self, samples: Iterable[Any]) -> Iterator[Any]:
        epoch, worker = self.epoch.get_value(), seeding.worker()
        if epoch != self.current:  # or the shards begin anew within an epoch
            self.current, self.count = epoch, 0
        start = self.start[1][worker] if epoch == self.start[0] else 0
        self.passing = self.count < start
        for sample in samples:
            self.count += 1
            if self.count > start:
                seeding.seed_sample(self.seed, epoch, self.rank, worker, self.count)
                yield sample

    def stamp(self, samples: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
        """Add its number to each sample: stages pull one at a time, so it is the last one."""
        for sample in samples:
            yield *sample, self.count


class _Batches:
    """Raises InputError where shards end without a batch, unless they were passed over to resume."""

    def __init__(self, tally: Tally, number: _Number) -> None:
        self.tally, self.number = tally, number

    def __call__(self, batches: Iterable[Any]) -> Iterator[Any]:
        self.tally.begin()
        count = 0
        for count, batch in enumerate(batches, start=1):  # noqa: B007
            yield batch
        if not count and not self.number.passing:
            raise InputError(self.tally.problem())


class _Past:
    """Gives out None in place of each batch before `start`."""

    def __init__(self, epoch: SharedEpoch) -> None:
        self.epoch = epoch
        self.start: tuple[int, list[int]] = (-1, [])

    def __call__(self, batches: Iterable[Any]) -> Iterator[Any]:
        if self.epoch.get_value() == self.start[0]:
            past = self.start[1][seeding.worker()]
            self.start = (-1, [])  # not once more when the shards begin anew
            yield from itertools.repeat(None, past)
        yield from batches


def index(stages: Sequence[Any], function: Any) -> int:
    """Where in a webdataset pipeline the filter `function` stands."""
    return [isinstance(stage, FilterFunction) and stage.f is function for stage in stages].index(True)
