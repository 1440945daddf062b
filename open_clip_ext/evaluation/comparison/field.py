"""The models of vl_compo as points for the picture: its results.csv, which the user downloads.

(Oh et al., MMFM workshop at CVPR 2024; ytaek-oh/vl_compo, 202 rows.) The file is not part of this package.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from open_clip_ext import csv_files
from open_clip_ext.errors import InputError
from open_clip_ext.evaluation.scoring.overall import AVERAGES

COMPOSITION = tuple(AVERAGES["comp12"].columns)
RECOGNITION = {"zs21": "21_tasks_avg", "imagenet": "imagenet"}
FLAG = "--published"


@dataclass(frozen=True)
class Model:
    """A row of the file: its name, and its scores in [0, 1] by column."""

    name: str
    scores: Mapping[str, float]

    def mean(self, columns: Collection[str]) -> float:
        """The unweighted mean of some columns."""
        return sum(self.scores[column] for column in columns) / len(columns)


def read(path: Path) -> Sequence[Model]:
    """The rows of results.csv.

    Raises InputError if the file cannot be read, has no row or lacks a column, or a score is no percentage.
    """
    try:
        (_, header), *rows = csv_files.parsed(path, ",")
    except InputError as error:
        raise InputError(f"{FLAG} {error}") from error
    wanted = ("arch", *COMPOSITION, *RECOGNITION.values())
    if gone := [column for column in wanted if column not in header]:
        raise InputError(
            f"{FLAG} {path}: has no column {', '.join(gone)}; give results.csv of ytaek-oh/vl_compo"
        )
    models = [
        _model(dict(zip(header, row, strict=False)), f"{FLAG} {path}, row {number}")
        for number, (_, row) in enumerate(rows, 1)
    ]
    if not models:
        raise InputError(f"{FLAG} {path}: has no row below its header")
    return models


def _model(row: Mapping[str, str], where: str) -> Model:
    scores = {}
    for column in (*COMPOSITION, *RECOGNITION.values()):
        try:
            scores[column] = float(row.get(column, "")) / 100
        except ValueError:
            raise InputError(f"{where}: {column} is not a number: {row.get(column, '')!r}") from None
        if not 0 <= scores[column] <= 1:
            raise InputError(f"{where}: {column} is {row[column]}, not a percentage")
    name = " ".join(filter(None, (row.get("arch"), row.get("pretrained"))))
    return Model(name, scores)
