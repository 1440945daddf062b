"""Read weights from files of many layouts, and explain files that contain none.

Upstream reads a state dict, at the top level or under `state_dict`, with or without the prefix `module.`.
This module also reads other layouts if the names show without doubt which model is in the file. Every
open_clip model has a `logit_scale` at its root, so the prefix of that name is the prefix of all its names.
"""

from __future__ import annotations

import importlib
import pickle
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from open_clip_ext.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

# Inserted by `torch.compile`, FSDP and activation checkpointing into the names of wrapped modules.
WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
ROOT = "logit_scale"
BIAS = "logit_bias"  # at the root of SigLIP
# Plain numbers in the state dict of OpenAI's TorchScript archives; upstream drops them too.
NUMBERS = ("input_resolution", "context_length", "vocab_size")
# big_vision's weights, which upstream reads itself.
NUMPY = (".npz", ".npy")
ZIP = b"PK\x03\x04"
NOT_READ = "not read because that can run code; if you trust the file, save only its state dict"


def read(path: str | Path) -> dict[str, Tensor]:
    """The state dict of the one model in a file, under open_clip's names; torch's files are memory-mapped.

    Raises InputError, which says what the file is, if it does not contain exactly one model.
    """
    path = Path(path)
    content = _content(path)
    return named(_state(content, path), path)


def load(model: Any, path: str | Path, name: str = "this model", *, resize: bool = True) -> None:
    """Upstream's `load_checkpoint`, for any file that `read` accepts, and for big_vision's.

    Args:
        model: the model to load the weights into.
        path: of the checkpoint.
        name: how error messages call the model.
        resize: let upstream interpolate positional embeddings of another size.

    Raises:
        InputError: the file cannot be read, or does not fit the model.
    """
    _load(_factory().load_checkpoint, model, path, name, resize)


@contextmanager
def loading(name: str) -> Iterator[list[str]]:
    """Within this context upstream loads checkpoints as `load` does. Yields the list of files it loaded.

    `name` is how error messages call the model.
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
    """`load` by upstream's function, with its file reader replaced by ours during the call."""

    def load_state_dict(checkpoint_path: str, *_: Any, **__: Any) -> dict[str, Tensor]:
        weights = read(checkpoint_path)
        if BIAS in weights and not has_bias(model):
            raise InputError(
                f"{path}: has a logit bias (SigLIP), and {name} has none; choose a SigLIP model, or give the "
                "trainer --siglip, which adds one"
            )
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
    """A state dict under the model's own names, without the prefixes of its wrappers.

    Args:
        state: of one model, with any wrappers.
        path: of its file, for error messages.

    Raises InputError if the state dict is not that of exactly one complete CLIP model.
    """
    weights = {_unwrapped(key): value for key, value in state.items()}
    roots = [key.removesuffix(ROOT) for key in weights if f".{key}".endswith(f".{ROOT}")]
    root = roots[0] if len(roots) == 1 else ""
    inside = [key.removeprefix(root) for key in weights]
    if any("lora_" in key for key in inside):
        raise InputError(
            f"{path}: holds a LoRA adapter, which only changes a model's weights; merge it into that model "
            "(merge_and_unload() of peft) and save the state dict of the result"
        )
    if any(key.startswith(("text_model.", "vision_model.")) for key in inside):
        raise InputError(
            f"{path}: is a transformers model, whose weights have other names and shapes than open_clip's; "
            "use the open_clip_* file of the same model, or a tag of --model"
        )
    if any(type(value).__name__ in ("DTensor", "ShardedTensor") for value in weights.values()):
        raise InputError(
            f"{path}: holds one rank's shards of the weights; save the full state dict "
            "(StateDictOptions(full_state_dict=True) of torch.distributed.checkpoint.state_dict)"
        )
    if len(roots) > 1:
        listed = ", ".join(f"{root}*" for root in roots)
        raise InputError(
            f"{path}: holds several models ({listed}), so it is unclear which one is meant; save only "
            "the state dict of that one"
        )
    if not roots:
        parts = ", ".join(dict.fromkeys(f"{key.split('.')[0]}.*" if "." in key else key for key in weights))
        raise InputError(
            f"{path}: holds no complete CLIP: there is no {ROOT} among its weights ({parts:.100}); save the "
            "state dict of the whole model"
        )
    outside = [key for key in weights if not key.startswith(root)]
    if outside:
        raise InputError(
            f"{path}: holds other weights next to the model {root}* ({outside[0]}{_more(outside)}); "
            "save only the state dict of that model"
        )
    return {key: value for key, value in zip(inside, weights.values(), strict=True) if key not in NUMBERS}


def _unwrapped(key: str) -> str:
    for wrapper in WRAPPERS:
        key = key.replace(wrapper, "")
    return key


