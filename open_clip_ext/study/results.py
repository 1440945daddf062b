"""What came out of a study: scores of every method, their spread over runs, and paired differences.

A run is one base with one seed. Scores are primary scores of the reported benchmarks, in [0, 1]. A column is
one of these benchmarks, or a family: the mean over its benchmarks.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from open_clip_ext.errors import InputError
from open_clip_ext.evaluation import result_folder
from open_clip_ext.study import parts, timing
from open_clip_ext.study.parts import Chosen, Part
from open_clip_ext.study.settings import BASE, Study, Value

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from open_clip_ext.evaluation.comparison.measures import Paired
    from open_clip_ext.evaluation.items import Row

    Array = npt.NDArray[np.float64]

FAMILIES = ("composition", "zero-shot", "retrieval")

Run = tuple[str, int]  # base and seed


def chosen(study: Study, out: Path) -> dict[tuple[str, str], dict[str, Value]]:
    """The values of `choose`: the highest mean of primary scores on dev, of equal ones the first.

    A method on a base is missing until all its values have been evaluated.
    """
    found: dict[tuple[str, str], list[Part]] = {}
    for part in parts.tried(study, out):
        found.setdefault((part.method, part.base), []).append(part)
    return {
        key: dict(max(tried, key=lambda part: _mean(result_folder.read(part.folder))).choice)
        for key, tried in found.items()
        if all(part.done for part in tried)
    }


def _read(product: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(product.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{product}: cannot be read ({error}); remove its folder, and `study run` makes it again"
        ) from error
    return content


def _mean(content: Mapping[str, Any]) -> float:
    return statistics.fmean(_primary(result) for result in content["benchmarks"].values())


def _primary(result: Mapping[str, Any]) -> float:
    return float(result["scores"][result["primary"]]["value"])


@dataclass(frozen=True)
class Model:
    """A row of the table.

    Attributes:
        method: its name; `BASE` for the models to start from.
        mixed: mixed with its base, by the weight that is best on the dev benchmarks.
        folders: the result folder of each run.
        weights: of the tuned model in each run.
    """

    method: str
    mixed: bool
    folders: Mapping[Run, Path]
    weights: Mapping[Run, float]

    @property
    def name(self) -> str:
        """In tables."""
        return f"{self.method}, mixed" if self.mixed else self.method


@dataclass(frozen=True)
class Score:
    """A column's mean over runs, and its standard deviation over them; 0 for a single run."""

    mean: float
    deviation: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Score:
        """That of the values of all runs."""
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0)


@dataclass(frozen=True)
class Difference:
    """Of two models in one column.

    Attributes:
        mean: over runs.
        low: lower end of the 95 % interval, from resampled images (`evaluation.scoring.bootstrap`).
        high: its upper end.
        runs: one for each run.
    """

    mean: float
    low: float
    high: float
    runs: Sequence[float]

    @property
    def word(self) -> str:
        """`higher` or `lower` if the interval and every run say so; else `not shown`."""
        if self.low > 0 and min(self.runs) > 0:
            return "higher"
        return "lower" if self.high < 0 and max(self.runs) < 0 else "not shown"


