"""Map-style data, a CSV file or synthetic samples: how companions get in, and how an epoch is entered.

The word is PyTorch's: a data set that is indexed, not iterated over.
"""

from __future__ import annotations

import argparse
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler

from open_clip_ext.errors import InputError
from open_clip_ext.host.loaders import csv_data
from open_clip_ext.host.loaders.companion_images import ImageDraw, ImagesOfRows, load_file, load_synthetic
from open_clip_ext.host.loaders.companions import (
    LoaderState,
    check_coverage,
    identify,
    pack,
    repeats,
    warn_of_truncation,
)
from open_clip_ext.host.loaders.found import in_table
from open_clip_ext.host.loaders.images import ReadableImages, spread
from open_clip_ext.texts import image_kind
from open_clip_ext.training import seeding
from open_clip_ext.training.config import Settings
from open_clip_ext.training.signals import shield_worker_from_signals

# Captions of a CSV that are looked up in a store before training.
SAMPLE = 10_000


def source(
    loader: Any,
    table: Any,
    state: LoaderState,
    settings: Settings,
    args: argparse.Namespace,
    transform: Callable[[Any], Tensor],
) -> MapStyle:
    """The batches of upstream's loader, with companions if the loss wants any.

    Args:
        loader: upstream's.
        table: the data frame of a CSV file; None for synthetic data.
        state: of the loader; gets its summary here.
        settings: of the run.
        args: upstream's.
        transform: of an image.

    Raises InputError if the data do not carry the companions.
    """
    samples = loader.dataset
    summary = []
    if settings.companions or settings.images or settings.identified:
        loader.collate_fn = state.collate_fn(settings, batched=False)
    captions = [samples.caption] if table is None else list(samples.captions)
    if state.lookup is not None:
        chosen = [captions[i] for i in spread(len(captions), SAMPLE)]
        summary += [check_coverage(chosen, state, state.lookup, settings, args.train_data)]
    elif table is not None and not settings.keys:
        warn_of_truncation(state, captions, {}, args.train_data)
    if settings.keys:
        attach = _attach_to_synthetic if table is None else partial(_attach_to_csv, table, args)
        summary += [attach(samples, state, settings)]
    state.summary = "; ".join(summary) or state.summary
    if settings.identified:
        column = settings.picture_key or args.csv_img_key
        _identify(table[column].tolist(), column, samples, args.train_data)
        state.summary += f"; {repeats(table[column], captions, 'rows')}"
    if table is not None:
        for doubt in csv_data.doubts(table, args):
            logging.warning(f"open_clip_ext: {doubt}")
        skipped = state.broken.add if settings.skip_broken_images else None
        samples = ReadableImages(samples, args.train_data, skipped)
    if settings.image_sources:
        load: Callable[[str], Tensor | None]
        if table is None:
            load = partial(load_synthetic, transform, samples.image)
        else:
            skipped = state.broken_images.add if settings.skip_broken_images else None
            load = partial(load_file, transform, Path(args.train_data), skipped)
        samples = ImagesOfRows(samples, state.layout, ImageDraw(state), load)
    return MapStyle(loader, samples, args.seed)


def _attach_to_csv(
    table: Any, args: argparse.Namespace, dataset: Any, state: LoaderState, settings: Settings
) -> str:
    """Pack companions into the captions; what there is of them, in words."""
    path = args.train_data
    captions = list(dataset.captions)
    found, kinds = in_table(table, settings, path)
    packed = [
        pack(caption, dict(zip(kinds, texts, strict=True)))
        for caption, *texts in zip(captions, *kinds.values(), strict=True)
    ]
    dataset.captions = type(dataset.captions)(packed)  # a list, or with the task API a pandas Series
    if state.lookup is None:
        warn_of_truncation(state, captions, {kind: found.texts[kind] for kind in settings.sources}, path)
    return found.summary()


def _identify(pictures: Sequence[str], column: str, dataset: Any, path: str) -> None:
    blank = next((row for row, name in enumerate(pictures, start=1) if not name.strip()), None)
    if blank is not None:
        raise InputError(
            f"{path}, data row {blank}: nothing in column {column!r} says which picture it shows, and "
            "same=mask needs that; fill it in or leave out the row"
        )
    named = [identify(*pair) for pair in zip(dataset.captions, pictures, strict=True)]
    dataset.captions = type(dataset.captions)(named)  # as above


def _attach_to_synthetic(dataset: Any, state: LoaderState, settings: Settings) -> str:
    counts = {**settings.companions, **{image_kind(kind): count for kind, count in settings.images.items()}}
    dummies = {kind: [f"Dummy {kind} {i}" for i in range(counts[kind])] for kind in settings.keys}
    dataset.caption = pack(dataset.caption, dummies)
    return "synthetic captions with synthetic companions"


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
