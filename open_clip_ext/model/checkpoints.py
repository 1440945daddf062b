"""Weights in files, in whatever layout they were saved, and what to say about files that hold none.

Upstream reads a state dict, bare or under `state_dict`, with `module.` before its names or not. Here a
file is also read if its names tell for certain which model is in it: every open_clip model has a
`logit_scale` at its root, so what stands before that name stands before all names of the model.
"""

from __future__ import annotations

import importlib
import pickle
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from open_clip_ext.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

# What `torch.compile`, FSDP and activation checkpointing put into the names of what they wrap.
WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
ROOT = "logit_scale"
# Numbers in the state dict of OpenAI's TorchScript archives; upstream drops them too.
NUMBERS = ("input_resolution", "context_length", "vocab_size")
# Upstream reads these on its own: big_vision's weights.
NUMPY = (".npz", ".npy")
ZIP = b"PK\x03\x04"
NOT_READ = "not read because that can run code; where you trust the file, save its state dict alone"


def read(path: str | Path) -> dict[str, Tensor]:
    """The state dict of the one model in a file, under open_clip's names; torch's files are mapped.

    Raises InputError, which says what the file is, if it is not certain which weights are meant.
    """
    path = Path(path)
    content = _content(path)
    return named(_state(content, path), path)


def load(model: Any, path: str | Path, name: str = "this model", *, resize: bool = True) -> None:
    """Upstream's `load_checkpoint`, for any file that `read` takes, and for big_vision's.

    Args:
        model: to be loaded into.
        path: of the checkpoint.
        name: what to call the model in a sentence.
        resize: let upstream stretch positional embeddings of another size.

    Raises:
        InputError: the file cannot be read, or does not fit the model.
    """
    _load(_factory().load_checkpoint, model, path, name, resize)


@contextmanager
def loading(name: str) -> Iterator[list[str]]:
    """Within it, upstream itself loads checkpoints as `load` does; gives the files that it loaded.

    `name` is what to call the model in a sentence.
    """
    factory = _factory()
    original = factory.load_checkpoint
    files: list[str] = []

    def load_checkpoint(model: Any, checkpoint_path: str, *_: Any, **__: Any) -> None:
        _load(original, model, checkpoint_path, name, resize=True)
        files.append(checkpoint_path)

    factory.load_checkpoint = load_checkpoint
    try:
        yield files
    finally:
        factory.load_checkpoint = original


def _load(upstream: Callable[..., Any], model: Any, path: str | Path, name: str, resize: bool) -> None:
    """`load`, by upstream's function, whose reader of files is ours meanwhile."""

    def load_state_dict(checkpoint_path: str, *_: Any, **__: Any) -> dict[str, Tensor]:
        weights = read(checkpoint_path)
        if not resize:
            _require_same_size(model, weights, path, name)
        return weights

    factory = _factory()
    original = factory.load_state_dict
    factory.load_state_dict = load_state_dict
    try:
        upstream(model, str(path))
    except InputError:
        raise
    except Exception as error:  # names, shapes, assertions about widths
        reason = first_line(error)
        if reason.startswith("Error(s) in loading"):
            reason = str(error).splitlines()[1].strip()
        raise InputError(f"{path}: is not of the architecture of {name} ({reason:.160})") from error
    finally:
        factory.load_state_dict = original


def _factory() -> Any:
    return importlib.import_module("open_clip.factory")


def named(state: Mapping[str, Tensor], path: str | Path) -> dict[str, Tensor]:
    """A state dict under the names of the model in it, without what its wrappers put before them.

    Args:
        state: of one model, wrapped in whatever way.
        path: where it is from, for the sentences.

    Raises InputError if that is not one whole CLIP and nothing else.
    """
    weights = {_unwrapped(key): value for key, value in state.items()}
    roots = [key.removesuffix(ROOT) for key in weights if f".{key}".endswith(f".{ROOT}")]
    root = roots[0] if len(roots) == 1 else ""
    inside = [key.removeprefix(root) for key in weights]
    if any("lora_" in key for key in inside):
        raise InputError(
            f"{path}: holds a LoRA adapter, which is a change of a model's weights; merge it into that model "
            "(merge_and_unload() of peft) and save the state dict of the result"
        )
    if any(key.startswith(("text_model.", "vision_model.")) for key in inside):
        raise InputError(
            f"{path}: is a model of transformers, whose weights are not named and laid out as open_clip's "
            "are; take the open_clip_* file of the same model, or a tag of --model"
        )
    if any(type(value).__name__ in ("DTensor", "ShardedTensor") for value in weights.values()):
        raise InputError(
            f"{path}: holds one rank's shards of the weights; save the full state dict "
            "(StateDictOptions(full_state_dict=True) of torch.distributed.checkpoint.state_dict)"
        )
    if len(roots) > 1:
        listed = ", ".join(f"{root}*" for root in roots)
        raise InputError(
            f"{path}: holds several models ({listed}), and which one is meant is not certain; save the "
            "state dict of that one alone"
        )
    if not roots:
        parts = ", ".join(dict.fromkeys(f"{key.split('.')[0]}.*" if "." in key else key for key in weights))
        raise InputError(
            f"{path}: holds no whole CLIP, for there is no {ROOT} among its weights ({parts:.100}); save the "
            "state dict of the whole model"
        )
    outside = [key for key in weights if not key.startswith(root)]
    if outside:
        raise InputError(
            f"{path}: holds other weights than those of the model {root}* ({outside[0]}{_more(outside)}); "
            "save the state dict of that model alone"
        )
    return {key: value for key, value in zip(inside, weights.values(), strict=True) if key not in NUMBERS}


