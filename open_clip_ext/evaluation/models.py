"""Any open_clip model or checkpoint, with what it takes to trust its numbers.

No weight says which activation a model was trained with. A checkpoint file is therefore refused until it
is known: from the model's name (`-quickgelu`), from the params.txt that the trainer leaves beside its
checkpoints, or from `--activation`.
"""

from __future__ import annotations

import argparse
import ast
import copy
import logging
import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open_clip_ext import plugins
from open_clip_ext.errors import InputError

ACTIVATIONS = {"gelu": "GELU", "quickgelu": "QuickGELU"}
PRECISIONS = ("fp32", "amp", "amp_bf16", "fp16", "bf16")
SCHEMAS = ("local-dir:", "hf-hub:")


@dataclass(frozen=True)
class Loaded:
    """A model that is ready to be scored.

    Attributes:
        model: in evaluation mode; encodes texts at their real length where that changes nothing.
        preprocess: its validation transform.
        tokenizer: its tokenizer.
        record: what `result.json` has in `model`.
    """

    model: Any
    preprocess: Callable[..., Any]
    tokenizer: Callable[..., Any]
    record: dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say which model."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        metavar="NAME",
        help="an open_clip model, local-dir:FOLDER or hf-hub:NAME "
        "(default: what the params.txt of a trainer's checkpoint says)",
    )
    group.add_argument("--pretrained", metavar="TAG|FILE", help="a tag of that model, or a checkpoint")
    group.add_argument(
        "--activation",
        choices=ACTIVATIONS,
        help="what the checkpoint was trained with, where nothing beside it says so",
    )
    group.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="of the forward pass; amp ones stand for autocast (default: %(default)s)",
    )
    group.add_argument("--device", help="default: cuda if there is one")


def from_arguments(args: argparse.Namespace) -> Loaded:
    """The model that the flags of `add_arguments` name."""
    return load(
        args.model,
        args.pretrained,
        activation=args.activation,
        precision=args.precision,
        device=args.device,
    )


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
        name: of an open_clip model, or `local-dir:FOLDER`, or `hf-hub:NAME`; None where the params.txt
            beside a trainer's checkpoint has it.
        pretrained: a tag, or the path of a checkpoint file.
        activation: `gelu` or `quickgelu`.
        precision: one of `PRECISIONS`.
        device: None stands for the accelerator if there is one.

    Raises:
        InputError: there is no such model or file, it is no checkpoint or one of another
            architecture, or its activation is not known.
    """
    import open_clip
    import torch
    from open_clip.transform import PreprocessCfg, image_transform_v2

    from open_clip_ext import towers
    from open_clip_ext.evaluation.encode import weights_digest
    from open_clip_ext.evaluation.readers.files import sha256

    file = _file(name, pretrained)
    run = _params(file) if file else {}
    name = name or run.get("model")
    if name is None:
        raise InputError(
            "--model: missing, and there is no params.txt of open_clip's trainer beside the checkpoint; "
            "give --model NAME"
        )
    config = _config(name)
    quick = _quick_gelu(name, pretrained, file, config, run, activation)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    with _quiet(), _one_sentence(f"--model {name}"):
        model = open_clip.create_model(
            name,
            pretrained=None if file else pretrained,
            precision=precision,
            device=device,
            load_weights=file is None,
            require_pretrained=file is None,
            quick_gelu=quick,
            **_as_trained(run),
        )
        tokenizer = open_clip.get_tokenizer(name, context_length=model.context_length)
    if file:
        _load_file(model, file, name)
    model.eval()
    full_length = towers.trim(model, evaluation=True)
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
    """The checkpoint file that `pretrained` is, if it is not a tag."""
    import open_clip

    schema = bool(name and name.startswith(SCHEMAS))
    if pretrained is None:
        if name is None:
            raise InputError("--model and --pretrained: missing; give a model and a tag or checkpoint")
        if not schema:
            raise InputError(
                f"--model {name}: without --pretrained TAG|FILE its weights would be random; give one"
            )
        return None
    plain = None if schema or name is None else name.replace("/", "-")
    if plain and open_clip.get_pretrained_cfg(plain, pretrained):
        return None
    path = Path(pretrained)
    if path.is_dir():
        raise InputError(f"--pretrained {path}: is a folder; name the checkpoint file in it")
    if not path.is_file():
        tags = open_clip.list_pretrained_tags_by_model(plain) if plain else []
        known = f"; the tags of {name}: {', '.join(tags)}" if tags else ""
        raise InputError(f"--pretrained {pretrained}: no such tag and no such file{known}")
    return path


def _params(checkpoint: Path) -> dict[str, str]:
    """What is known about the run of a checkpoint: from itself, if `merge` wrote it, or from the trainer.

    Empty if there is nothing in it or beside it.
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
    """What another checkpoint of this model must note, so that it is loaded alike."""
    name, checkpoint = loaded.record["name"], Path(loaded.record["checkpoint"])
    run = _params(checkpoint) if checkpoint.is_file() else {"pretrained": str(checkpoint)}
    kept = {key: value for key, value in run.items() if key.startswith(("force_", "image_", "pretrained"))}
    quick = loaded.record["activation"] == ACTIVATIONS["quickgelu"]
    return {**kept, "model": name, "force_quick_gelu": str(quick)}


