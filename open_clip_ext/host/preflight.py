"""Whether a run with given flags could start on this machine, found out before anything is loaded."""

from __future__ import annotations

import argparse
import inspect
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from open_clip_train import params

from open_clip_ext.errors import InputError
from open_clip_ext.host import flags, initial_weights
from open_clip_ext.host.loaders import csv_data, images
from open_clip_ext.training.config import Settings

LATEST = "epoch_latest.pt"  # upstream's name for it


def parse(given: Sequence[str], refused: Mapping[str, str]) -> tuple[argparse.Namespace, Settings | None]:
    """Flags of upstream's and ours, checked as a run checks them; exits with a sentence if they are wrong.

    `refused` are options that the adapter refuses, and why.
    """
    args, settings, _ = flags.parse(inspect.unwrap(params.parse_args), list(given), refused)
    return args, settings


def checkpoint(args: argparse.Namespace, settings: Settings | None) -> Iterator[str]:
    """What is wrong with the checkpoint that `--save-most-recent --resume latest` will find, if there is one.

    It is mapped, not read.
    """
    path = Path(args.logs, args.name or "", "checkpoints", LATEST)
    if settings is None or args.resume != "latest" or not path.exists():
        return
    import torch

    from open_clip_ext.model.checkpoints import numpy_numbers
    from open_clip_ext.training.run import Run

    if shutil.disk_usage(path.parent).free < path.stat().st_size:
        yield f"--logs {args.logs}: no room for a second {path}, which is written before it is replaced"
    try:
        with numpy_numbers():
            state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        Run(settings).restore(state.get("optimizer"), str(path), latest=True)
    except InputError as error:
        yield str(error)
    except Exception as error:
        yield f"{path} cannot be read ({type(error).__name__}); move it away to resume from an older one"


def problems(
    args: argparse.Namespace, settings: Settings | None, world_size: int, writes: bool = True
) -> Iterator[str]:
    """What keeps a run of `world_size` processes from starting here, each in one sentence.

    `args` are upstream's, after `parse`, and `settings` those of a `--loss` run. Each node looks for
    itself, because a path may be there on one and not on another; whether the output folder is as it
    must be, only where a process `writes`.
    """
    if args.train_data and args.dataset_type != "synthetic":
        if _is_webdataset(args, args.train_data):
            yield from _shards(args, world_size)
        else:
            yield from _csv(args, "train_data", settings)
    if args.val_data and _is_csv(args, args.val_data):
        yield from _csv(args, "val_data", None)
    elif args.val_data and _is_webdataset(args, args.val_data):
        yield from _missing(args, "val_data")
    if args.train_num_samples is not None and args.train_num_samples < 1:
        yield f"--train-num-samples {args.train_num_samples}: an epoch has at least 1 sample"
    elif args.dataset_type == "synthetic" and args.train_num_samples is None:
        yield "--dataset-type synthetic: give --train-num-samples, the size of an epoch"
    yield from initial_weights.problems(args)
    yield from _imagenet(args)
    if writes and args.logs and args.logs.lower() != "none":
        yield from _output(args)


def _csv(args: argparse.Namespace, option: str, settings: Settings | None) -> Iterator[str]:
    path, training = getattr(args, option), option == "train_data"
    flag = f"--{option.replace('_', '-')}"
    if not os.path.isfile(path):
        yield f"{flag} {path}: there is no such file on this node"
        return
    if not _is_csv(args, path):
        yield f"{flag} {path}: its name does not tell what it is; give --dataset-type csv or webdataset"
        return
    try:
        wanted = (settings.keys, settings.picture_key) if settings else ({}, "")
        table = csv_data.read(path, args, *wanted)
        lists = {
            kind: csv_data.image_lists(table, column, path)
            for kind, column in (settings.image_sources if settings else {}).items()
        }
    except InputError as error:
        yield str(error)
        return
    yield from _images(table, path, args, training)
    for kind, rows in lists.items():
        yield from _companion_images(kind, rows, path, args)


def _is_csv(args: argparse.Namespace, path: str) -> bool:
    return args.dataset_type == "csv" or (
        args.dataset_type == "auto" and path.split(".")[-1] in ("csv", "tsv")  # as upstream tells them
    )


def _images(table: Any, path: str, args: argparse.Namespace, training: bool) -> Iterator[str]:
    paths = table[args.csv_img_key].tolist()
    broken, looked = images.check(paths, Path(path).parent)
    # A broken validation image, or one of a plain run, is upstream's and cannot be skipped.
    skippable = training and hasattr(args, "skip_broken_images") and 2 * len(broken) <= looked
    if not broken or (skippable and args.skip_broken_images):
        return
    row, reason = next(iter(broken.items()))
    advice = "repair them or leave out their rows"
    if len(broken) == looked:
        advice = f"is {args.csv_img_key!r} the column of paths (--csv-img-key)?{csv_data.shifted(table)}"
    elif skippable:
        advice += ", or skip them by --skip-broken-images"
    yield (
        f"{path}, data row {row + 1}: picture {paths[row]!r} {reason}; {len(broken)} of {looked} pictures "
        f"looked at cannot be read" + ("" if ";" in reason and len(broken) == looked else f"; {advice}")
    )


