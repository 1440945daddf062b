"""The adapter for released open_clip_torch.

It wraps upstream's functions and replaces the body of none. Without `--loss` each wrapper hands
the call to upstream's function with the arguments it got.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import logging
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from open_clip_ext import errors
from open_clip_ext.errors import InputError, exit_on_error
from open_clip_ext.host import seams
from open_clip_ext.training.config import (
    BenchmarkRequest,
    Settings,
    resolve_benchmarks,
    resolve_flags,
)
from open_clip_ext.training.flags import add_flags
from open_clip_ext.training.signals import Signals

if TYPE_CHECKING:
    from open_clip_ext.host.benchmarks import TrainingBenchmarks
    from open_clip_ext.host.checkpoint import MidEpochCheckpoints
    from open_clip_ext.training.run import Run

# Upstream's options that a --loss run refuses, and why.
REFUSED = {
    "siglip": "its sigmoid loss takes the place of --loss",
    "distill_model": "it brings a loss of its own; --loss degla has a teacher too",
    "trace": "a traced model cannot take companion texts",
    "torchscript": "a scripted model cannot take companion texts",
    "horovod": "features are gathered through torch.distributed",
    "use_bnb_linear": "its linear layers are not known to average",
}

Upstream = Callable[..., Any]


class Adapter:
    """One method per seam: upstream's function first, then the arguments it was called with."""

    def __init__(self) -> None:
        self.run: Run | None = None
        self.checkpoints: MidEpochCheckpoints | None = None
        self.benchmarks: TrainingBenchmarks | None = None
        self.signals = Signals()
        self.args = argparse.Namespace()
        self.latest = False
        self.resumed: Mapping[str, Any] | None = None

    def parse_args(self, upstream: Upstream, args: Any) -> argparse.Namespace:
        """Add our flags to upstream's parser; begin a run if `--loss` is among them, read benchmarks."""
        self.run = self.checkpoints = self.benchmarks = self.resumed = None
        errors.start()
        namespace, settings, scored = parse(upstream, args)
        if settings is not None:
            # A plain run loads nothing of this.
            from open_clip_train.distributed import world_info_from_env

            from open_clip_ext.host import preflight
            from open_clip_ext.training.run import Run

            _, rank, world_size = world_info_from_env()
            with exit_on_error():
                for problem in preflight.problems(namespace, world_size, writes=rank == 0):
                    raise InputError(problem)
            self.args = namespace
            self.latest = namespace.resume == "latest"  # upstream puts the path in its place
            self.signals = Signals()
            if namespace.train_data or namespace.dataset_type == "synthetic":
                self.signals.listen()
            else:
                errors.started()  # it evaluates
            self.run = Run(settings)
        if scored is not None:
            from open_clip_ext.host.benchmarks import TrainingBenchmarks

            with exit_on_error():
                self.benchmarks = TrainingBenchmarks.read(scored)
        return namespace

    def create_model_and_transforms(
        self, upstream: Upstream, model_name: str, pretrained: str | None = None, *args: Any, **options: Any
    ) -> Any:
        """The model with the weights that `--pretrained` names, whatever `--model` is."""

        def build(weights: str | None) -> Any:
            return upstream(model_name, weights, *args, **options)

        if self.run is None:
            return build(pretrained)
        from open_clip_ext.host import initial_weights

        with exit_on_error():
            return initial_weights.create(build, model_name, pretrained, resumed=bool(self.args.resume))

    def pt_load(self, upstream: Upstream, file_path: str, map_location: Any = None) -> Any:
        """Take our state out of the checkpoint that is resumed."""
        if self.run is None:
            # Upstream's optimizers take no notice of our key.
            return upstream(file_path, map_location=map_location)
        from open_clip_ext.host import initial_weights

        with exit_on_error():
            try:
                state = upstream(file_path, map_location=map_location)
            except Exception as error:
                raise initial_weights.unreadable(file_path, error, latest=self.latest) from error
            optimizer = state.get("optimizer") if isinstance(state, dict) else None
            self.resumed = self.run.restore(optimizer, file_path, latest=self.latest)
            return initial_weights.resumed(state, file_path, wrapped=self.args.distributed)

    def save(self, upstream: Upstream, obj: Any, f: Any, *args: Any, **options: Any) -> None:
        """Write upstream's checkpoints, as ours, whole or not at all."""
        if self.run is None or not (str(f).endswith(".pt") and self.run.wrote(obj)):
            upstream(obj, f, *args, **options)
            return
        from open_clip_ext.host import checkpoint

        path = Path(f)
        with exit_on_error():
            checkpoint.save(lambda part: upstream(obj, part, *args, **options), path)
            checkpoint.prune(path.parent, path, epoch=obj["epoch"])

    def get_dataset_fn(self, upstream: Upstream, data_path: str, dataset_type: str) -> Upstream:
        """Upstream's builder of a loader; the one for training brings the companion texts."""
        build: Upstream = upstream(data_path, dataset_type)
        return build if self.run is None else functools.partial(_build_loader, build, self.run.settings)

    def get_data(
        self,
        upstream: Upstream,
        args: argparse.Namespace,
        preprocess_fns: Any,
        epoch: int = 0,
        tokenizer: Any = None,
    ) -> dict[str, Any]:
        """Give upstream a reason to evaluate where our benchmarks are the only one."""
        data: dict[str, Any] = upstream(args, preprocess_fns, epoch=epoch, tokenizer=tokenizer)
        return data if self.benchmarks is None else self.benchmarks.announce(data, preprocess_fns[1])

    def zero_shot_eval(
        self,
        upstream: Upstream,
        model: Any,
        data: dict[str, Any],
        epoch: int,
        args: argparse.Namespace,
        tokenizer: Any = None,
    ) -> dict[str, float]:
        """Upstream's zero-shot scores, and ours; it logs what it gets."""
        zero_shot = functools.partial(upstream, model, epoch=epoch, args=args, tokenizer=tokenizer)
        if self.benchmarks is None:
            return zero_shot(data=data)  # type: ignore[no-any-return]
        metrics = zero_shot(data=self.benchmarks.without(data))
        if not self.benchmarks.due(epoch, args):
            return metrics  # type: ignore[no-any-return]
        with exit_on_error():
            return {**metrics, "epoch": epoch, **self.benchmarks.score(model, tokenizer, args.precision)}

    def create_loss(self, upstream: Upstream, args: argparse.Namespace) -> torch.nn.Module:
        """The registered loss, with the distributed options that upstream's own takes."""
        if self.run is None:
            errors.started()
            return upstream(args)  # type: ignore[no-any-return]
        with exit_on_error():
            loss = self.run.build_loss(
                torch.device(args.device),
                local_loss=args.local_loss,
                gather_with_grad=args.gather_with_grad,
                cache_labels=True,
                rank=args.rank,
                world_size=args.world_size,
            )
        errors.started()  # upstream's epochs follow
        return loss

    def train_one_epoch(
        self,
        upstream: Upstream,
        model: Any,
        data: Any,
        loss: Any,
        epoch: int,
        optimizer: Any,
        scaler: Any,
        scheduler: Any,
        dist_model: Any,
        args: argparse.Namespace,
        tb_writer: Any = None,
    ) -> None:
        """Before the first epoch arm the model; enter each where it begins, or was left."""
        train = functools.partial(
            upstream,
            model,
            data,
            loss,
            epoch,
            optimizer,
            scaler,
            scheduler,
            dist_model,
            args,
            tb_writer=tb_writer,
        )
        if self.run is None:
            train()
            return
        from open_clip_ext.host import checkpoint, loaders

        with exit_on_error():
            if self.checkpoints is None:
                self.run.begin(model, optimizer, scaled=scaler is not None, calls_per_step=args.accum_freq)
                stream = data["train"].dataloader
                self.checkpoints = checkpoint.MidEpochCheckpoints(
                    self.run, self.signals, args, model, optimizer, scaler, stream, self.resumed
                )
            self.run.begin_epoch()
            loaders.begin_epoch(data["train"], epoch)
            with checkpoint.enumerate_from(upstream, self.checkpoints.begin_epoch(epoch)):
                train()
            loaders.end_epoch(data["train"], epoch)


