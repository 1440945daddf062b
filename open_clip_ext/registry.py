"""The losses that are installed, what they can be told, and whether they keep the contract.

A loss is an entry `name = module:LossClass` in the entry-point group `open_clip_ext.losses`. The
built-in losses are registered there like anyone else's. The contract (see docs/add-a-loss.md) is
read from signatures.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from torch import nn

from open_clip_ext.errors import InputError

GROUP = "open_clip_ext.losses"
DISTRIBUTED_OPTIONS = ("local_loss", "gather_with_grad", "cache_labels", "rank", "world_size")


@dataclass(frozen=True)
class Option:
    """One `--loss-cfg` key of a loss."""

    name: str
    hint: Any
    default: Any

    def parse(self, text: str) -> Any:
        """The value that `text` stands for.

        Raises InputError when it is not of the option's type.
        """
        for hint in _alternatives(self.hint):
            try:
                return _convert(text, hint)
            except ValueError:
                continue
        raise InputError(
            f"--loss-cfg {self.name}={text}: {self.name} must be {describe(self.hint)}, not {text!r}"
        )


def entries() -> dict[str, EntryPoint]:
    """Every registered loss by name, not yet loaded."""
    return {entry.name: entry for entry in sorted(entry_points(group=GROUP), key=lambda e: e.name)}


def load(name: str) -> Any:
    """The class of loss `name`.

    Raises InputError if it is unknown, broken or lacks the contract.
    """
    known = entries()
    if name not in known:
        names = ", ".join(known) or "none; install open_clip_ext with pip so that its entry points exist"
        raise InputError(f"--loss {name}: no such loss; registered losses: {names}")
    try:
        loss = known[name].load()
    except Exception as error:
        raise InputError(
            f"--loss {name}: {known[name].value} cannot be loaded ({type(error).__name__}: {error})"
        ) from error
    lacks = missing_from_contract(loss)
    if lacks:
        raise InputError(f"--loss {name}: {known[name].value} lacks the contract of a loss: {lacks}")
    return loss


def missing_from_contract(loss: Any) -> str:
    """What keeps `loss` from being usable, in words; empty if nothing does."""
    if not (isinstance(loss, type) and issubclass(loss, nn.Module)):
        return "it must be a subclass of torch.nn.Module"
    companions = getattr(loss, "companions", None)
    if not isinstance(companions, Mapping):
        return "it needs a class attribute `companions`, a mapping such as {'neg': 4} or {}"
    init = inspect.signature(loss).parameters
    if not _accepts_any(init):
        absent = [name for name in DISTRIBUTED_OPTIONS if name not in init]
        if absent:
            return f"__init__ must take {', '.join(absent)}"
    forward = inspect.signature(loss.forward).parameters
    if not _accepts_any(forward):
        wanted = ["image_features", "text_features", "logit_scale", "output_dict"]
        wanted += [f"{kind}_{part}" for kind in companions for part in ("text_features", "valid")]
        absent = [name for name in wanted if name not in forward]
        if absent:
            return f"forward must take {', '.join(absent)}"
    return ""


def options(loss: type[nn.Module]) -> dict[str, Option]:
    """The keyword options of a loss, in the order of its signature."""
    hints = typing.get_type_hints(loss.__init__)
    return {
        name: Option(name, hints.get(name, str), parameter.default)
        for name, parameter in inspect.signature(loss).parameters.items()
        if name not in DISTRIBUTED_OPTIONS and parameter.kind is not inspect.Parameter.VAR_KEYWORD
    }


def parse_options(name: str, loss: type[nn.Module], pairs: Sequence[str]) -> dict[str, Any]:
    """`["key=value", ...]` as typed options of `loss`, the others at their defaults.

    Raises InputError on anything that cannot count: an unknown key, a wrong type, an option without
    effect.
    """
    known = options(loss)
    chosen: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise InputError(f"--loss-cfg {pair}: expected KEY=VALUE")
        if key not in known:
            names = ", ".join(known) or "none"
            raise InputError(f"--loss-cfg {key}: --loss {name} has no such option; its options: {names}")
        if key in chosen:
            raise InputError(f"--loss-cfg {key}: given twice")
        chosen[key] = known[key].parse(text)
    try:
        idle: Mapping[str, str] = getattr(loss(**chosen), "idle_options", dict)()
    except (TypeError, ValueError) as error:
        raise InputError(f"--loss {name}: {error}") from error
    for key in chosen:
        if key in idle:
            raise InputError(f"--loss-cfg {key}: it has no effect because {idle[key]}; leave it out")
    return {option.name: option.default for option in known.values()} | chosen


def describe(hint: Any) -> str:
    """A type hint in words: `float`, `'mean' or 'max' or float`."""
    return " or ".join(repr(hint) if isinstance(hint, str) else hint.__name__ for hint in _alternatives(hint))


def _alternatives(hint: Any) -> list[Any]:
    """The types and literal values that a hint allows, literals first as given."""
    origin = typing.get_origin(hint)
    if origin is Literal:
        return list(typing.get_args(hint))
    if origin in (typing.Union, types.UnionType):
        return [leaf for part in typing.get_args(hint) for leaf in _alternatives(part)]
    return [hint]


def _convert(text: str, hint: Any) -> Any:
    if isinstance(hint, str):  # a literal
        if text == hint:
            return hint
        raise ValueError(text)
    if hint is type(None):
        if text.lower() == "none":
            return None
        raise ValueError(text)
    if hint is bool:
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        raise ValueError(text)
    return hint(text)


def _accepts_any(parameters: Mapping[str, inspect.Parameter]) -> bool:
    return any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