def _unwrapped(key: str) -> str:
    for wrapper in WRAPPERS:
        key = key.replace(wrapper, "")
    return key


def examine(path: Path) -> None:
    """Stop on a file that cannot be a checkpoint, as far as its first bytes and its end tell.

    Raises InputError.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder{of_folder(path)}")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with path.open("rb") as file:
        head = file.read(512)
    start = head.lstrip()[:20].lower()
    if not head:
        raise InputError(f"{path}: is empty; copy or download it again")
    if start.startswith(b"version https://git"):
        raise InputError(
            f"{path}: is a pointer of git-lfs, in place of the file itself; get that with `git lfs pull`"
        )
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise InputError(f"{path}: is a web page, in place of the file itself; download it again")
    if start.startswith((b"{", b"[")):
        raise InputError(f"{path}: is text in JSON, not weights; name the file that has them")
    if head.startswith(b"\x1f\x8b"):
        raise InputError(f"{path}: is compressed by gzip; unpack it, and name the checkpoint in it")
    if head.startswith(ZIP):
        _examine_archive(path)
    elif not (head.startswith((b"\x80", b"\x93NUMPY")) or head[8:9] == b"{"):
        raise InputError(f"{path}: is in no format of torch or safetensors; name the file of the weights")


def _examine_archive(path: Path) -> None:
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path}: is cut off, for the end of its archive is missing; copy it again")
    with zipfile.ZipFile(path) as archive:
        names = {name.rpartition("/")[2] for name in archive.namelist()}
    if "constants.pkl" in names:
        raise InputError(
            f"{path}: is a TorchScript archive, as OpenAI published its weights (the tag openai), {NOT_READ}"
        )
    if "data.pkl" not in names and path.suffix not in NUMPY:
        raise InputError(f"{path}: is an archive of other files; unpack it, and name the checkpoint in it")


def of_folder(path: Path) -> str:
    """What to do about a folder that was given as a checkpoint."""
    if any(path.glob("*.distcp")):
        return (
            " with a part of the weights for each rank; join them: "
            f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {path} FILE"
        )
    return "; name the checkpoint file in it"


def _content(path: Path) -> Any:
    """What a file of torch or safetensors holds, told apart by its content."""
    import torch

    examine(path)
    with path.open("rb") as file:
        head = file.read(9)
    if head[8:] == b"{":
        return _safetensors(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles that torch did not write
            return torch.load(path, map_location="cpu", weights_only=True, mmap=head.startswith(ZIP))
    except pickle.UnpicklingError as error:
        raise InputError(_code(path)) from error
    except Exception as error:  # whatever a broken file leads to
        raise InputError(f"{path}: cannot be read as a checkpoint ({first_line(error)})") from error


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise InputError(f"{path}: is cut off or broken ({first_line(error)}); copy it again") from error


def _code(path: Path) -> str:
    """A sentence on a file with more in it than tensors and plain types."""
    import torch

    try:
        found = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        names = sorted(name for name in found if not name.startswith("builtins."))
    except Exception:  # a pickle that torch did not write
        names = []
    if any(name.startswith("torch.nn.modules.") for name in names):
        return f"{path}: holds a whole pickled model, {NOT_READ}"
    if names:
        return f"{path}: holds objects besides weights ({names[0]}{_more(names)}), {NOT_READ}"
    return f"{path}: is no checkpoint, or one that only running its code could read"


def _state(content: Any, path: Path) -> Mapping[str, Tensor]:
    """The one state dict in what a file holds."""
    if not isinstance(content, Mapping):
        raise InputError(f"{path}: holds a {type(content).__name__}, not the state dict of a model")
    if isinstance(found := content.get("state_dict"), Mapping):
        return found  # as upstream does, whatever stands next to it
    found = {str(key): value for key, value in content.items() if is_state(value)}
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        raise InputError(
            f"{path}: holds several sets of weights ({', '.join(found)}), and which one is meant is not "
            "certain; save that one alone"
        )
    if is_state(content):
        return content
    entries = ", ".join(map(str, content)) or "nothing"
    if "param_groups" in content or isinstance(content.get("optimizer"), Mapping):
        raise InputError(
            f"{path}: holds the state of an optimizer, without weights of a model ({entries:.100}); name "
            "the file that has them"
        )
    raise InputError(f"{path}: holds no weights of a model ({entries:.100}); name the file that has them")


def is_state(value: Any) -> bool:
    """Whether this is a state dict: tensors by name, and nothing else."""
    from torch import Tensor

    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in value.items())
    )


def _require_same_size(model: Any, weights: Mapping[str, Tensor], path: str | Path, name: str) -> None:
    """Stop on positional embeddings of other sizes, which upstream would interpolate without a word."""
    own = model.state_dict()
    for key, tensor in weights.items():
        if "positional_embedding" in key and key in own and own[key].shape != tensor.shape:
            raise InputError(
                f"{path}: is not of the architecture of {name} ({key} is {list(tensor.shape)} there and "
                f"{list(own[key].shape)} here)"
            )


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def first_line(error: BaseException) -> str:
    """The first line of an error's message that is not blank, or the name of its type."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
