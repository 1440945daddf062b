"""Load any open_clip model or checkpoint with the activation and preprocessing it was trained with.

The weights do not show which activation a model was trained with. A checkpoint file is therefore refused
unless the activation is known: from the model's name (`-quickgelu`), from the params.txt that the trainer
leaves next to its checkpoints, or from `--activation`.
"""

from __future__ import annotations

import argparse
import ast
import copy
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open_clip_ext import plugins
from open_clip_ext.errors import InputError
from open_clip_ext.model import checkpoints
from open_clip_ext.model.checkpoints import first_line

ACTIVATIONS = {"gelu": "GELU", "quickgelu": "QuickGELU"}
PRECISIONS = ("fp32", "amp", "amp_bf16", "fp16", "bf16")
LOCAL, HUB = SCHEMAS = ("local-dir:", "hf-hub:")


@dataclass(frozen=True)
class Loaded:
    """A model that is ready to be scored.

    Attributes:
        model: in evaluation mode; encodes texts at their real length if that does not change features.
        preprocess: its validation transform.
        tokenizer: its tokenizer.
        record: the entry `model` of `result.json`.
    """

    model: Any
    preprocess: Callable[..., Any]
    tokenizer: Callable[..., Any]
    record: dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that select the model."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        metavar="NAME",
        help="an open_clip model, local-dir:FOLDER or hf-hub:NAME "
        "(default: from the params.txt next to a trainer's checkpoint)",
    )
    group.add_argument("--pretrained", metavar="TAG|FILE", help="a tag of that model, or a checkpoint")
    group.add_argument(
        "--activation",
        choices=ACTIVATIONS,
        help="the activation that the checkpoint was trained with, if no file next to it says so",
    )
    group.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="precision of the forward pass; amp means autocast (default: %(default)s)",
    )
    group.add_argument("--device", help="default: cuda if there is one")


def from_arguments(args: argparse.Namespace) -> Loaded:
    """The model selected by the flags of `add_arguments`."""
    return load(
        args.model,
        args.pretrained,
        activation=args.activation,
        precision=args.precision,
        device=args.device,
    )


def from_end(end: str, name: str | None, activation: str | None) -> Loaded:
    """The model that a command names by one word, on the CPU.

    Args:
        end: a checkpoint, a tag of the model `name`, or `local-dir:FOLDER`.
        name: of the model, or None if params.txt has it.
        activation: `gelu` or `quickgelu`, or None if that is known.

    Raises InputError as `load` does.
    """
    name, weights = (end, None) if end.startswith(SCHEMAS) else (name, end)
    return load(name, weights, activation=activation, device="cpu")


def load(
    name: str | None,
    pretrained: str | None = None,
    *,
    activation: str | None = None,
    precision: str = "fp32",
    device: str | None = None,
) -> Loaded:
    """Load a model.

    Args:
        name: of an open_clip model, or `local-dir:FOLDER`, or `hf-hub:NAME`; None if the params.txt
            next to a trainer's checkpoint has it.
        pretrained: a tag, or the path of a checkpoint file.
        activation: `gelu` or `quickgelu`.
        precision: one of `PRECISIONS`.
        device: None means the accelerator if there is one.

    Raises:
        InputError: the model or file does not exist, the file is not a checkpoint or has another
            architecture, or its activation is unknown.
    """
    import open_clip
    import torch
    from open_clip.transform import PreprocessCfg, image_transform_v2

    from open_clip_ext.evaluation.encode import weights_digest
    from open_clip_ext.files import sha256
    from open_clip_ext.model import text_trimming

    file = _file(name, pretrained)
    run = parameters(file) if file else {}
    if name is None:
        name = _noted_model(run, file)
    config = model_config(name)
    quick = _quick_gelu(name, pretrained, file, config, run, activation)
    as_trained = _as_trained(run)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    with quiet(), _one_sentence(f"--model {name}"), checkpoints.loading(f"--model {name}"):
        model = open_clip.create_model(
            name,
            pretrained=None if file else pretrained,
            precision=precision,
            device=device,
            load_weights=file is None,
            require_pretrained=file is None,
            # The file has the weights of a tower of transformers, too.
            pretrained_hf=file is None,
            quick_gelu=quick,
            **as_trained,
        )
        # The context length of training, as in upstream's trainer: a Hugging Face tower may allow more.
        tokenizer = open_clip.get_tokenizer(name, context_length=as_trained.get("force_context_length"))
    if file:
        checkpoints.load(model, file, name, resize=False)
    model.eval()
    full_length = text_trimming.trim(model, tokenizer([""])[0], evaluation=True)
    preprocess_cfg = dict(model.visual.preprocess_cfg)
    record = {
        "name": name,
        "checkpoint": str(file) if file else pretrained or name,
        "sha256": sha256(file) if file else weights_digest(model),
        "activation": ACTIVATIONS["quickgelu" if quick else "gelu"],
        "precision": precision,
        "preprocess": preprocess_cfg,
        "config": config | {"quick_gelu": quick},
        "texts": "at their real length" if full_length is None else f"at full length: {full_length}",
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else device,
    }
    preprocess = image_transform_v2(PreprocessCfg(**preprocess_cfg), is_train=False)
    return Loaded(model, preprocess, tokenizer, record)


