"""A study's file: what is trained on what, how it is evaluated, and against what it is compared."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from open_clip_ext.errors import InputError
from open_clip_ext.plugins import nearest

Value = str | int | float | bool | list[Any]
Flags = Mapping[str, Value]

# Flags that the study gives itself, and where they are set.
OWN = {
    "model": "[bases.NAME]",
    "pretrained": "[bases.NAME]",
    "loss": "[methods.NAME]",
    "loss-cfg": "[methods.NAME.options]",
    "seed": "`seeds`",
    **dict.fromkeys(
        ("name", "logs", "resume", "save-frequency", "save-most-recent", "delete-previous-checkpoint"),
        "the study itself",
    ),
}
BASE = "base"  # the row of the models to start from
_BOTH = "its value is chosen by `choose`; leave one of the two out"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
# Of the tuned model in its mixtures with the base; 0 and 1 are always evaluated.
WEIGHTS = (0.2, 0.4, 0.6, 0.8)


@dataclass(frozen=True)
class Change:
    """What a base changes of a method: options of the loss and flags of the trainer, over its own."""

    options: Mapping[str, Value] = field(default_factory=dict)
    flags: Flags = field(default_factory=dict)


@dataclass(frozen=True)
class Base:
    """A model to start from.

    Attributes:
        name: in tables.
        model: upstream's `--model`.
        pretrained: upstream's `--pretrained`, a tag or a file; empty for a `local-dir:` model.
        activation: `gelu` or `quickgelu` of a file that does not say; empty where it is known.
        flags: of the trainer, for this base only.
        changes: of methods, by their names, for this base only.
        dev: its own benchmarks to choose on, in place of the study's.
        reported: its own benchmarks to report, in place of the study's.
    """

    name: str
    model: str
    pretrained: str
    flags: Flags
    dev: Sequence[Sequence[str]] = ()
    reported: Sequence[Sequence[str]] = ()
    activation: str = ""
    changes: Mapping[str, Change] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """A way to fine-tune.

    Attributes:
        name: in tables.
        loss: upstream's `--loss`.
        options: of the loss, for `--loss-cfg`.
        flags: of the trainer, for this method only.
        tried: flags with the values to choose from, on the dev benchmarks.
    """

    name: str
    loss: str
    options: Mapping[str, Value]
    flags: Flags
    tried: Mapping[str, Sequence[Value]]

    def choices(self) -> list[dict[str, Value]]:
        """What may be chosen: each value of the one flag in `tried`; nothing to choose is one choice."""
        return [{flag: value} for flag, values in self.tried.items() for value in values] or [{}]

    def on(self, base: Base) -> Method:
        """The method as it is trained from a base: with the flags of the base, and its changes."""
        change = base.changes.get(self.name, Change())
        return replace(
            self,
            options={**self.options, **change.options},
            flags={**base.flags, **self.flags, **change.flags},
        )


@dataclass(frozen=True)
class Study:
    """A study, as its file says.

    Attributes:
        file: its path.
        seeds: of the trainer.
        weights: of the tuned model in its mixtures with the base, between 0 and 1.
        reference: names of methods that the others are compared with.
        at_once: trainings at a time on this machine.
        processes: of each training, one for each GPU.
        bases: to start from.
        methods: to compare.
        train: flags of all trainings.
        dev: benchmarks that everything is chosen on, `[name, "key=value", ...]` each.
        reported: benchmarks that are told.
        title: of the report.
        notes: what its readers should know, a paragraph each.
        text: the file as it was read; it may be edited while the study runs.
    """

    file: Path
    seeds: Sequence[int]
    weights: Sequence[float]
    reference: Sequence[str]
    at_once: int
    processes: int
    bases: Sequence[Base]
    methods: Sequence[Method]
    train: Flags
    dev: Sequence[Sequence[str]]
    reported: Sequence[Sequence[str]]
    title: str = ""
    notes: Sequence[str] = ()
    text: str = ""

    @property
    def folder(self) -> Path:
        """Where its commands run: paths in the file are relative to the file."""
        return self.file.parent


def read(file: Path) -> Study:
    """Read a study.

    Raises InputError if the file is broken, or holds what is no study: an unknown or missing entry, a name
    that is no file name, a value of the wrong type. Whether losses, data and benchmarks exist is looked at
    by `check`.
    """
    try:
        text = file.read_text(encoding="utf-8")
        content = tomllib.loads(text)
    except (OSError, UnicodeError) as error:
        raise InputError(f"{file}: cannot be read ({error})") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{file}: broken TOML ({error})") from error
    table = Table(file, "", content)
    study = Study(
        file=file.resolve(),
        seeds=table.take("seeds", [0], _list_of(int)),
        weights=table.take("weights", list(WEIGHTS), _list_of(int, float)),
        reference=table.take("reference", [], _list_of(str)),
        at_once=table.take("at_once", 1, _at_least_1),
        processes=table.take("processes", 1, _at_least_1),
        train=_flags(table.table("train")),
        bases=[_base(part) for part in table.tables("bases")],
        methods=[_method(part) for part in table.tables("methods")],
        dev=_benchmarks(table, "dev"),
        reported=_benchmarks(table, "reported"),
        title=table.take("title", file.stem, _text),
        notes=table.take("notes", [], _list_of(str)),
        text=text,
    )
    table.finish()
    if not study.seeds or len(set(study.seeds)) < len(study.seeds):
        raise InputError(f"{file}: seeds = {list(study.seeds)}: give at least one, each once")
    if min(study.seeds) < 0:
        raise InputError(f"{file}: seeds = {list(study.seeds)}: a seed is at least 0")
    for weight in study.weights:
        if not 0 < weight < 1:
            raise InputError(
                f"{file}: weights: {weight:g} is not between 0 (the base) and 1 (the tuned model)"
            )
    # Folders of mixtures have three digits.
    if len({f"{weight:.3g}" for weight in (0, 1, *study.weights)}) < 2 + len(study.weights):
        raise InputError(
            f"{file}: weights = {list(study.weights)}: give each once, with three digits at most"
        )
    names = [method.name for method in study.methods]
    if BASE in names:
        raise InputError(f"{file}: [methods.{BASE}]: the models to start from have this name; give another")
    if len(set(study.reference)) < len(study.reference):
        raise InputError(f"{file}: reference = {list(study.reference)}: give each once")
    for name in study.reference:
        if name not in names:
            raise InputError(f"{file}: reference: no method {name}{nearest(name, names)}")
    for base in study.bases:
        for name in base.changes:
            if name not in names:
                raise InputError(
                    f"{file}: [bases.{base.name}.methods.{name}]: no method {name}{nearest(name, names)}"
                )
            for flag in study.methods[names.index(name)].tried.keys() & base.changes[name].flags.keys():
                raise InputError(f"{file}: [bases.{base.name}.methods.{name}.flags] {flag}: {_BOTH}")
        for what in ("dev", "reported"):
            if not (getattr(base, what) or getattr(study, what)):
                raise InputError(f"{file}: no [[{what}]]: name at least one benchmark")
    return study


class Table:
    """A table of the file, whose entries are taken one by one; what is left at the end is unknown."""

    def __init__(self, file: Path, name: str, content: object) -> None:
        self.file, self.name = file, name
        if not isinstance(content, dict):
            raise InputError(f"{file}: {name} must be a table")
        self._left = dict(content)
        self._known: list[str] = []

    def wrong(self, key: str, what: str) -> InputError:
        """The error about an entry."""
        return InputError(f"{self.file}: {f'[{self.name}] ' if self.name else ''}{key}: {what}")

    def take(self, key: str, default: Any, read: Any) -> Any:
        """The value of an entry, as `read` returns it; a default of None means that it must be there."""
        self._known.append(key)
        if key not in self._left:
            if default is None:
                raise self.wrong(key, "missing")
            return default
        try:
            return read(self._left.pop(key))
        except (TypeError, ValueError) as error:
            raise self.wrong(key, str(error)) from error

    def table(self, key: str) -> Table:
        """A table in it; empty if it is not there."""
        self._known.append(key)
        return Table(self.file, ".".join(filter(None, (self.name, key))), self._left.pop(key, {}))

    def tables(self, key: str, needed: bool = True) -> list[Table]:
        """The named tables in it, of which there must be one if they are needed."""
        found = self.table(key)
        names = list(found._left)
        if needed and not names:
            raise InputError(f"{self.file}: no [{key}.NAME]: name at least one")
        for name in names:
            if not NAME.fullmatch(name):
                raise InputError(
                    f"{self.file}: [{key}.{name}]: a name has letters, digits, and .+_- between them"
                )
        return [found.table(name) for name in names]

    def rest(self) -> dict[str, Any]:
        """All entries that were not taken."""
        left, self._left = self._left, {}
        return left

    def finish(self) -> None:
        """Refuse what was not taken."""
        for key in self._left:
            raise self.wrong(key, f"unknown{nearest(key, self._known)}")


def _base(table: Table) -> Base:
    model = table.take("model", None, _text)
    pretrained = table.take("pretrained", "", _text)
    if not pretrained and not model.startswith("local-dir:"):
        raise table.wrong("pretrained", "missing; a base is a trained model, such as openai or a checkpoint")
    made = Base(
        name=table.name.removeprefix("bases."),
        model=model,
        pretrained=pretrained,
        flags=_flags(table.table("train")),
        dev=_benchmarks(table, "dev"),
        reported=_benchmarks(table, "reported"),
        activation=table.take("activation", "", _activation),
        changes={
            part.name.removeprefix(f"{table.name}.methods."): _change(part)
            for part in table.tables("methods", needed=False)
        },
    )
    table.finish()
    return made


def _change(table: Table) -> Change:
    made = Change(options=_values(table.table("options")), flags=_flags(table.table("flags")))
    table.finish()
    return made


def _method(table: Table) -> Method:
    name = table.name.removeprefix("methods.")
    tried = _flags(table.table("choose"))
    if len(tried) > 1:
        raise table.wrong("choose", f"{', '.join(tried)}: choose one flag at a time")
    for flag, values in tried.items():
        if not isinstance(values, list) or len(values) < 2:
            raise table.wrong("choose", f"{flag} must be a list of at least two values")
        if len(set(values)) < len(values):
            raise table.wrong("choose", f"{flag}: give each value once")
    flags = _flags(table.table("flags"))
    for flag in tried.keys() & flags.keys():
        raise table.wrong("flags", f"{flag}: {_BOTH}")
    made = Method(
        name=name,
        loss=table.take("loss", name, _text),
        options=_values(table.table("options")),
        flags=flags,
        tried=tried,  # type: ignore[arg-type]
    )
    table.finish()
    return made


def _flags(table: Table) -> dict[str, Value]:
    """Flags of the trainer without their dashes. Raises InputError for one that the study gives itself."""
    found = {}
    for key, value in _values(table).items():
        flag = key.removeprefix("--").replace("_", "-")
        if flag in OWN:
            raise table.wrong(key, f"set by {OWN[flag]}; leave it out")
        found[flag] = value
    return found


def _values(table: Table) -> dict[str, Value]:
    found = table.rest()
    for key, value in found.items():
        items = value if isinstance(value, list) else [value]
        if not all(isinstance(item, str | int | float | bool) for item in items):
            raise table.wrong(key, "must be text, a number, true or false, or a list of such")
    return found


def _benchmarks(table: Table, key: str) -> list[list[str]]:
    """`[name, "key=value", ...]` of each `[[key]]`."""

    def read(entries: object) -> list[list[str]]:
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise TypeError(f"write each as [[{key}]]")
        found = []
        for entry in entries:
            name = entry.get("benchmark")
            if not isinstance(name, str):
                raise TypeError('each has benchmark = "NAME"')
            found.append([name, *(f"{k}={v}" for k, v in entry.items() if k != "benchmark")])
        return found

    made: list[list[str]] = table.take(key, [], read)
    return made


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a text")
    return value


def _activation(value: object) -> str:
    if value not in ("gelu", "quickgelu"):
        raise TypeError(f"{value!r} is neither gelu nor quickgelu")
    return str(value)


def _at_least_1(value: object) -> int:
    if type(value) is not int or value < 1:
        raise TypeError(f"{value!r} is not a whole number of at least 1")
    return value


def _list_of(*types: type) -> Any:
    def read(value: object) -> list[Any]:
        if not isinstance(value, list) or not all(type(item) in types for item in value):
            raise TypeError(f"must be a list of {'numbers' if float in types else types[0].__name__}")
        return value

    return read
