"""Numbers that papers print, for reference. They are never mixed with measured numbers in one table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True)
class Line:
    """One measure in percent, by model."""

    measure: str
    convention: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class Published:
    """The numbers that one source prints for one benchmark.

    Attributes:
        benchmark: the benchmark, or `zero-shot` for averages over many sets.
        title: the paper.
        where: the file that the numbers were read from.
        convention: how they were measured.
        lines: the numbers.
    """

    benchmark: str
    title: str
    where: str
    convention: str
    lines: tuple[Line, ...]

    @property
    def models(self) -> list[str]:
        """The models of any line."""
        return list(dict.fromkeys(model for line in self.lines for model in line.values))


def tables() -> list[Published]:
    """Everything in published.json, by benchmark and source."""
    content = json.loads(files(__package__).joinpath("published.json").read_text(encoding="utf-8"))
    lines: dict[tuple[str, str], list[Line]] = {}
    for row in content["numbers"]:
        line = Line(row["measure"], row.get("convention", ""), row["values"])
        lines.setdefault((row["benchmark"], row["source"]), []).append(line)
    return [
        Published(benchmark, lines=tuple(own), **content["sources"][source])
        for (benchmark, source), own in lines.items()
    ]


def of(names: Iterable[str], families: Iterable[str]) -> list[Published]:
    """The published tables for some benchmarks, and for averages of their families."""
    shown = [name.removeprefix("wds-").replace("_", "-") for name in names]
    # One reader reads ImageNet and its variants and adds the folder's name; the numbers are ImageNet's.
    shown += ["imagenet" for name in shown if name.startswith("imagenet-")]
    wanted = {*shown, *families}
    return [table for table in tables() if table.benchmark in wanted]
