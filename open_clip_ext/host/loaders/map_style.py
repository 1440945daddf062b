"""Map-style data, a CSV file or synthetic samples: how companions get in, and how an epoch is entered.

The word is PyTorch's: a data set that is indexed, not iterated over.
"""

from __future__ import annotations

import argparse
import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, RandomSampler

from open_clip_ext.host.loaders import csv_data
from open_clip_ext.host.loaders.companions import (
    CompanionBatches,
    LoaderState,
    check_coverage,
    pack,
    parse,
    warn_of_truncation,
)
from open_clip_ext.host.loaders.found import Found
from open_clip_ext.host.loaders.images import ReadableImages, spread
from open_clip_ext.training import seeding
from open_clip_ext.training.config import Settings
from open_clip_ext.training.signals import shield_worker_from_signals

# Captions of a CSV that are looked up in a store before training.
SAMPLE = 10_000


def source(
    loader: Any, table: Any, state: LoaderState, settings: Settings, args: argparse.Namespace
) -> MapStyle:
    """The batches of upstream's loader, with companions if the loss wants any.

    Args:
        loader: upstream's.
        table: the data frame of a CSV file; None for synthetic data.
        state: of the loader; gets its summary here.
        settings: of the run.
        args: upstream's.

    Raises InputError if the data do not carry the companions.
    """
    samples = loader.dataset
    if settings.companions:
        loader.collate_fn = CompanionBatches(
            state.collate, state.layout, batched=False, companions=state.lookup
        )
        if state.lookup is not None:
            captions = getattr(samples, "captions", None) or [samples.caption]
            chosen = [captions[i] for i in spread(len(captions), SAMPLE)]
            state.summary = check_coverage(chosen, state, state.lookup, settings, args.train_data)
        elif table is not None:
            _attach_to_csv(table, samples, state, settings, args)
        else:
            _attach_to_synthetic(samples, state, settings)
    elif table is not None:
        warn_of_truncation(state, samples.captions, {}, args.train_data)
    if table is not None:
        for doubt in csv_data.doubts(table, args):
            logging.warning(f"open_clip_ext: {doubt}")
        skipped = state.broken.add if settings.skip_broken_images else None
        samples = ReadableImages(samples, args.train_data, skipped)
    return MapStyle(loader, samples, args.seed)


def _attach_to_csv(
    table: Any, dataset: Any, state: LoaderState, settings: Settings, args: argparse.Namespace
) -> None:
    path = args.train_data
    captions = dataset.captions
    kinds = {
        kind: [parse(value, f"{path}, data row {row}") for row, value in enumerate(table[column], start=1)]
        for kind, column in settings.sources.items()
    }

    def place(group: Sequence[str]) -> str:
        columns = " and ".join(repr(settings.sources[kind]) for kind in group)
        return f"{path}, column{'s' if len(group) > 1 else ''} {columns}"

    found = Found(settings, kinds, place, "row")
    dataset.captions = [
        pack(caption, dict(zip(kinds, texts, strict=True)))
        for caption, *texts in zip(captions, *kinds.values(), strict=True)
    ]
    warn_of_truncation(state, captions, found.texts, path)
    state.summary = found.summary()


def _attach_to_synthetic(dataset: Any, state: LoaderState, settings: Settings) -> None:
    dummies = {
        kind: [f"Dummy {kind} {i}" for i in range(count)] for kind, count in settings.companions.items()
    }
    dataset.caption = pack(dataset.caption, dummies)
    state.summary = "synthetic captions with synthetic companions"


class MapStyle:
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
        self.samples = _SeededSamples(samples, seed)
        self.rest = _RemainingBatches(loader.batch_sampler)
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


class _SeededSamples(Dataset[Any]):
    def __init__(self, samples: Any, seed: int) -> None:
        self.samples, self.seed, self.epoch = samples, seed, 0

    def __getitem__(self, index: int) -> Any:
        seeding.seed_sample(self.seed, self.epoch, index)
        return self.samples[index]


class _RemainingBatches:
    """A batch sampler without its first batches."""

    def __init__(self, batches: Iterable[list[int]]) -> None:
        self.batches, self.first = batches, 0

    def __iter__(self) -> Iterator[list[int]]:
        return itertools.islice(self.batches, self.first, None)