def examine(path: Path) -> None:
    """Check the first bytes and the end of a file.

    Raises InputError if it cannot be a checkpoint.
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
            f"{path}: is a git-lfs pointer, not the file itself; get the file with `git lfs pull`"
        )
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise InputError(f"{path}: is a web page, not the file itself; download it again")
    if start.startswith((b"{", b"[")):
        raise InputError(f"{path}: is JSON text, not weights; name the file with the weights")
    if head.startswith(b"\x1f\x8b"):
        raise InputError(f"{path}: is compressed with gzip; unpack it, and name the checkpoint in it")
    if head.startswith(ZIP):
        _examine_archive(path)
    elif not (head.startswith((b"\x80", b"\x93NUMPY")) or head[8:9] == b"{"):
        raise InputError(f"{path}: is neither a torch nor a safetensors file; name the file with the weights")


def _examine_archive(path: Path) -> None:
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path}: is cut off: the end of its archive is missing; copy it again")
    with zipfile.ZipFile(path) as archive:
        names = {name.rpartition("/")[2] for name in archive.namelist()}
    if "constants.pkl" in names:
        raise InputError(
            f"{path}: is a TorchScript archive, like OpenAI's published weights (the tag openai), {NOT_READ}"
        )
    if "data.pkl" not in names and path.suffix not in NUMPY:
        raise InputError(f"{path}: is an archive of other files; unpack it, and name the checkpoint in it")


def of_folder(path: Path) -> str:
    """Advice for a folder that was given as a checkpoint."""
    if any(path.glob("*.distcp")):
        return (
            " with the weights split by rank; join them: "
            f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {path} FILE"
        )
    return "; name the checkpoint file in it"


def _content(path: Path) -> Any:
    """The content of a torch or safetensors file, whose format is recognised by its first bytes."""
    import torch

    examine(path)
    with path.open("rb") as file:
        head = file.read(9)
    if head[8:] == b"{":
        return _safetensors(path)
    try:
        with numpy_numbers(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles that torch did not write
            return torch.load(path, map_location="cpu", weights_only=True, mmap=head.startswith(ZIP))
    except pickle.UnpicklingError as error:
        raise InputError(_code(path)) from error
    except Exception as error:  # a broken file can cause any exception
        raise InputError(f"{path}: cannot be read as a checkpoint ({first_line(error)})") from error


def numpy_numbers() -> AbstractContextManager[None]:
    """Lets `torch.load(weights_only=True)` read float64 numbers of numpy, which run no code.

    The learning rate is one in upstream's checkpoints before 2.30. Upstream itself reads them with torch 2.6
    and later in 2.28 alone.
    """
    import numpy as np
    import torch

    scalar: Any = np.float64(0).__reduce__()[0]
    old, new = "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"  # in numpy 1 and 2
    types = (np.dtype, type(np.dtype(np.float64)))
    return torch.serialization.safe_globals([(scalar, old), (scalar, new), *types])


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise InputError(f"{path}: is cut off or broken ({first_line(error)}); copy it again") from error


def _code(path: Path) -> str:
    """The error message for a file with objects other than tensors and plain types."""
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
    return f"{path}: is not a checkpoint, or one that cannot be read without running its code"


def _state(content: Any, path: Path) -> Mapping[str, Tensor]:
    """The one state dict in the content of a file."""
    if not isinstance(content, Mapping):
        raise InputError(f"{path}: holds a {type(content).__name__}, not the state dict of a model")
    if isinstance(found := content.get("state_dict"), Mapping):
        return found  # as upstream does, whatever else there is
    found = {str(key): value for key, value in content.items() if is_state(value)}
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        raise InputError(
            f"{path}: holds several sets of weights ({', '.join(found)}), so it is unclear which one is "
            "meant; save only that one"
        )
    if is_state(content):
        return content
    entries = ", ".join(map(str, content)) or "nothing"
    if "param_groups" in content or isinstance(content.get("optimizer"), Mapping):
        raise InputError(
            f"{path}: holds the state of an optimizer, but no model weights ({entries:.100}); name "
            "the file with the weights"
        )
    raise InputError(f"{path}: holds no model weights ({entries:.100}); name the file with the weights")


def is_state(value: Any) -> bool:
    """Whether this is a state dict: a mapping from names to tensors, and nothing else."""
    from torch import Tensor

    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in value.items())
    )


def has_bias(model: Any) -> bool:
    """Whether an open_clip model has a logit bias, as SigLIP has."""
    return getattr(model, BIAS, None) is not None


def _require_same_size(model: Any, weights: Mapping[str, Tensor], path: str | Path, name: str) -> None:
    """Refuse positional embeddings of other sizes, which upstream would interpolate silently."""
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
    """The first non-blank line of an error's message, or the name of its type."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