_installed = False


def install() -> None:
    """Put the adapter into every seam.

    Repeated calls, as on a patched upstream, change nothing.
    """
    global _installed
    if _installed:
        return
    _installed = True
    problems = seams.misfits()
    if problems:
        _guard_parser(problems)
        return
    adapter = Adapter()
    for seam in seams.SEAMS:
        function = seam.find()
        wrapper = functools.partial(getattr(adapter, seam.wrapper), function)
        owner = importlib.import_module(seam.module)
        setattr(owner, seam.name, functools.update_wrapper(wrapper, function))
    torch.save = functools.update_wrapper(functools.partial(adapter.save, torch.save), torch.save)


def parse(
    upstream: Upstream, args: Any
) -> tuple[argparse.Namespace, Settings | None, BenchmarkRequest | None]:
    """Upstream's flags and ours, and what ours come to; exits with a sentence if they are wrong."""
    namespace: argparse.Namespace = _with_flags(upstream)(args)
    with exit_on_error():
        scored = resolve_benchmarks(namespace)
        settings = resolve_flags(namespace)
        if settings is not None:
            _refuse(namespace)
        return namespace, settings, scored


def _guard_parser(problems: list[str]) -> None:
    """On an upstream that does not fit, wrap its parser alone.

    `--loss` then stops instead of being taken for `--loss-dist-impl`; plain runs stay untouched.
    (`--eval-benchmarks` stops there too: upstream's parser does not know it.)
    """
    params = importlib.import_module("open_clip_train.params")
    upstream = params.parse_args

    @functools.wraps(upstream)
    def parse_args(args: Any) -> argparse.Namespace:
        with exit_on_error():
            if any(arg.split("=")[0] == "--loss" for arg in args):
                raise InputError(
                    f"--loss needs another open_clip_torch: {problems[0]} "
                    f"({seams.upstream()} is installed; {seams.TESTED} fit)"
                )
        return upstream(args)  # type: ignore[no-any-return]

    params.parse_args = parse_args  # type: ignore[attr-defined]


