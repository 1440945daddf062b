"""Upstream's training loader, built by upstream, with ours around it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import webdataset as wds

from open_clip_ext.data import CompanionCollate, Tokenizer
from open_clip_ext.errors import InputError
from open_clip_ext.host.loaders import csv_data, map_style, webdataset
from open_clip_ext.host.loaders.companions import LoaderState, PassThrough, StoreLookup
from open_clip_ext.host.loaders.layout import Layout
from open_clip_ext.host.loaders.resumable import ResumableLoader, Source
from open_clip_ext.training.config import Settings


def build(
    builder: Callable[..., Any],
    layout: Layout,
    settings: Settings,
    args: argparse.Namespace,
    preprocess: Any,
    tokenizer: Tokenizer,
    **options: Any,
) -> tuple[Any, LoaderState]:
    """Upstream's training loader, with companions if the loss wants any.

    Args:
        builder: upstream's.
        layout: of its samples and batches.
        settings: of the run.
        args: upstream's.
        preprocess: the transform of an image.
        tokenizer: upstream's.
        options: others of the builder's.

    Returns:
        What upstream's builder returns, its loader a `ResumableLoader`; and the loader's state.

    Raises InputError if the data do not carry them.
    """
    packed = settings.companions or settings.images or settings.identified
    reader = PassThrough() if packed else tokenizer
    with csv_data.as_text(args, settings.keys, settings.picture_key) as tables:
        info = builder(args, preprocess, is_train=True, tokenizer=reader, **options)
    collate = CompanionCollate(tokenizer, settings.companions, args.seed, settings.aligned, settings.images)
    state = LoaderState(collate, layout)
    if settings.pairs:
        from open_clip_ext.host.loaders.pairs import Pairs

        state.pairs = Pairs(collate)
    if settings.store is not None:
        state.lookup = StoreLookup(settings.store, collate.groups)
    loader = info.dataloader
    _require_step(loader, args)
    source: Source
    if isinstance(loader, wds.DataPipeline):
        source = webdataset.source(info, state, settings, args, preprocess)
    else:
        source = map_style.source(loader, tables[0] if tables else None, state, settings, args, preprocess)
    info.dataloader = ResumableLoader(source, loader, args.seed, args.rank)
    return info, state


def _require_step(loader: Any, args: argparse.Namespace) -> None:
    """Stop if an epoch has no optimizer step: upstream would save what it has not trained."""
    if loader.num_batches < args.accum_freq:
        data = f"--train-data {args.train_data}" if args.train_data else "--dataset-type synthetic"
        raise InputError(
            f"{data}: an epoch of {loader.num_samples} samples has no step of --batch-size {args.batch_size} "
            f"x --accum-freq {args.accum_freq} x {args.world_size} processes; give a smaller --batch-size"
        )
