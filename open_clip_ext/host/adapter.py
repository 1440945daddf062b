"""What an adapter to upstream's trainer does, whatever the signatures of the functions it wraps.

It wraps upstream's functions and replaces the body of none. Without `--loss` each wrapper hands
the call to upstream's function with the arguments it got.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from open_clip_ext import errors
from open_clip_ext.errors import InputError, exit_on_error
from open_clip_ext.host import flags
from open_clip_ext.host.loaders.layout import Layout
from open_clip_ext.host.seams import Seam, Upstream
from open_clip_ext.training.signals import Signals

if TYPE_CHECKING:
    from open_clip_ext.host.benchmarks import TrainingBenchmarks
    from open_clip_ext.host.checkpoint import MidEpochCheckpoints
    from open_clip_ext.host.loaders.companions import LoaderState
    from open_clip_ext.training.run import Run


@dataclass(frozen=True)
class Training:
    """What upstream trains with, wherever it keeps it.

    Attributes:
        model: inside DDP and a compiler or not.
        optimizer: upstream's.
        scaler: its GradScaler, if the precision needs one.
        args: its namespace.
        checkpoint: makes what upstream would save with so many epochs and optimizer steps of the run done.
    """

    model: Any
    optimizer: Any
    scaler: Any
    args: argparse.Namespace
    checkpoint: Callable[[int, int], dict[str, Any]]


# Options of every upstream that a --loss run refuses, and why.
REFUSED = {
    "distill_model": "it brings a loss of its own; --loss degla has a teacher too",
    "use_bnb_linear": "its linear layers are not known to average",
}


class Adapter:
    """One method per seam: upstream's function first, then the arguments it was called with.

    A subclass adds those whose signatures are its upstream's alone, and says what its upstream saves.

    Attributes:
        seams: the functions that are wrapped.
        tested: the releases that they were found in.
        refused: options of upstream's that cannot go with `--loss`, and why; OPTION=VALUE for one value.
        layout: of the samples and batches of its training loaders.
        prefixed: whether checkpoints of several ranks have DDP's `module.` before the names of weights.
        run: ours; None without `--loss`.
    """

    seams: ClassVar[tuple[Seam, ...]]
    tested: ClassVar[str]
    refused: ClassVar[Mapping[str, str]]
    layout: ClassVar[Layout]
    prefixed: ClassVar[bool]

    def __init__(self) -> None:
        self.run: Run | None = None
        self.loader: LoaderState | None = None
        self.checkpoints: MidEpochCheckpoints | None = None
        self.benchmarks: TrainingBenchmarks | None = None
        self.signals = Signals()
        self.args = argparse.Namespace()
        self.model: Any = None
        self.latest = False
        self.resumed: Mapping[str, Any] | None = None

    def install(self) -> None:
        """Put the methods into the seams, and `save` in place of `torch.save`."""
        for seam in self.seams:
            function = seam.find()
            wrapper = functools.partial(getattr(self, seam.name), function)
            owner = importlib.import_module(seam.module)
            setattr(owner, seam.name, functools.update_wrapper(wrapper, function))
        torch.save = functools.update_wrapper(functools.partial(self.save, torch.save), torch.save)

    def parse_args(self, upstream: Upstream, args: Any) -> argparse.Namespace:
        """Add our flags to upstream's parser; begin a run if `--loss` is among them, read benchmarks."""
        self.run = self.loader = self.checkpoints = self.benchmarks = self.resumed = None
        errors.start()
        namespace, settings, request = flags.parse(upstream, args, self.refused)
        if settings is not None:
            # A plain run loads nothing of this.
            from open_clip_train.distributed import world_info_from_env

            from open_clip_ext.host import preflight
            from open_clip_ext.training.run import Run

            _, rank, world_size = world_info_from_env()
            with exit_on_error():
                problem = next(preflight.problems(namespace, settings, world_size, writes=rank == 0), None)
                if problem is not None:
                    raise InputError(problem)
            self.args = namespace
            self.latest = namespace.resume == "latest"  # upstream puts the path in its place
            self.signals = Signals()
            if namespace.train_data or namespace.dataset_type == "synthetic":
                self.signals.listen()
            else:
                errors.started()  # it evaluates
            self.run = Run(settings)
        if request is not None:
            from open_clip_ext.host.benchmarks import TrainingBenchmarks

            with exit_on_error():
                self.benchmarks = TrainingBenchmarks.read(request)
        return namespace

    def create_model_and_transforms(
        self, upstream: Upstream, model_name: str, pretrained: str | None = None, *args: Any, **options: Any
    ) -> Any:
        """The model with the weights that `--pretrained` names, whatever `--model` is."""

        def build(weights: str | None, **more: Any) -> Any:
            return upstream(model_name, weights, *args, **options, **more)

        if self.run is None:
            return build(pretrained)
        from open_clip_ext.host import initial_weights

        with exit_on_error():
            made = initial_weights.create(build, model_name, pretrained, resumed=bool(self.args.resume))
            initial_weights.require_locks(made[0], self.args)
        self.model = made[0]
        return made

    def pt_load(self, upstream: Upstream, file_path: str, map_location: Any = None) -> Any:
        """Take our state out of the checkpoint that is resumed."""
        if self.run is None:
            # Upstream's optimizers take no notice of our key.
            return upstream(file_path, map_location=map_location)
        from open_clip_ext.host import initial_weights, regroup
        from open_clip_ext.model.checkpoints import has_bias, numpy_numbers

        with exit_on_error():
            try:
                with numpy_numbers():
                    state = upstream(file_path, map_location=map_location)
            except Exception as error:
                raise initial_weights.unreadable(file_path, error, latest=self.latest) from error
            optimizer = state.get("optimizer") if isinstance(state, dict) else None
            self.resumed = self.run.restore(optimizer, file_path, latest=self.latest)
            if self.run.groups is not None:
                regroup.load_by_name(self.model, self.run.groups)
            wrapped = self.args.distributed and self.prefixed
            return initial_weights.resumed(state, file_path, biased=has_bias(self.model), wrapped=wrapped)

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
        return build if self.run is None else functools.partial(self._build_loader, build)

    def _build_loader(
        self, build: Upstream, args: argparse.Namespace, preprocess: Any, is_train: bool, **options: Any
    ) -> Any:
        """A loader from upstream's builder; the one for training brings what the loss wants."""
        if not is_train:
            return build(args, preprocess, is_train=is_train, **options)
        from open_clip_ext.host.loaders.build import build as build_for_training

        assert self.run is not None
        with exit_on_error():
            info, self.loader = build_for_training(
                build, self.layout, self.run.settings, args, preprocess, **options
            )
            logging.info(f"open_clip_ext: {self.loader.summary}")
            return info

    def announce(self, data: dict[str, Any], preprocess_fns: Any) -> dict[str, Any]:
        """Upstream's data, in which it finds a reason to evaluate if there are benchmarks."""
        return data if self.benchmarks is None else self.benchmarks.announce(data, preprocess_fns[1])

    def evaluate(
        self,
        zero_shot: Callable[..., dict[str, float]],
        model: Any,
        data: dict[str, Any],
        epoch: int,
        args: argparse.Namespace,
        tokenizer: Any,
    ) -> dict[str, float]:
        """Upstream's zero-shot scores of its `data`, and ours."""
        if self.benchmarks is None:
            return zero_shot(data=data)
        metrics = zero_shot(data=self.benchmarks.without(data))
        if not self.benchmarks.due(epoch, args):
            return metrics
        with exit_on_error():
            return {**metrics, "epoch": epoch, **self.benchmarks.score(model, tokenizer, args.precision)}

    def build_loss(self, args: argparse.Namespace) -> torch.nn.Module:
        """The registered loss, with the distributed options that upstream's own takes."""
        assert self.run is not None
        with exit_on_error():
            loss = self.run.build_loss(
                torch.device(args.device),
                local_loss=args.local_loss,
                gather_with_grad=args.gather_with_grad,
                cache_labels=True,
                rank=args.rank,
                world_size=args.world_size,
            )
        if hasattr(self.model, "text_decoder"):
            from open_clip_ext.training.captioning import add_captioning

            add_captioning(loss, args.coca_caption_loss_weight, args.coca_contrastive_loss_weight)
        return loss

    def train(self, train: functools.partial[None], data: Any, training: Training, epoch: int) -> None:
        """Let upstream `train` an epoch from where it begins, or was left; before the first, begin the run.

        Args:
            train: its function for an epoch, with all arguments.
            data: the training data among them, an object with a `dataloader`.
            training: what else it trains with.
            epoch: from 0.
        """
        from open_clip_ext.host import checkpoint

        assert self.run is not None
        assert self.loader is not None
        with exit_on_error():
            if self.checkpoints is None:
                args = training.args
                scaled = training.scaler is not None
                self.run.begin(
                    training.model,
                    training.optimizer,
                    scaled=scaled,
                    calls_per_step=args.accum_freq,
                    batch_size=args.batch_size,
                    itemsize=4 if args.precision == "fp32" else 2,
                    empty=self.loader.collate.tokenizer([""])[0],
                    tokenizer=self.loader.collate.tokenizer,
                )
                self.checkpoints = checkpoint.MidEpochCheckpoints(
                    training.checkpoint,
                    self.run.settings.save_every,
                    self.signals,
                    args,
                    data.dataloader,
                    self.resumed,
                )
            self.run.begin_epoch()
            self.loader.begin_epoch(epoch)
            data.dataloader = self.checkpoints.begin_epoch(epoch)
            with checkpoint.enumerate_from(train.func, data.dataloader.first, self.tested):
                train()
            self.loader.end_epoch(epoch)