def _with_flags(upstream: Upstream) -> Upstream:
    """Upstream's `parse_args`, whose one parser gets our argument group as well.

    The function makes its parser itself, from the `argparse` that its module imported: for the
    time of the call that name stands for a module whose parser adds our flags before it parses.
    """

    class Parser(argparse.ArgumentParser):
        def parse_args(self, *args: Any, **kwargs: Any) -> Any:
            with exit_on_error():
                try:
                    add_flags(self)
                except argparse.ArgumentError as error:
                    raise InputError(f"{seams.upstream()} has a flag of the same name: {error}") from error
            return super().parse_args(*args, **kwargs)

    def parse_args(args: Any) -> Any:
        params: Any = importlib.import_module("open_clip_train.params")
        original = params.argparse
        params.argparse = types.ModuleType("argparse")
        params.argparse.__dict__.update(original.__dict__, ArgumentParser=Parser)
        try:
            return upstream(args)
        finally:
            params.argparse = original

    return parse_args


def _refuse(args: argparse.Namespace) -> None:
    """Stop on options whose meaning a `--loss` run cannot keep."""
    for option, reason in REFUSED.items():
        if getattr(args, option, None):
            raise InputError(f"--{option.replace('_', '-')} cannot go with --loss: {reason}")
    if args.save_every_steps and args.logs.lower() == "none":
        raise InputError(f"--save-every-steps {args.save_every_steps} has no effect under --logs none")
    if "coca" in args.model.lower():
        raise InputError(f"--model {args.model} cannot go with --loss: CoCa has a loss of its own")


def _build_loader(
    build: Upstream,
    settings: Settings,
    args: argparse.Namespace,
    preprocess: Any,
    is_train: bool,
    **options: Any,
) -> Any:
    """A loader from upstream's builder; the one for training brings what the loss wants."""
    if not is_train:
        return build(args, preprocess, is_train=is_train, **options)
    from open_clip_ext.host import loaders

    with exit_on_error():
        info = loaders.build(build, settings, args, preprocess, **options)
        logging.info(f"open_clip_ext: {loaders.describe(info)}")
        return info
