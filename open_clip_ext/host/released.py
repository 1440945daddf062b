"""The adapter for released open_clip_torch: what depends on the signatures of its trainer."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence
from typing import Any

import torch

from open_clip_ext import errors
from open_clip_ext.host import adapter
from open_clip_ext.host.adapter import Adapter, Training
from open_clip_ext.host.loaders.layout import Layout
from open_clip_ext.host.seams import Seam, Upstream

TESTED = "2.28 to 3.3"
SEAMS = (
    Seam("open_clip_train.params", "parse_args", ("args",)),
    Seam("open_clip_train.file_utils", "pt_load", ("file_path", "map_location")),
    Seam("open_clip_train.data", "get_dataset_fn", ("data_path", "dataset_type")),
    Seam("open_clip_train.data", "get_data", ("args", "preprocess_fns", "epoch", "tokenizer")),
    Seam("open_clip_train.train", "zero_shot_eval", ("model", "data", "epoch", "args", "tokenizer")),
    Seam("open_clip", "create_model_and_transforms", ("model_name", "pretrained"), more=True),
    Seam("open_clip", "create_loss", ("args",)),
    Seam(
        "open_clip_train.train",
        "train_one_epoch",
        (
            *("model", "data", "loss", "epoch", "optimizer", "scaler"),
            *("scheduler", "dist_model", "args", "tb_writer"),
        ),
    ),
)

# Upstream's options that a --loss run refuses, and why.
REFUSED = adapter.REFUSED | {
    "trace": "a traced model cannot take companion texts",
    "torchscript": "a scripted model cannot take companion texts",
    "horovod": "features are gathered through torch.distributed",
}


class TupleLayout(Layout):
    """A sample is `(image, text)`, a batch `images [B,3,H,W], texts`; a number comes third."""

    def image(self, batch: Any) -> Any:
        """The first entry."""
        return batch[0]

    def with_image(self, batch: Any, image: Any) -> tuple[Any, ...]:
        """The others as they were."""
        return image, *batch[1:]

    def text(self, batch: Any) -> Any:
        """The second entry."""
        return batch[1]

    def with_text(self, batch: Any, text: Any) -> tuple[Any, ...]:
        """The others as they were."""
        image, _, *number = batch
        return image, text, *number

    def with_number(self, sample: Any, number: int) -> tuple[Any, ...]:
        """A third entry."""
        return *sample, number

    def split_numbers(self, batch: Any) -> tuple[Any, Sequence[Any]]:
        """The two entries that upstream's loop takes, and the third."""
        images, texts, numbers = batch
        return (images, texts), numbers


class Released(Adapter):
    """Calls the functions of `Adapter` as the released trainer's loop calls its own."""

    seams = SEAMS
    tested = TESTED
    refused = REFUSED
    layout = TupleLayout()
    prefixed = True

    def get_data(
        self,
        upstream: Upstream,
        args: argparse.Namespace,
        preprocess_fns: Any,
        epoch: int = 0,
        tokenizer: Any = None,
    ) -> dict[str, Any]:
        """Give upstream a reason to evaluate where our benchmarks are the only one."""
        return self.announce(upstream(args, preprocess_fns, epoch=epoch, tokenizer=tokenizer), preprocess_fns)

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
        return self.evaluate(zero_shot, model, data, epoch, args, tokenizer)

    def create_loss(self, upstream: Upstream, args: argparse.Namespace) -> torch.nn.Module:
        """The registered loss in place of upstream's own."""
        loss: torch.nn.Module = upstream(args) if self.run is None else self.build_loss(args)
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
        """Train an epoch from where it begins, or was left."""
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

        def checkpoint(epoch: int, step: int) -> dict[str, Any]:
            """As upstream's main function makes it: of the model beneath the compiler, inside DDP."""
            made = {
                "epoch": epoch,
                "name": args.name,
                "state_dict": getattr(model, "_orig_mod", model).state_dict(),
                "optimizer": optimizer.state_dict(),
            }
            return made if scaler is None else {**made, "scaler": scaler.state_dict()}

        self.train(train, data["train"], Training(model, optimizer, scaler, args, checkpoint), epoch)