def _file(name: str | None, pretrained: str | None) -> Path | None:
    """The checkpoint file that `pretrained` names; None for a tag, and for a folder or hub with weights."""
    if pretrained:
        return checkpoint_file(name, pretrained)
    if name is None:
        raise InputError("--model and --pretrained: missing; give a model and a tag or checkpoint")
    if not name.startswith(SCHEMAS):
        raise InputError(
            f"--model {name}: without --pretrained TAG|FILE its weights would be random; give one"
        )
    return None


def checkpoint_file(name: str | None, pretrained: str) -> Path | None:
    """The checkpoint file that `pretrained` names, or None for a tag of the model `name`.

    Raises InputError if it is neither.
    """
    import open_clip

    plain = None if name is None or name.startswith(SCHEMAS) else name.replace("/", "-")
    if plain and open_clip.get_pretrained_cfg(plain, pretrained):
        return None
    path = Path(pretrained)
    if path.is_dir():
        raise InputError(f"--pretrained {path}: is a folder{checkpoints.of_folder(path)}")
    if path.is_file():
        checkpoints.examine(path)
        return path
    if name is None:
        known = "; a tag needs --model NAME"
    elif plain is None:
        known = f"; --model {name} has no tags"
    else:
        tags = open_clip.list_pretrained_tags_by_model(plain)
        known = f"; the tags of {name}: {', '.join(tags)}" if tags else ""
    raise InputError(f"--pretrained {pretrained}: no such tag and no such file{known}")


def parameters(checkpoint: Path) -> dict[str, str]:
    """The parameters of the run that made a checkpoint: from `merge`'s note in it, or from params.txt.

    Empty if there is neither a note nor a params.txt.
    """
    from open_clip_ext.evaluation import weights

    if note := weights.read_note(checkpoint):
        return note
    for folder in (checkpoint.resolve().parent, checkpoint.resolve().parent.parent):
        if (path := folder / "params.txt").is_file():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            pairs = (line.partition(": ") for line in lines)
            return {key: value for key, colon, value in pairs if colon and value != "None"}
    return {}


def origin(loaded: Loaded) -> dict[str, str]:
    """The note that another checkpoint of this model needs in order to be loaded in the same way."""
    name, checkpoint = loaded.record["name"], Path(loaded.record["checkpoint"])
    run = parameters(checkpoint) if checkpoint.is_file() else {"pretrained": str(checkpoint)}
    kept = {
        key: value
        for key, value in run.items()
        if key.startswith(("force_", "image_", "pretrained", "siglip"))
    }
    quick = loaded.record["activation"] == ACTIVATIONS["quickgelu"]
    return {**kept, "model": name, "force_quick_gelu": str(quick)}


def model_config(name: str) -> dict[str, Any]:
    """The configuration of a model by name.

    Raises InputError if there is none.
    """
    import open_clip

    if name.startswith(LOCAL):
        _require_folder(name)
    elif not name.startswith(SCHEMAS) and name.replace("/", "-") not in open_clip.list_models():
        near = plugins.nearest(name, open_clip.list_models())
        raise InputError(f"--model {name}: open_clip has no such model{near}")
    with quiet(), _one_sentence(f"--model {name}"):
        config: dict[str, Any] | None = open_clip.get_model_config(
            name.replace("/", "-") if ":" not in name else name
        )
    if config is None:
        raise InputError(f"--model {name}: {LOCAL} needs open_clip_torch 3.0 or later")
    return copy.deepcopy(config)


def _require_folder(name: str) -> None:
    """Refuse a `local-dir:` model whose folder open_clip could not read."""
    path = Path(name.removeprefix(LOCAL), "open_clip_config.json")
    if not path.is_file():
        raise InputError(f"--model {name}: there is no {path}; name the folder of an open_clip model")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"--model {name}: {path} is not valid JSON ({first_line(error)})") from error
    if not isinstance(content, dict) or "model_cfg" not in content:
        raise InputError(f"--model {name}: {path} has no model_cfg; name the folder of an open_clip model")


def require_text_tower(name: str, text: Mapping[str, Any], context_length: int | None = None) -> None:
    """Refuse a `local-dir:` model whose tokenizer or text tower of transformers is not where it says.

    Args:
        name: of the model.
        text: its `text_cfg`.
        context_length: the tokens of a text, in place of that in `text_cfg`.
    """
    import open_clip

    tower = str(text.get("hf_model_name") or "")
    if os.path.isabs(tower) and not os.path.isdir(tower):
        raise InputError(f"--model {name}: its hf_model_name {tower} is not a folder on this node")
    if text.get("hf_tokenizer_name"):
        try:
            with quiet():
                tokenizer = open_clip.get_tokenizer(name, context_length=context_length)
        except (RuntimeError, ValueError, OSError) as error:
            raise InputError(
                f"--model {name}: its folder has no tokenizer that can be read "
                f"({first_line(error).rstrip(':')}); save one there with save_pretrained"
            ) from error
        if not isinstance(tokenizer.context_length, int):
            raise InputError(
                f"--model {name}: its context_length is no number of tokens; give one, such as 77"
            )
        try:
            tokenizer([""])
        except (RuntimeError, ValueError) as error:
            raise InputError(
                f"--model {name}: its tokenizer fails on an empty text ({first_line(error):.100}); save one "
                "that has a padding token"
            ) from error