def _companion_images(
    kind: str, rows: Sequence[Sequence[str]], path: str, args: argparse.Namespace
) -> Iterator[str]:
    named = [(row, name) for row, names in enumerate(rows, start=1) for name in names if name]
    broken, looked = images.check([name for _, name in named], Path(path).parent)
    if not broken or (args.skip_broken_images and 2 * len(broken) <= looked):
        return
    place, reason = next(iter(broken.items()))
    row, name = named[place]
    advice = f"repair them or empty their cells (--image-keys {kind}=NAME names another column)"
    if 2 * len(broken) <= looked:
        advice += ", or have them count as missing by --skip-broken-images"
    yield (
        f"{path}, data row {row}: {kind} image {name!r} {reason}; {len(broken)} of {looked} {kind} images "
        f"looked at cannot be read; {advice}"
    )


def samples(args: argparse.Namespace, settings: Settings | None) -> Iterator[str]:
    """What is wrong with the companions of a CSV file, or the first samples of shards, that a run reads."""
    if settings is None or not args.train_data:
        return
    if _is_csv(args, args.train_data):
        yield from _companions(args, settings)
    if not _is_webdataset(args, args.train_data):
        return
    from open_clip_train.data import get_wds_dataset

    from open_clip_ext.host.loaders.companions import PassThrough
    from open_clip_ext.host.loaders.samples import FirstSamples, IdentifySample, PackSample

    # Upstream makes its stages without reading anything.
    alone = argparse.Namespace(**{**vars(args), "workers": 0, "world_size": 1})
    loader = get_wds_dataset(alone, None, is_train=True, tokenizer=PassThrough()).dataloader.pipeline[0]
    try:
        packer = PackSample(settings.sources, settings.image_sources)
        stages = loader.dataset.pipeline
        first = FirstSamples(args.train_data, packer, stages)
        if settings.keys:
            first.require(settings)
        if settings.identified:
            first.pictures(IdentifySample(settings.picture_key, stages))
    except InputError as error:
        yield str(error)


def _companions(args: argparse.Namespace, settings: Settings) -> Iterator[str]:
    from open_clip_ext.host.loaders.found import in_table

    try:
        in_table(csv_data.read(args.train_data, args, settings.keys), settings, args.train_data)
    except InputError as error:
        yield str(error)


def _is_webdataset(args: argparse.Namespace, path: str) -> bool:
    return args.dataset_type == "webdataset" or (args.dataset_type == "auto" and path.endswith(".tar"))


def _missing(args: argparse.Namespace, option: str) -> Iterator[str]:
    shards = _urls(getattr(args, option))
    local = (shard for shard in shards if ":" not in shard)  # not pipe:, s3:// and the like
    missing = next((shard for shard in local if not os.path.isfile(shard)), None)
    if missing is not None:
        flag = option.replace("_", "-")
        yield f"--{flag} {getattr(args, option)}: there is no file {missing} on this node"


def _urls(shards: str) -> list[str]:
    from webdataset.shardlists import expand_urls  # as upstream's trainer does, which imports far more

    return list(expand_urls(shards))


def _shards(args: argparse.Namespace, world_size: int) -> Iterator[str]:
    shards = _urls(args.train_data)
    yield from _missing(args, "train_data")
    if args.train_num_samples is None:
        from open_clip_train.data import get_dataset_size

        try:
            size = get_dataset_size(args.train_data)[0]
        except Exception as error:  # of a file that upstream reads the size from
            size = None
            why = f"sizes.json or __len__ with the shards cannot be read ({error!r})"
        else:
            why = "there is no sizes.json with the shards that says it"
        if not size:
            yield f"--train-data {args.train_data}: give --train-num-samples, the size of an epoch; {why}"
    workers = max(1, args.workers)
    if len(shards) < workers * world_size and not args.dataset_resampled:
        yield (
            f"--train-data {args.train_data}: {len(shards)} shards are too few for {world_size} processes of "
            f"{workers} workers; give --workers {max(1, len(shards) // world_size)}, more shards or "
            "--dataset-resampled"
        )


def _imagenet(args: argparse.Namespace) -> Iterator[str]:
    """Whether upstream's own zero-shot evaluation would end the run, before its first checkpoint."""
    given = [flag for flag in ("imagenet_val", "imagenet_v2") if getattr(args, flag)]
    if not given or not args.zeroshot_frequency:
        return
    import torch
    from open_clip_train.zero_shot import accuracy

    try:
        accuracy(torch.eye(1), torch.zeros(1, dtype=torch.long))
    except TypeError as error:
        flag, folder = given[0].replace("_", "-"), getattr(args, given[0])
        yield (
            f"--{flag} {folder}: upstream's evaluation of it stops with the installed numpy ({error}); give "
            f"--eval-benchmarks imagenet images={folder} in its place"
        )


def _output(args: argparse.Namespace) -> Iterator[str]:
    folder = Path(args.logs, args.name or "")
    if args.name and args.resume != "latest" and (folder / "out.log").exists():
        yield f"{folder} holds a run already; go on with it by --resume latest, or choose another --name"
    there = next(path for path in (folder / "checkpoints", folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        yield f"--logs {args.logs}: {there} cannot be written to ({error.strerror})"
