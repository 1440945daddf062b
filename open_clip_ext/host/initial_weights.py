"""The weights that a `--loss` run starts from."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from open_clip_ext.errors import InputError
from open_clip_ext.evaluation import models
from open_clip_ext.model import checkpoints


def problems(args: argparse.Namespace) -> Iterator[str]:
    """What is wrong with `--model` and `--pretrained`, as far as nothing has to be downloaded."""
    try:
        if not args.model.startswith(models.HUB):
            config = models.model_config(args.model)
            if args.model.startswith(models.LOCAL):
                length = getattr(args, "force_context_length", None)
                models.require_text_tower(args.model, config.get("text_cfg", {}), length)
        file = models.checkpoint_file(args.model, args.pretrained) if args.pretrained else None
        if file is not None and file.suffix not in checkpoints.NUMPY:
            checkpoints.read(file)  # mapped, not read
    except InputError as error:
        yield str(error)
    if args.resume not in (None, "latest") and "://" not in args.resume and not os.path.isfile(args.resume):
        yield f"--resume {args.resume}: there is no such file on this node"


def create(build: Callable[..., Any], name: str, pretrained: str | None, *, resumed: bool = False) -> Any:
    """The model and its transforms, by upstream's function.

    With a model of a folder or hub, upstream ignores `pretrained` from release 3.0 on. So it is loaded
    here, after that model's own weights.

    Args:
        build: upstream's function for the model `name`; takes what `pretrained` is, and further options.
        name: for the sentences.
        pretrained: a tag or a checkpoint file, or empty.
        resumed: whether a checkpoint will be loaded over these weights.

    Raises:
        InputError: the weights do not fit.
    """
    from open_clip.hf_model import HFTextEncoder

    apart = name.startswith(models.SCHEMAS)
    # Upstream would first load those of a tower of transformers from where its configuration is.
    options = {"pretrained_hf": False} if resumed or pretrained else {}
    with checkpoints.loading(f"--model {name}") as files, _tower_weights(name):
        made = build(None if apart else pretrained, **options)
    if apart and pretrained:
        checkpoints.load(made[0], pretrained, f"--model {name}")
        logging.info(f"open_clip_ext: loaded --pretrained {pretrained} into {name}")
    elif not (files or pretrained or resumed):
        # Upstream then has transformers load the text tower's own.
        loaded = type(getattr(made[0], "text", None)) is HFTextEncoder
        apart_from = ", apart from its text tower," if loaded else ""
        logging.warning(
            f"open_clip_ext: no weights were found for --model {name}, so it starts{apart_from} from random "
            "ones; to fine-tune a model, give --pretrained TAG|FILE"
        )
    # Upstream fills in 0 for weights without one; trained ones end elsewhere.
    if checkpoints.has_bias(made[0]) and made[0].logit_bias.item() == 0 and not resumed:
        logging.warning(
            f"open_clip_ext: the weights of --model {name} have no logit bias, so it starts at 0, and at "
            "first the loss takes nearly all pairs for right ones; start from a SigLIP model, or leave out "
            "--siglip"
        )
    return made


@contextmanager
def _tower_weights(name: str) -> Iterator[None]:
    """Turn an OSError of transformers into an InputError if the text tower is in a folder, not on the hub."""
    try:
        yield
    except OSError as error:
        text = models.model_config(name).get("text_cfg", {}) if name.startswith(models.LOCAL) else {}
        if not os.path.isdir(str(text.get("hf_model_name"))):
            raise
        raise InputError(
            f"--model {name}: its text tower cannot be loaded ({checkpoints.first_line(error).rstrip('.')}); "
            "save its weights there with save_pretrained, or give those of the whole model by --pretrained"
        ) from error


def require_locks(model: Any, args: argparse.Namespace) -> None:
    """Refuse to lock a tower of a model that cannot: CoCa."""
    for option in ("lock_image", "lock_text"):
        if getattr(args, option, False) and not hasattr(model, f"{option}_tower"):
            flag, kind = f"--{option.replace('_', '-')}", type(model).__name__
            raise InputError(f"{flag}: upstream's {kind} cannot lock a tower; leave it out")


def unreadable(path: str, error: Exception, *, latest: bool) -> InputError:
    """What to raise for a checkpoint to resume that upstream could not read.

    Args:
        path: where it is.
        error: torch's.
        latest: whether it is the newest one of the run itself, and not a file that the user named.
    """
    if latest:
        return InputError(
            f"{path}: cannot be read as a checkpoint ({checkpoints.first_line(error)}); if it was cut off "
            "while it was written, delete it: --resume latest then takes the one before it"
        )
    if "://" not in path:
        try:
            checkpoints.read(path)
        except InputError as found:
            return found
    return InputError(_no_run(path))


def resumed(checkpoint: Any, path: str, *, biased: bool, wrapped: bool) -> dict[str, Any]:
    """A checkpoint that upstream can resume from, on one process or several, whatever wrote it.

    Args:
        checkpoint: of a run, or a bare state dict, which upstream takes as well.
        path: where it is from.
        biased: whether the model has a logit bias.
        wrapped: whether the model is in DDP here, and wants `module.` before its names.

    Raises:
        InputError: it is neither, or one of the two has a logit bias and the other has none.
    """
    of_run = isinstance(checkpoint, Mapping) and "epoch" in checkpoint
    state = checkpoint.get("state_dict") if of_run else checkpoint
    if not checkpoints.is_state(state) or (of_run and "optimizer" not in checkpoint):
        raise InputError(_no_run(path))
    named = checkpoints.named(state, path)
    if (checkpoints.BIAS in named) != biased:
        was, now = ("without", "one") if biased else ("with", "none")
        raise InputError(
            f"{path}: a checkpoint of a model {was} a logit bias, and this one has {now}; give the --model "
            "of that run, and --siglip if and only if that run had it"
        )
    weights = {"module." * wrapped + key: value for key, value in named.items()}
    return {**checkpoint, "state_dict": weights} if of_run else weights


def _no_run(path: str) -> str:
    return (
        f"{path}: holds no run of open_clip's trainer to resume; to start from its weights, give "
        f"--pretrained {path}, not --resume"
    )
