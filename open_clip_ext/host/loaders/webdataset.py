"""Webdataset shards: how companions get in, and how an epoch is entered in its middle."""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from open_clip_train import data as upstream
from open_clip_train.data import SharedEpoch
from torch import Tensor
from webdataset.filters import _batched, _map_dict, _select, reraise_exception

from open_clip_ext.errors import InputError
from open_clip_ext.host.loaders.companion_images import ImageDraw, ImagesOfSamples
from open_clip_ext.host.loaders.companions import (
    LoaderState,
    check_coverage,
    repeats,
    warn_of_truncation,
)
from open_clip_ext.host.loaders.layout import Layout
from open_clip_ext.host.loaders.samples import FirstSamples, IdentifySample, PackSample
from open_clip_ext.host.loaders.shard_order import seed_shuffles
from open_clip_ext.host.loaders.stages import index, last_index, lenient, mapped, wanted
from open_clip_ext.host.loaders.tally import Tally
from open_clip_ext.texts import is_list
from open_clip_ext.training import seeding
from open_clip_ext.training.config import Settings
from open_clip_ext.training.signals import shield_worker_from_signals

# How often over shards that are drawn without end may bring nothing before a run gives them up.
ROUNDS = 20


def source(
    info: Any,
    state: LoaderState,
    settings: Settings,
    args: argparse.Namespace,
    transform: Callable[[Any], Tensor],
) -> WebDataset:
    """The batches of upstream's pipeline, with companions if the loss wants any.

    Args:
        info: upstream's, with its loader and its shared epoch.
        state: of the loader; gets its summary here.
        settings: of the run.
        args: upstream's.
        transform: of an image.

    Raises InputError if the first samples do not carry the companions, or none can be used.
    """
    loader = info.dataloader.pipeline[0]
    stages: list[Any] = loader.dataset.pipeline
    tally = Tally(
        f"--train-data {args.train_data}: a loader worker found that",
        wanted(stages),
        state.broken,
        args.batch_size,
        ROUNDS * len(stages[0].urls) if args.dataset_resampled else math.inf,
    )
    at = stages.index(upstream.tarfile_to_samples_nothrow)
    stages[at : at + 1] = tally.draw, partial(stages[at], handler=tally.bad_file), tally.read
    draw = ImageDraw(state) if settings.image_sources else None
    packer = PackSample(settings.sources, settings.image_sources, draw)
    look = FirstSamples(args.train_data, packer, stages)
    captions = look.captions
    for stage in lenient(stages):
        stage.kw["handler"] = tally.bad_sample
    lists = list(filter(is_list, captions))
    if 2 * len(lists) > len(captions):
        raise InputError(
            f"{look.where}: {len(lists)} of {len(captions)} captions looked at are lists, such as "
            f"{lists[0][:60]!r}; training reads one caption in a txt: write one into each"
        )
    summary, texts = [], {}
    if settings.companions or settings.images or settings.identified:
        loader.collate_fn = state.collate_fn(settings, batched=True)
    if state.lookup is not None:
        summary += [check_coverage(captions, state, state.lookup, settings, look.where)]
    repeated = ""
    if settings.identified:
        identify = IdentifySample(settings.picture_key, stages)
        repeated = f"; {repeats(look.pictures(identify), captions, 'samples looked at')}"
        identify.insert(stages, tally.bad_sample)
    if settings.keys:
        found = look.require(settings)
        # A sample whose companions cannot be read is broken: counted and passed over like any other.
        packer.insert(stages, tally.bad_sample)
        summary += [found.summary("captions looked at")]
        texts = {kind: found.texts[kind] for kind in settings.sources}
    if settings.image_sources:
        load = ImagesOfSamples(transform, state.broken_images.add)
        stages.insert(last_index(stages, _map_dict) + 1, mapped(load, reraise_exception))
    if state.lookup is None:
        warn_of_truncation(state, captions, texts, look.where)
    state.summary = "".join(["; ".join(summary) or state.summary, repeated, look.broken])
    return WebDataset(loader, info.shared_epoch, state.layout, args.batch_size, args.seed, args.rank, tally)


class WebDataset:
    """Upstream's webdataset pipeline. What lies before is read and shuffled, not decoded.

    Samples are numbered as they come out of the shuffle, broken ones too, and a batch brings along
    how far its worker had read for it. For batches given out before a resume a worker gives out
    None, so that the others keep their turns. Shards that bring no batch raise InputError, where
    upstream would begin them anew for ever.
    """

    def __init__(
        self,
        loader: Any,
        epoch: SharedEpoch,
        layout: Layout,
        batch_size: int,
        seed: int,
        rank: int,
        tally: Tally,
    ) -> None:
        self.loader, self.workers, self.batch_size = loader, max(1, loader.num_workers), batch_size
        self.layout = layout
        self.read = [0] * self.workers
        stages = loader.dataset.pipeline
        seed_shuffles(stages, epoch, seed, rank)
        self.number = _NumberedSamples(epoch, layout, seed, rank)
        self.past = _SkippedBatches(epoch)
        for stage, before, after in (
            (_select, [tally.shuffle], [tally.complete, self.number]),
            (_batched, [self.number.stamp, tally.use], [_RequiredBatches(tally, self.number), self.past]),
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
        for number, batch in enumerate(batches, start=first):
            batch, read = self.layout.split_numbers(batch)
            self.read[number % self.workers] = int(read[-1])
            yield batch


class _NumberedSamples:
    """Numbers the samples of an epoch and seeds their draws; passes over those before `start`."""

    def __init__(self, epoch: SharedEpoch, layout: Layout, seed: int, rank: int) -> None:
        self.epoch, self.layout, self.seed, self.rank = epoch, layout, seed, rank
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

    def stamp(self, samples: Iterable[Any]) -> Iterator[Any]:
        """Add its number to each sample: stages pull one at a time, so it is the last one."""
        for sample in samples:
            yield self.layout.with_number(sample, self.count)


class _RequiredBatches:
    """Raises InputError where shards end without a batch, unless they were passed over to resume."""

    def __init__(self, tally: Tally, number: _NumberedSamples) -> None:
        self.tally, self.number = tally, number

    def __call__(self, batches: Iterable[Any]) -> Iterator[Any]:
        self.tally.begin()
        count = 0
        for count, batch in enumerate(batches, start=1):  # noqa: B007
            yield batch
        if not count and not self.number.passing:
            raise InputError(self.tally.problem())


class _SkippedBatches:
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
