"""`open-clip-ext eval list`: the registered benchmarks and scorers. Also finds and calls their readers.

A reader is a function `read(*, annotations: Path, images: Path, ...) -> Benchmark` in the entry-point group
`open_clip_ext.benchmarks`. Its annotated keywords are the options of `--benchmark NAME KEY=VALUE ...`.
"""

from __future__ import annotations

import argparse
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from open_clip_ext import plugins
from open_clip_ext.errors import InputError
from open_clip_ext.evaluation import scorer
from open_clip_ext.evaluation.items import GROUP, Benchmark

FLAG = "--benchmark"


@dataclass(frozen=True)
class Source:
    """A registered benchmark with the options for its reader, already parsed."""

    name: str
    reader: Callable[..., Benchmark] = field(repr=False)
    options: dict[str, Any]
    flag: str = FLAG

    def read(self) -> Benchmark:
        """Call the reader; any exception from it becomes an InputError."""
        try:
            return self.reader(**self.options)
        except InputError:
            raise
        except Exception as error:  # third-party readers may raise anything
            kind = type(error).__name__
            raise InputError(
                f"{self.flag} {self.name}: its files cannot be read ({kind}: {error})"
            ) from error


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that select benchmarks."""
    group = parser.add_argument_group("benchmarks")
    group.add_argument(
        FLAG,
        nargs="+",
        action="append",
        default=[],
        metavar=("NAME", "KEY=VALUE"),
        help="a benchmark and its files, such as `sugarcrepe annotations=FOLDER images=FOLDER`; repeat the "
        "flag for more; `open-clip-ext eval list` lists all benchmarks",
    )
    group.add_argument(
        "--data",
        type=Path,
        metavar="FILE",
        help="a JSON file {name: {key: value}} with benchmarks and their files; --benchmark NAME then "
        "selects from it",
    )


def sources(chosen: Sequence[Sequence[str]], data: Path | None = None, flag: str = FLAG) -> list[Source]:
    """The benchmarks selected by `--benchmark` and `--data`.

    Args:
        chosen: `[NAME, "KEY=VALUE", ...]` of each `--benchmark`.
        data: the file of `--data`; without `chosen` all its benchmarks are selected.
        flag: the flag that the user gave the benchmarks to, for error messages.

    Raises InputError if a name or option is unknown, or a required option is missing.
    """
    known = _from_file(data) if data else {}
    if not chosen:
        if not known:
            raise InputError(f"{flag}: missing; give at least one, or --data FILE")
        return [_source(name, pairs, data, flag) for name, entries in known.items() for pairs in entries]
    made = []
    for name, *pairs in chosen:
        if pairs or name not in known:
            base = known.get(name, [[]])[0]
            given = {pair.partition("=")[0] for pair in pairs}
            kept = [pair for pair in base if pair.partition("=")[0] not in given]
            made.append(_source(name, [*pairs, *kept], data, flag, len(pairs)))
        else:
            made += [_source(name, entry, data, flag) for entry in known[name]]
    return made


def read(chosen: Sequence[Source]) -> dict[str, tuple[Source, Benchmark]]:
    """Read the benchmarks; return them by their own names.

    Raises InputError if two have the same name.
    """
    found: dict[str, tuple[Source, Benchmark]] = {}
    for source in chosen:
        benchmark = source.read()
        if benchmark.name in found:
            raise InputError(
                f"{source.flag} {source.name}: {benchmark.name} is given twice; evaluate one at a time"
            )
        found[benchmark.name] = (source, benchmark)
    return found


def _source(name: str, pairs: Sequence[str], data: Path | None, given_to: str, typed: int = 0) -> Source:
    """The source of one benchmark; all but the first `typed` of `pairs` are from the file `data`."""
    reader = plugins.load(plugins.entries(GROUP), name, given_to, "benchmark")
    if not callable(reader):
        raise InputError(f"{given_to} {name}: its entry point is not a function that reads it")
    known = plugins.options(reader)
    flag, owner = f"{given_to} {name}", f"benchmark {name}"
    options = plugins.parse_options(known, pairs[:typed], flag, owner)
    for key, value in plugins.parse_options(known, pairs[typed:], flag, owner).items():
        # A path in the file is relative to the file.
        options[key] = data.parent / value if data and isinstance(value, Path) else value
    plugins.require(known, options, flag)
    return Source(name, reader, options, given_to)


def _from_file(data: Path) -> dict[str, list[list[str]]]:
    """`{name: [["key=value", ...], ...]}` of a JSON file."""
    try:
        content = json.loads(data.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"--data {data}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise InputError(f"--data {data}: broken JSON ({error})") from error
    found: dict[str, list[list[str]]] = {}
    if not isinstance(content, dict):
        content = {"": None}
    for name, entry in content.items():
        entries = entry if isinstance(entry, list) else [entry]
        if not all(isinstance(options, dict) for options in entries):
            raise InputError(f'--data {data}: must hold {{"name": {{"key": value, ...}}, ...}}')
        found[name] = [[f"{key}={value}" for key, value in options.items()] for options in entries]
    return found


# --- the command ----------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `eval list`."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these, with all details")


def main(args: argparse.Namespace) -> int:
    """Print the registered benchmarks, and the scorers."""
    known, scorers = plugins.entries(GROUP), plugins.entries(scorer.GROUP)
    for name in args.names or known:
        if name in known or name not in scorers:
            _print(known, name, "benchmark", full=bool(args.names))
    if not args.names:
        print(f"\n{scorer.FLAG} NAME KEY=VALUE ... of `eval run`:\n")
    for name in args.names or scorers:
        if name in scorers:
            _print(scorers, name, "scorer", full=bool(args.names))
    return 0


def _print(known: Mapping[str, EntryPoint], name: str, kind: str, full: bool) -> None:
    made = plugins.load(known, name, "eval list", kind)
    about = (inspect.getdoc(made) or "").strip()
    module = None if inspect.isclass(made) else inspect.getmodule(made)
    headline = ((module.__doc__ or about) if module else about).strip()
    needed = " ".join(
        f"{option.name}={'...' if option.default is inspect.Parameter.empty else option.default}"
        for option in plugins.options(made).values()
    )
    if full:
        head = "" if headline == about else f"{headline}\n\n"
        print(f"{name}\n{head}{about}\n\noptions: {needed or 'none'}\nfrom: {known[name].value}\n")
    else:
        print(f"{name}\n  {headline.splitlines()[0]}\n  {needed}".rstrip())


def note_sources(results: Mapping[str, Any], found: Mapping[str, tuple[Source, Benchmark]]) -> None:
    """Add the reader and its options to the results."""
    for name, (source, _) in found.items():
        results[name]["reader"] = source.name
        results[name]["options"] = {key: str(value) for key, value in source.options.items()}