def _noted_model(run: Mapping[str, str], file: Path | None) -> str:
    """The model named in the note of a checkpoint, or in the params.txt next to it."""
    if "model" not in run:
        raise InputError(
            "--model: missing, and there is no params.txt of open_clip's trainer next to the checkpoint; "
            "give --model NAME"
        )
    name = run["model"]
    if name.startswith(LOCAL) and not Path(name.removeprefix(LOCAL)).is_dir():
        raise InputError(
            f"--model: missing, and {name}, from which {file} was made, is not on this machine; give --model "
            "local-dir:FOLDER with its present place"
        )
    return name


def activation_of(name: str, pretrained: str | None, activation: str | None = None) -> str:
    """`gelu` or `quickgelu`, as `load` takes it for these arguments, without loading anything.

    Raises InputError where `load` does, because it is unknown or because model and tag differ.
    """
    file = _file(name, pretrained)
    run = parameters(file) if file else {}
    quick = _quick_gelu(name, pretrained, file, model_config(name), run, activation)
    return "quickgelu" if quick else "gelu"


def _quick_gelu(
    name: str,
    pretrained: str | None,
    file: Path | None,
    config: Mapping[str, Any],
    run: Mapping[str, str],
    activation: str | None,
) -> bool:
    """Whether the model has QuickGELU, from the first source that says so."""
    import open_clip

    if activation:
        return activation == "quickgelu"
    named = bool(config.get("quick_gelu", False))
    if file is None:
        if name.startswith(SCHEMAS):
            return named
        tagged = bool(open_clip.get_pretrained_cfg(name, pretrained).get("quick_gelu", False))
        if tagged != named:
            right = ACTIVATIONS["quickgelu" if tagged else "gelu"]
            raise InputError(
                f"--model {name} --pretrained {pretrained}: these weights were trained with {right}, but "
                "this model has another activation; "
                f"give --model {name.removesuffix('-quickgelu') + '-quickgelu' * tagged} or --activation"
            )
        return named
    trained = _noted_activation(run)
    if trained is not None:
        if named and not trained:
            raise InputError(
                f"--model {name}: has QuickGELU, but according to the params.txt next to {file} that run had "
                "GELU; decide with --activation"
            )
        return trained
    if named or name.startswith(SCHEMAS):
        return named
    gone = f", and {run['model']}, from which it was made, is not on this machine" if "model" in run else ""
    raise InputError(
        f"--pretrained {file}: it is unknown with which activation it was trained{gone}; give --activation "
        "quickgelu (OpenAI's weights, and models fine-tuned from them with it) or --activation gelu "
        "(open_clip's default, and any model loaded from a path without --force-quick-gelu)"
    )


def _noted_activation(run: Mapping[str, str]) -> bool | None:
    """Whether the run of a checkpoint had QuickGELU; None if that is unknown."""
    if "model" not in run:
        return None
    if run.get("force_quick_gelu") == "True":
        return True
    try:
        return bool(model_config(run["model"]).get("quick_gelu", False))
    except InputError:  # a folder on another machine
        return None


def _as_trained(run: Mapping[str, str]) -> dict[str, Any]:
    """The changes that a run made to its model and preprocessing, as arguments of `create_model`."""
    import open_clip

    def value(key: str) -> Any:
        try:
            return ast.literal_eval(run[key])
        except (ValueError, SyntaxError):
            return run[key]

    changed = {
        key: value(key)
        for key in ("force_image_size", "force_context_length", "force_custom_text")
        if key in run
    }
    if run.get("siglip") == "True":
        changed["init_logit_bias"] = -10  # upstream's; a model without a bias could not load one
    if isinstance(size := changed.get("force_image_size"), list):
        changed["force_image_size"] = size[0] if len(size) == 1 else tuple(size)
    tag = open_clip.get_pretrained_cfg(run.get("model", ""), run.get("pretrained", "")) or {}
    keys = ("mean", "std", "interpolation", "resize_mode")
    preprocess = {key: tag[key] for key in keys if key in tag}
    preprocess |= {key: value(f"image_{key}") for key in keys if f"image_{key}" in run}
    return changed | ({"force_preprocess_cfg": preprocess} if preprocess else {})


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress upstream's log lines and warnings about what this module checks itself."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def _one_sentence(flag: str) -> Iterator[None]:
    """Turn upstream's errors about a model into an InputError."""
    try:
        yield
    except (RuntimeError, ValueError, OSError) as error:
        raise InputError(f"{flag}: {first_line(error)}") from error
    except TypeError as error:  # releases before 3.0 do not have this argument
        raise InputError(
            f"{flag}: {first_line(error)}; the evaluation needs open_clip_torch 3.0 or later"
        ) from error