def _config(name: str) -> dict[str, Any]:
    """The configuration of a model by name."""
    import open_clip

    if not name.startswith(SCHEMAS) and name.replace("/", "-") not in open_clip.list_models():
        near = plugins.nearest(name, open_clip.list_models())
        raise InputError(f"--model {name}: open_clip has no such model{near}")
    with _quiet(), _one_sentence(f"--model {name}"):
        config: dict[str, Any] = open_clip.get_model_config(
            name.replace("/", "-") if ":" not in name else name
        )
        return copy.deepcopy(config)


def _quick_gelu(
    name: str,
    pretrained: str | None,
    file: Path | None,
    config: Mapping[str, Any],
    run: Mapping[str, str],
    activation: str | None,
) -> bool:
    """Whether the model has QuickGELU, from whoever knows."""
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
                f"--model {name} --pretrained {pretrained}: these weights were trained with {right}, which "
                "is not what this model has; "
                f"give --model {name.removesuffix('-quickgelu') + '-quickgelu' * tagged} or --activation"
            )
        return named
    if "model" in run:
        trained = run.get("force_quick_gelu") == "True" or bool(
            _config(run["model"]).get("quick_gelu", False)
        )
        if named and not trained:
            raise InputError(
                f"--model {name}: has QuickGELU, but by the params.txt beside {file} that run had GELU; "
                "settle it with --activation"
            )
        return trained
    if named or name.startswith(SCHEMAS):
        return named
    raise InputError(
        f"--pretrained {file}: with which activation was it trained? Its weights do not say; give "
        f"--activation quickgelu (OpenAI's weights and what is fine-tuned from them as such) or "
        "--activation gelu (what open_clip trains by default, and any model reloaded from a path without "
        "--force-quick-gelu)"
    )


def _as_trained(run: Mapping[str, str]) -> dict[str, Any]:
    """How a run changed its model and preprocessing, as arguments of upstream's `create_model`."""
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
    if isinstance(size := changed.get("force_image_size"), list):
        changed["force_image_size"] = size[0] if len(size) == 1 else tuple(size)
    tag = open_clip.get_pretrained_cfg(run.get("model", ""), run.get("pretrained", "")) or {}
    keys = ("mean", "std", "interpolation", "resize_mode")
    preprocess = {key: tag[key] for key in keys if key in tag}
    preprocess |= {key: value(f"image_{key}") for key in keys if f"image_{key}" in run}
    return changed | ({"force_preprocess_cfg": preprocess} if preprocess else {})


def _load_file(model: Any, file: Path, name: str) -> None:
    """Load a checkpoint into a model that it must fit."""
    from open_clip.factory import load_checkpoint, load_state_dict

    try:
        if file.suffix not in (".npz", ".npy"):
            _same_size(model, load_state_dict(str(file)), file, name)
        load_checkpoint(model, str(file))
    except InputError:
        raise
    except pickle.UnpicklingError as error:
        raise InputError(f"{file}: no checkpoint, or one that only running its code could read") from error
    except (RuntimeError, KeyError, AttributeError) as error:
        if "Error(s) in loading state_dict" in str(error):
            first = str(error).splitlines()[1].strip()
            raise InputError(f"{file}: is not of the architecture of {name} ({first:.160})") from error
        raise InputError(f"{file}: cannot be read as a checkpoint ({_first_line(error)})") from error
    except Exception as error:  # readers of broken files raise what they like
        raise InputError(f"{file}: cannot be read as a checkpoint ({_first_line(error)})") from error


def _same_size(model: Any, weights: Mapping[str, Any], file: Path, name: str) -> None:
    """Refuse positional embeddings of other sizes, which upstream would interpolate without a word."""
    own = model.state_dict()
    for key, tensor in weights.items():
        if "positional_embedding" in key and key in own and own[key].shape != tensor.shape:
            raise InputError(
                f"{file}: is not of the architecture of {name} ({key} is {list(tensor.shape)} there and "
                f"{list(own[key].shape)} here)"
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without upstream's log lines and warnings about what is checked here."""
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
    """Upstream's errors about a model as an InputError."""
    try:
        yield
    except (RuntimeError, ValueError, OSError) as error:
        raise InputError(f"{flag}: {_first_line(error)}") from error
    except TypeError as error:  # an argument that releases before 3.0 do not know
        raise InputError(
            f"{flag}: {_first_line(error)}; the evaluation needs open_clip_torch 3.0 or later"
        ) from error


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
