"""What the flags of a run come to once they are checked."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from open_clip_ext import registry
from open_clip_ext.errors import InputError
from open_clip_ext.negatives.store import Store
from open_clip_ext.texts import image_kind
from open_clip_ext.training import kinds
from open_clip_ext.training.flags import FLAGS
from open_clip_ext.training.generations import Schedule, parse


@dataclass(frozen=True)
class Settings:
    """What a `--loss` run was asked for, checked.

    Attributes:
        loss: name of the loss.
        loss_class: its class.
        options: its `--loss-cfg` options, typed.
        companions: kinds of companion texts and how many of each a caption has in a batch.
        sources: the data column or field that each kind is read from.
        origin: what the model and the data are called, wherever they lie.
        pad_text: whether every text is run at the full context length.
        save_every: optimizer steps between two checkpoints within an epoch; 0 for none.
        store: the negatives store that the data's captions are looked up in, if they carry none.
        skip_broken_images: whether a CSV run goes on without pictures that cannot be read.
        aligned: groups of kinds that belong together place by place.
        generations: when the text tower goes back towards its start; None for never.
        images: kinds of companion images and how many of each a caption has in a batch.
        image_sources: the data column or members that each of these is read from.
        pairs: whether companions are pairs of samples of the batch, and none is read.
        identified: whether the loss wants the identities of samples.
        picture_key: the data column or field that says which picture a sample shows; empty for the picture
            itself.
        anchored: whether the loss holds the model to the one that the run starts from.
    """

    loss: str
    loss_class: Any
    options: Mapping[str, Any]
    companions: Mapping[str, int]
    sources: Mapping[str, str]
    origin: Mapping[str, str]
    pad_text: bool = False
    save_every: int = 0
    store: Store | None = None
    skip_broken_images: bool = False
    aligned: tuple[tuple[str, ...], ...] = ()
    generations: Schedule | None = None
    images: Mapping[str, int] = field(default_factory=dict)
    image_sources: Mapping[str, str] = field(default_factory=dict)
    pairs: bool = False
    identified: bool = False
    picture_key: str = ""
    anchored: bool = False

    @property
    def keys(self) -> dict[str, str]:
        """Where the data carry each kind of texts and images, these as `image_kind` calls them."""
        images = {image_kind(kind): name for kind, name in self.image_sources.items()}
        return {**self.sources, **images}

    def build_loss(self, **distributed: Any) -> nn.Module:
        """A fresh loss module that knows how many companions it gets."""
        try:
            loss: nn.Module = self.loss_class(**self.options, **distributed)
            configure = getattr(loss, "configure", None)
            if callable(configure):
                configure(self.companions)
        except ValueError as error:
            raise InputError(f"--loss {self.loss}: {error}") from error
        if callable(configure):
            registry.check_parameters(self.loss, loss)
        return loss

    def identity(self) -> dict[str, Any]:
        """What ranks must agree on, and a checkpoint records.

        Plain types only.
        """
        identity = {
            "loss": self.loss,
            "options": dict(self.options),
            "companions": dict(self.companions),
        }
        if self.generations is not None:
            identity["generations"] = str(self.generations)
        if self.images:
            identity["companion_images"] = dict(self.images)
        if self.store is not None:  # not its path, which may be a node's own
            makers = {maker.name: maker.version for maker in self.store.generators()}
            identity["negatives"] = {"captions": len(self.store), "generators": makers}
        return identity


@dataclass(frozen=True)
class BenchmarkRequest:
    """The benchmarks that a run was asked to score.

    Attributes:
        chosen: `[NAME, "KEY=VALUE", ...]` of each.
        data: a JSON file with more of them.
        allow_missing: whether pictures may be missing.
    """

    chosen: Sequence[Sequence[str]]
    data: Path | None
    allow_missing: bool


def resolve_benchmarks(args: argparse.Namespace) -> BenchmarkRequest | None:
    """Check our flags for evaluation in `args`, in place; None without `--eval-benchmarks`.

    Raises InputError.
    """
    given, allow_missing = args.eval_benchmarks, args.eval_allow_missing
    del args.eval_benchmarks, args.eval_allow_missing
    if given is None:
        if allow_missing is not None:
            raise InputError(
                "--eval-allow-missing has no effect without --eval-benchmarks; add --eval-benchmarks NAME"
            )
        return None
    if not args.val_frequency:
        raise InputError(
            "--eval-benchmarks has no effect with --val-frequency 0: upstream then never evaluates"
        )
    files = [Path(name) for name, *pairs in given if name.endswith(".json") and not pairs]
    if len(files) > 1:
        raise InputError(f"--eval-benchmarks {files[1]}: give one file, with everything in it")
    args.eval_benchmarks = "; ".join(" ".join(words) for words in given)
    args.eval_allow_missing = bool(allow_missing)
    chosen = [words for words in given if words != [str(path) for path in files]]
    return BenchmarkRequest(chosen, files[0] if files else None, bool(allow_missing))


def resolve_flags(args: argparse.Namespace) -> Settings | None:
    """Check our flags in `args`, in place; None, with our flags removed, when there is no `--loss`.

    Afterwards they are what upstream's logs can print: strings and numbers. Raises InputError.
    """
    if args.loss is None:
        for flag in FLAGS[1:]:
            if getattr(args, flag) is not None:
                raise InputError(f"--{flag.replace('_', '-')} has no effect without --loss; add --loss NAME")
        for flag in FLAGS:  # upstream's namespace as if we were not here
            delattr(args, flag)
        return None

    if args.save_every_steps is not None and args.save_every_steps < 1:
        raise InputError(
            f"--save-every-steps {args.save_every_steps}: give a number of steps, at least 1, or leave it out"
        )
    loss = registry.load(args.loss)
    options = registry.parse_options(args.loss, loss, args.loss_cfg or ())
    pairs = getattr(loss, "pairs", False)
    declared, taken = (
        {} if pairs else getattr(loss, counts, {}) for counts in ("companions", "companion_images")
    )
    built = loss(**options)
    getattr(built, "check_files", bool)()
    identified, anchored = (bool(getattr(built, name, False)) for name in ("identified", "anchored"))
    if args.picture_key is not None and not identified:
        raise InputError(
            f"--picture-key {args.picture_key} has no effect without --loss-cfg same=mask; leave it out"
        )
    if identified and args.dataset_type == "synthetic":
        raise InputError(
            "--loss-cfg same=mask: synthetic data have no pictures that could be told apart; leave it out"
        )
    companions = kinds.resolve_counts(args, declared)
    aligned = tuple(map(tuple, getattr(loss, "aligned", ())))
    generations = None if args.generations is None else parse(args.generations)
    images = kinds.resolve_images(args, taken)
    kinds.require_equal_counts(loss, args.loss, companions, images)
    aligned = tuple(group for group in aligned if group[0] in companions)
    sources = kinds.resolve_keys(args, declared, companions)
    image_sources = kinds.resolve_image_keys(args, taken, images)
    if args.negatives is not None and (pairs or not companions):
        raise InputError(
            f"--negatives has no effect with --loss {args.loss}, which uses no negatives; leave it out"
        )
    if identified and (pairs or images):
        raise InputError(
            "--loss-cfg same=mask: which pictures companion images show is not known, and --loss "
            f"{args.loss} has some here; leave out the one or the other"
        )
    if pairs:
        companions, images = dict(loss.companions), dict(loss.companion_images)
    store = None
    if args.negatives is not None:
        if args.negatives_key is not None:
            raise InputError(
                f"--negatives {args.negatives} and --negatives-key {args.negatives_key}: the negatives come "
                "from a store or from the training data, not from both; leave one of the two out"
            )
        if args.companion_keys:
            raise InputError(
                f"--negatives {args.negatives} and --companion-keys {' '.join(args.companion_keys)}: the "
                "companion texts come from a store or from the training data, not from both; leave one of "
                "the two out"
            )
        store = Store.open(args.negatives)
    args.loss_cfg = " ".join(f"{key}={value}" for key, value in options.items())
    sources = sources if store is None else {}
    args.companions = " ".join(f"{kind}={count}" for kind, count in companions.items())
    args.num_negatives = companions.get(kinds.NEGATIVES, 0)
    args.companion_keys = " ".join(f"{kind}={name}" for kind, name in sources.items())
    args.negatives_key = sources.get(kinds.NEGATIVES, "negatives")
    args.companion_images = " ".join(f"{kind}={count}" for kind, count in images.items())
    args.image_keys = " ".join(f"{kind}={name}" for kind, name in image_sources.items())
    args.picture_key = args.picture_key or ""
    args.pad_text = bool(args.pad_text)
    args.save_every_steps = args.save_every_steps or 0
    args.skip_broken_images = bool(args.skip_broken_images)
    args.generations = "" if generations is None else str(generations)
    # Without the folder: data are copied to another one for each job.
    origin = {"model": os.path.basename(args.model), "data": os.path.basename(args.train_data or "")}
    return Settings(
        args.loss,
        loss,
        options,
        companions,
        sources,
        origin,
        args.pad_text,
        args.save_every_steps,
        store,
        args.skip_broken_images,
        aligned,
        generations,
        images,
        image_sources,
        pairs,
        identified,
        args.picture_key,
        anchored,
    )