class Results:
    """The results of a study as far as it is done.

    Args:
        study: the study.
        out: its folder.
    """

    def __init__(self, study: Study, out: Path) -> None:
        self.study, self.out = study, out
        self.chosen: Chosen = chosen(study, out)
        self.sweeps = [part for part in parts.sweeps(study, out, self.chosen) if part.done]
        self.curves: dict[tuple[str, Run], list[dict[str, Any]]] = {}
        self._swept: dict[tuple[str, Run], dict[str, Any]] = {}
        for part in self.sweeps:
            run = part.base, part.seed
            content = _read(part.product)
            self._swept[part.method, run] = content
            self.curves[part.method, run] = content["curve"]

    @cached_property
    def models(self) -> list[Model]:
        """The bases, then every method that has a result, as it is and mixed."""
        if not self.sweeps:
            return []
        first = {part.base: part for part in reversed(self.sweeps)}
        start = {
            (base.name, 0): first[base.name].folder / "alpha-0"
            for base in self.study.bases
            if base.name in first
        }
        found = [Model(BASE, False, start, dict.fromkeys(start, 0.0))]
        for method in self.study.methods:
            own = [part for part in self.sweeps if part.method == method.name]
            if not own:
                continue
            tuned = {(part.base, part.seed): part.folder / "alpha-1" for part in own}
            found.append(Model(method.name, False, tuned, dict.fromkeys(tuned, 1.0)))
            if self.study.weights:
                weights = {run: float(self._swept[method.name, run]["alpha"]) for run in tuned}
                mixed = {
                    (part.base, part.seed): part.folder / self._at(part, weights[part.base, part.seed])
                    for part in own
                }
                found.append(Model(method.name, True, mixed, weights))
        return found

    def _at(self, part: Part, weight: float) -> str:
        curve = self.curves[part.method, (part.base, part.seed)]
        return str(next(point["folder"] for point in curve if point["alpha"] == weight))

    @cached_property
    def _reported(self) -> dict[tuple[str, Run], Mapping[str, Mapping[str, Any]]]:
        """The benchmarks of every result, by model's name and run; each is read once."""
        return {
            (model.name, run): result_folder.read(folder)["benchmarks"]
            for model in self.models
            for run, folder in model.folders.items()
        }

    @cached_property
    def benchmarks(self) -> dict[str, str]:
        """The reported benchmarks that every result has, with their families."""
        return {
            name: result["family"]
            for name, result in next(iter(self._reported.values()), {}).items()
            if all(name in own for own in self._reported.values())
        }

    @cached_property
    def left_out(self) -> list[str]:
        """The benchmarks that only some bases report."""
        names = dict.fromkeys(name for own in self._reported.values() for name in own)
        return [name for name in names if name not in self.benchmarks]

    @cached_property
    def columns(self) -> dict[str, list[str]]:
        """Families, then benchmarks if they say more; each with its benchmarks."""
        families = {
            family: [name for name, own in self.benchmarks.items() if own == family]
            for family in dict.fromkeys((*FAMILIES, *self.benchmarks.values()))
        }
        found = {family: names for family, names in families.items() if names}
        return found | {name: [name] for name in self.benchmarks}

    @cached_property
    def values(self) -> dict[str, dict[Run, dict[str, float]]]:
        """Primary scores: of a model's name, a run and a benchmark."""
        return {
            model.name: {
                run: {name: _primary(own) for name, own in self._reported[model.name, run].items()}
                for run in model.folders
            }
            for model in self.models
        }

    def of_run(self, model: Model, run: Run, column: str) -> float:
        """The score of one run; that of a base, of any seed."""
        key = (run[0], 0) if model.method == BASE else run
        return statistics.fmean(self.values[model.name][key][name] for name in self.columns[column])

    def score(self, model: Model, column: str) -> Score:
        """The score over runs."""
        return Score.of([self.of_run(model, run, column) for run in model.folders])

    def subsets(self, benchmark: str) -> tuple[str, dict[str, dict[str, Score]]]:
        """The metric of a benchmark's primary score, and by it each subset's scores, by model's name.

        Only subsets that every result has.
        """
        from open_clip_ext.evaluation.scoring import aggregate

        own = {key: reported[benchmark] for key, reported in self._reported.items()}
        first = next(iter(own.values()))
        metric, _ = aggregate.split(first["primary"])
        names = [
            name
            for name in first["subsets"]
            if all(metric in result["subsets"].get(name, {}) for result in own.values())
        ]
        return metric, {
            name: {
                model.name: Score.of(
                    [float(own[model.name, run]["subsets"][name][metric]["value"]) for run in model.folders]
                )
                for model in self.models
            }
            for name in names
        }

    @cached_property
    def _drawn(self) -> dict[tuple[str, str], dict[tuple[str, Run], Array]]:
        """Replicates [R] by base and column, then by model and run.

        What is of the same images is drawn together: the benchmarks of a family, all models and runs, and
        the bases that report the same benchmarks. Other bases have another seed.
        """
        from open_clip_ext.evaluation.comparison import means

        alike: dict[str, list[str]] = {}
        for base in self.study.bases:
            alike.setdefault(str(base.reported or self.study.reported), []).append(base.name)
        found: dict[tuple[str, str], dict[tuple[str, Run], Array]] = {}
        for (seed, bases), family in product(
            enumerate(alike.values()), dict.fromkeys(self.benchmarks.values())
        ):
            own = [(m, run) for m in self.models for run in m.folders if run[0] in bases]
            if not own:
                continue
            parts = {name: self._paired(name, own) for name in self.columns[family]}
            wanted: dict[str, means.Columns] = {name: [[part]] for name, part in parts.items()}
            wanted[family] = [[part] for part in parts.values()]
            for column, made in means.replicates(wanted, seed=seed).items():
                for place, (model, run) in enumerate(own):
                    found.setdefault((run[0], column), {})[model.name, run] = made.drawn[:, place]
        return found

    def _paired(self, benchmark: str, own: Sequence[tuple[Model, Run]]) -> tuple[Paired, str]:
        """A benchmark's rows in these models and runs, and its primary aggregation."""
        from open_clip_ext.evaluation.comparison import results as compared
        from open_clip_ext.evaluation.comparison.measures import Paired

        read = [
            compared.Result(
                f"{model.name} ({run[0]}, seed {run[1]})",
                model.folders[run],
                result_folder.read(model.folders[run]),
            )
            for model, run in own
        ]
        first, *others = compared.aligned(read, benchmark)
        # Of the others only what is right is read on. Equal rows are one object: there are millions of them.
        kept: dict[tuple[tuple[str, int], ...], Row] = {}
        rows = [
            [kept.setdefault(tuple(row["correct"].items()), {"correct": row["correct"]}) for row in other]
            for other in others
        ]
        return (
            Paired(benchmark, self.benchmarks[benchmark], [first, *rows], (), (), 0, ()),
            read[0].benchmarks[benchmark]["primary"],
        )

    @cached_property
    def missing(self) -> dict[str, list[Run]]:
        """The runs of each method that have no result; only of methods that lack some."""
        done = {(part.method, part.base, part.seed) for part in self.sweeps}
        runs = list(product((base.name for base in self.study.bases), self.study.seeds))
        found = {
            method.name: [run for run in runs if (method.name, *run) not in done]
            for method in self.study.methods
        }
        return {name: gone for name, gone in found.items() if gone}

    def curve(self, method: str, columns: Sequence[str]) -> list[tuple[float, list[float]]]:
        """The way from the base to a method: for each weight its scores in `columns`, means over runs."""
        own = [points for (name, _), points in self.curves.items() if name == method]
        found = []
        for points in zip(*own, strict=True):
            scores = [
                statistics.fmean(
                    _primary(point["report"][name]) for point in points for name in self.columns[column]
                )
                for column in columns
            ]
            found.append((float(points[0]["alpha"]), scores))
        return found

    def difference(self, model: Model, other: Model, column: str) -> Difference | None:
        """`model` minus `other`, over the runs that both have; None if there is none.

        Images are drawn as `_drawn` says; bases with benchmarks of their own are drawn on their own.
        """
        from open_clip_ext.evaluation.scoring import bootstrap

        runs = [
            run
            for run in model.folders
            if run in other.folders or (other.method == BASE and (run[0], 0) in other.folders)
        ]
        if not runs:
            return None
        by_run = [self.of_run(model, run, column) - self.of_run(other, run, column) for run in runs]
        total: Any = 0.0
        for run in runs:
            key = (run[0], 0) if other.method == BASE else run
            drawn = self._drawn[run[0], column]
            total = total + drawn[model.name, run] - drawn[other.name, key]
        low, high = bootstrap.interval(total / len(runs))
        return Difference(statistics.fmean(by_run), low, high, by_run)

    def cost(self, method: str) -> timing.Rate | None:
        """Of a method's trainings, the mean over runs; None if their logs show no step."""
        own = [part.needs[0] for part in self.sweeps if part.method == method]
        found = [rate for part in own if (rate := timing.of(part)) is not None]
        return timing.mean(found) if found else None
