"""Training data that can be entered in the middle of an epoch.

A `ResumableLoader` stands in for upstream's loader: it yields the same batches, tells when a step is
over, and starts at any batch. A `Source` knows how its kind of data gets there without decoding what
lies before: by their place in the sampler (`map_style`), or in the shards as they are read (`webdataset`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from open_clip_ext.errors import InputError
from open_clip_ext.training import seeding


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


class ResumableLoader:
    """What upstream finds in place of its loader; `epoch` makes what it iterates over.

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

    def epoch(
        self,
        epoch: int,
        first: int,
        read: Sequence[int] | None,
        between: Callable[[int], None],
        waiting: Callable[[], AbstractContextManager[None]],
    ) -> Epoch:
        """The batches of `epoch` after the `first` ones, for which this rank's workers had `read` so far.

        `between` is called with the number of batches that upstream is done with, before each
        batch and after the last; each batch is awaited inside `waiting()`.
        """
        return Epoch(self, epoch, first, read, between, waiting)


@dataclass(frozen=True, eq=False)
class Epoch:
    """One epoch of a `ResumableLoader`, with the sizes of all of it.

    The loader does not lead back to what watches its epochs: such a cycle would keep its workers.
    """

    loader: ResumableLoader
    number: int
    first: int
    read: Sequence[int] | None
    between: Callable[[int], None]
    waiting: Callable[[], AbstractContextManager[None]]

    @property
    def num_batches(self) -> int:
        """Of the whole epoch."""
        return self.loader.num_batches

    @property
    def num_samples(self) -> int:
        """Of the whole epoch, on all ranks."""
        return self.loader.num_samples

    def __iter__(self) -> Iterator[Any]:
        loader = self.loader
        over = self.first >= self.num_batches
        batches = iter(()) if over else loader.source.batches(self.number, self.first, self.read)
        for done in itertools.count(self.first):
            self.between(done)
            with self.waiting(), _one_sentence():
                batch = next(batches, None)
            if batch is None:
                return
            seeding.seed_step(loader.seed, self.number, loader.rank, done)
            yield batch


@contextmanager
def _one_sentence() -> Iterator[None]:
    """Take the traceback that torch adds out of an InputError from a loader worker."""
    try:
        yield
    except InputError as error:
        name = f"{InputError.__module__}.{InputError.__qualname__}: "
        raise InputError(str(error).rpartition(name)[2].strip()) from None
