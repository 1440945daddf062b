"""What is registered in an entry-point group of ours, and the options it can be told.

Losses, generators of negatives, benchmarks and scorers are found the same way: `name = module:object` in a
group, built-in ones like anyone else's. Their options are annotated keyword parameters, read from
the signature and given on the command line as KEY=VALUE.
"""

from __future__ import annotations

import difflib
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from open_clip_ext.errors import InputError


@dataclass(frozen=True)
class Option:
    """One KEY=VALUE option."""

    name: str
    hint: Any
    default: Any

    def parse(self, text: str, flag: str) -> Any:
        """The value that `text` stands for.

        Raises InputError, which names `flag`, when it is not of the option's type.
        """
        for hint in alternatives(self.hint):
            try:
                return _convert(text, hint)
            except ValueError:
                continue
        raise InputError(
            f"{flag} {self.name}={text}: {self.name} must be {describe(self.hint)}, not {text!r}"
        )


def entries(group: str) -> dict[str, EntryPoint]:
    """Everything registered in `group` by name, not yet loaded."""
    return {entry.name: entry for entry in sorted(entry_points(group=group), key=lambda e: e.name)}


def load(known: Mapping[str, EntryPoint], name: str, flag: str, kind: str) -> Any:
    """What is registered as `name`.

    Args:
        known: the entries of its group.
        name: one of them.
        flag: what the user gave the name to, for the sentence.
        kind: what it is, in the singular, for the sentence.

    Raises InputError if it is unknown or broken.
    """
    if name not in known:
        names = ", ".join(known) or "none; install open_clip_ext with pip so that its entry points exist"
        hint = nearest(name, known)
        raise InputError(f"{flag} {name}: no such {kind}{hint}; registered {_plural(kind)}: {names}")
    try:
        return known[name].load()
    except Exception as error:
        raise InputError(
            f"{flag} {name}: {known[name].value} cannot be loaded ({type(error).__name__}: {error})"
        ) from error


def nearest(name: str, known: Iterable[str]) -> str:
    """The known names that look like `name`, as a part of a sentence; empty if none does."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f" (nearest: {', '.join(near)})" if near else ""


def options(factory: Callable[..., Any], ignore: Iterable[str] = ()) -> dict[str, Option]:
    """The keyword options of a class or function, in the order of its signature."""
    function = factory.__init__ if isinstance(factory, type) else factory  # type: ignore[misc]
    hints = typing.get_type_hints(function)
    return {
        name: Option(name, hints.get(name, str), parameter.default)
        for name, parameter in inspect.signature(factory).parameters.items()
        if name not in set(ignore)
        and parameter.kind not in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    }


def parse_options(known: Mapping[str, Option], pairs: Sequence[str], flag: str, owner: str) -> dict[str, Any]:
    """`["key=value", ...]` as typed options; only the given ones.

    Raises InputError on an unknown key, a wrong type or a key given twice.
    """
    chosen: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise InputError(f"{flag} {pair}: expected KEY=VALUE")
        if key not in known:
            names = ", ".join(known) or "none"
            raise InputError(f"{flag} {key}: {owner} has no such option; its options: {names}")
        if key in chosen:
            raise InputError(f"{flag} {key}: given twice")
        chosen[key] = known[key].parse(text, flag)
    return chosen


def require(known: Mapping[str, Option], chosen: Mapping[str, Any], flag: str) -> None:
    """Raise InputError if an option without a default is not among those chosen."""
    missing = [
        f"{option.name}={option.name.upper()}"
        for option in known.values()
        if option.default is inspect.Parameter.empty and option.name not in chosen
    ]
    if missing:
        raise InputError(f"{flag}: needs {' '.join(missing)}")


def describe(hint: Any) -> str:
    """A type hint in words: `float`, `'mean' or 'max' or float`."""
    return " or ".join(repr(hint) if isinstance(hint, str) else hint.__name__ for hint in alternatives(hint))


def alternatives(hint: Any) -> list[Any]:
    """The types and literal values that a hint allows, literals first as given."""
    origin = typing.get_origin(hint)
    if origin is Literal:
        return list(typing.get_args(hint))
    if origin in (typing.Union, types.UnionType):
        return [leaf for part in typing.get_args(hint) for leaf in alternatives(part)]
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


def _plural(kind: str) -> str:
    return kind + ("es" if kind.endswith("s") else "s")
