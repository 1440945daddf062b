"""The adapter for the task API of open_clip's main branch, which will be 4.x (read at commit 89fb801).

There a task holds the model and its loss, a state holds the task and the optimizer, and samples and batches
are dictionaries. Upstream's former loop is still there, as `open_clip_train.legacy_main`; it is refused.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Sequence
from typing import Any

from open_clip_ext import errors
from open_clip_ext.errors import InputError, exit_on_error
from open_clip_ext.host import adapter
from open_clip_ext.host.adapter import Adapter, Training
from open_clip_ext.host.loaders.layout import Layout
from open_clip_ext.host.seams import Seam, Upstream

TESTED = "main at 89fb801"
SEAMS = (
    Seam("open_clip_train.params", "parse_args", ("args",)),
    Seam("open_clip_train.file_utils", "pt_load", ("file_path", "map_location")),
    Seam("open_clip_train.data", "get_dataset_fn", ("data_path", "dataset_type")),
    Seam(
        "open_clip_train.data",
        "get_data",
        ("args", "preprocess_fns", "epoch", "tokenizer", "naflex_data_config"),
    ),
    Seam("open_clip_train.train", "zero_shot_eval", ("model_or_task", "data", "epoch", "args", "tokenizer")),
    Seam("open_clip", "create_model_and_transforms", ("model_name", "pretrained"), more=True),
    Seam("open_clip", "create_task", ("args", "model", "dist_model", "naflex_data_config")),
    Seam("open_clip_train.train", "train_one_epoch", ("state", "data", "args", "tb_writer")),
)

# Upstream's options that a --loss run refuses, and why.
REFUSED = adapter.REFUSED | {
    "fsdp": "it gathers the optimizer's state without that of the loss",
    "use_naflex": "its batches, and those of GenLIP, GenLAP and NaFlexClap models, are packed",
    "dataset_type=webdataset-audio": "it brings sounds, and the losses are of images",
    "dataset_type=synthetic-audio": "it brings sounds, and the losses are of images",
    "torchcompile_strategy=step": "the optimizer's hooks, which move loss and teacher, would be compiled too",
}
NUMBER = "_open_clip_ext_number"


class DictLayout(Layout):
    """A sample and a batch have an `image` and a `text`; a number gets a key of its own."""

    def image(self, batch: Any) -> Any:
        """What is under `image`."""
        return batch["image"]

    def with_image(self, batch: Any, image: Any) -> dict[str, Any]:
        """The rest as it was."""
        return {**batch, "image": image}

    def text(self, batch: Any) -> Any:
        """What is under `text`."""
        return batch["text"]

    def with_text(self, batch: Any, text: Any) -> dict[str, Any]:
        """The rest as it was."""
        return {**batch, "text": text}

    def with_number(self, sample: Any, number: int) -> dict[str, Any]:
        """Under `NUMBER`."""
        return {**sample, NUMBER: number}

    def split_numbers(self, batch: Any) -> tuple[Any, Sequence[Any]]:
        """The batch without `NUMBER`, which the model would not take, and what was there."""
        return {name: value for name, value in batch.items() if name != NUMBER}, batch[NUMBER]


class TaskAPI(Adapter):
    """Calls the functions of `Adapter` as the trainer with tasks calls its own."""

    seams = SEAMS
    tested = TESTED
    refused = REFUSED
    layout = DictLayout()
    prefixed = False

    def parse_args(self, upstream: Upstream, args: Any) -> argparse.Namespace:
        """As every adapter; `--loss` stops where the former loop would pass over it."""
        namespace = super().parse_args(upstream, args)
        if self.run is not None and "coca" in namespace.model.lower():
            with exit_on_error():
                raise InputError(
                    f"--model {namespace.model} cannot go with --loss: CoCa has a task of its own here; "
                    "open_clip_torch 3.3 trains it with --loss"
                )
        # That module is the only one that needs this one.
        if self.run is not None and "open_clip_train.legacy_train" in sys.modules:
            with exit_on_error():
                raise InputError(
                    "--loss cannot go with open_clip_train.legacy_main; start open_clip_train.main instead"
                )
        return namespace

    def get_data(
        self,
        upstream: Upstream,
        args: argparse.Namespace,
        preprocess_fns: Any,
        epoch: int = 0,
        tokenizer: Any = None,
        naflex_data_config: Any = None,
    ) -> dict[str, Any]:
        """Give upstream a reason to evaluate where our benchmarks are the only one."""
        data = upstream(
            args, preprocess_fns, epoch=epoch, tokenizer=tokenizer, naflex_data_config=naflex_data_config
        )
        return self.announce(data, preprocess_fns)

    def zero_shot_eval(
        self,
        upstream: Upstream,
        model_or_task: Any,
        data: dict[str, Any],
        epoch: int,
        args: argparse.Namespace,
        tokenizer: Any = None,
    ) -> dict[str, float]:
        """Upstream's zero-shot scores, and ours; it logs what it gets."""
        from open_clip.task import get_model_from_task

        zero_shot = functools.partial(upstream, model_or_task, epoch=epoch, args=args, tokenizer=tokenizer)
        return self.evaluate(zero_shot, get_model_from_task(model_or_task), data, epoch, args, tokenizer)

    def create_task(
        self,
        upstream: Upstream,
        args: argparse.Namespace,
        model: Any,
        dist_model: Any = None,
        naflex_data_config: Any = None,
    ) -> Any:
        """Upstream's task with the registered loss in place of its own."""
        task = upstream(args, model, dist_model=dist_model, naflex_data_config=naflex_data_config)
        if self.run is None:
            return task
        from open_clip.task import CLIPTask, SigLIPTask

        with exit_on_error():
            if type(task) not in (CLIPTask, SigLIPTask):  # these differ in their loss alone
                raise InputError(
                    f"--model {args.model} cannot go with --loss: open_clip trains it as a "
                    f"{type(task).__name__}, which has a loss of its own"
                )
            if getattr(args, "variable_text", False):
                raise InputError(
                    f"--model {args.model} cannot go with --loss: its texts have another length in each batch"
                )
        task.loss = self.build_loss(args)
        return task

    def train_one_epoch(
        self, upstream: Upstream, state: Any, data: Any, args: argparse.Namespace, tb_writer: Any = None
    ) -> None:
        """Train an epoch from where it begins, or was left."""
        errors.started()
        train = functools.partial(upstream, state, data, args, tb_writer=tb_writer)
        if self.run is None:
            train()
            return

        def checkpoint(epoch: int, step: int) -> dict[str, Any]:
            """By upstream's function; the state rides in the optimizer's."""
            from open_clip.task import save_checkpoint

            made: dict[str, Any] = save_checkpoint(
                state.task,
                state.optimizer,
                epoch,
                scaler=state.scaler,
                name=args.name,
                global_step=step,
                samples_seen=state.samples_seen,
            )
            return made

        training = Training(state.task.trainable_module, state.optimizer, state.scaler, args, checkpoint)
        self.train(train, data["train"], training, state.epoch)
