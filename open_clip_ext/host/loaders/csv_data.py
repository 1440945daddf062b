"""Training data in a CSV file: the rows that upstream's reader sees, with every cell as it is written.

Left alone, pandas makes numbers of file names such as `000123`, and a missing value of a caption that
reads "None": upstream would train on the text "nan".
"""

from __future__ import annotations

import argparse
import re
import shlex
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pandas as pd

from open_clip_ext import csv_files
from open_clip_ext.errors import InputError
from open_clip_ext.texts import is_list, parse_texts
from open_clip_ext.training.kinds import key_flag

# What programs write where there is no caption, in small letters.
NO_CAPTION = ("", "none", "null", "nan", "na", "n/a", "<na>")
# How other files begin that are named .csv all the same.
OTHER_FILES = {
    b"\x1f\x8b": "compressed (gzip)",
    b"PK\x03\x04": "a zip archive or a workbook",
    b"PAR1": "Parquet",
}


def read(
    path: str, args: argparse.Namespace, sources: Mapping[str, str] | None = None, picture_key: str = ""
) -> Any:
    """The data frame that pandas makes of a file; the columns that the run needs hold text alone.

    Args:
        path: the file.
        args: upstream's and ours, checked.
        sources: the columns of companion texts and images by kind, if the rows must carry any.
        picture_key: the column that says which picture a row shows, if there must be one.

    Raises InputError if pandas cannot read the file, a column is missing, there is nothing in it, or most
    captions are lists.
    """
    columns = {args.csv_img_key: "--csv-img-key", args.csv_caption_key: "--csv-caption-key"}
    columns |= {column: key_flag(kind) for kind, column in (sources or {}).items()}
    columns |= {picture_key: "--picture-key"} if picture_key else {}
    separator = "\t" if args.csv_separator == r"\t" else args.csv_separator
    try:
        table = _read(path, separator)
        for column, flag in columns.items():
            if column not in table:
                _explain(path, separator)
                names = ", ".join(shlex.quote(str(name)[:60]) for name in table.columns[:30])
                raise InputError(
                    f"{path} has no column {column!r}; its columns: {names}; name one with {flag}"
                )
        if not all(isinstance(table[column].dtype, pd.StringDtype) for column in columns):
            table = _read(path, separator, dtype=str)  # slower, but makes no number of a cell
    except InputError:
        raise
    except Exception as error:  # a dozen kinds, one of them for a wrong regular expression
        _explain(path, separator)
        raise InputError(
            f"{path}: pandas cannot read it with --csv-separator {separator!r} ({str(error).strip()})"
        ) from error
    if table.empty:
        raise InputError(f"{path}: it has a header, but no row")
    table = table.fillna(dict.fromkeys(columns, ""))  # in rows that are too short
    if _no_caption(table[args.csv_caption_key]).all():
        raise InputError(
            f"{path}: column {args.csv_caption_key!r} has a caption in no row{shifted(table)}; name another "
            "one with --csv-caption-key"
        )
    captions = table[args.csv_caption_key]
    lists = _lists(captions)
    if 2 * lists.sum() > len(captions):
        row = int(lists.argmax())
        raise InputError(
            f"{path}, data row {row + 1}: the caption is a list, {captions.iloc[row][:60]!r}; "
            "training reads one caption in a row: write a row for each"
        )
    return table


def shifted(table: Any) -> str:
    """A half-sentence if the header of a table that `read` gave may stand above the wrong columns."""
    if isinstance(table.index, pd.RangeIndex):
        return ""
    return " (its rows have more fields than its header, so pandas takes the first ones for their names)"


@contextmanager
def as_text(
    args: argparse.Namespace, sources: Mapping[str, str] | None = None, picture_key: str = ""
) -> Iterator[list[Any]]:
    """Within it, upstream's CSV reader gets its data frame from `read`; yields a list that it is added to."""
    from open_clip_train import data as upstream  # late: to read a table takes none of it

    tables: list[Any] = []

    def read_csv(path: str, **options: Any) -> Any:
        tables.append(read(path, args, sources, picture_key))
        return tables[-1]

    original = upstream.pd
    upstream.pd = types.SimpleNamespace(read_csv=read_csv)
    try:
        yield tables
    finally:
        upstream.pd = original


def doubts(table: Any, args: argparse.Namespace) -> Iterator[str]:
    """What is odd about the captions of a table that `read` gave, though a run can be trained on them."""
    captions = table[args.csv_caption_key]
    missing = _no_caption(captions)
    if missing.any():
        row = int(missing.argmax())
        yield (
            f"{args.train_data}: {missing.sum()} of {len(captions)} captions are empty or a word for a "
            f"missing value, the first in data row {row + 1}: {captions.iloc[row]!r}; they are trained on as "
            "they stand: fill them in or leave out their rows"
        )
    lists = _lists(captions)
    if lists.any():
        row = int(lists.argmax())
        yield (
            f"{args.train_data}: {lists.sum()} of {len(captions)} captions are lists, the first in data row "
            f"{row + 1}: {captions.iloc[row][:60]!r}; each is trained on as one "
            "text: write a row for each caption"
        )
    broken = captions.str.strip().str.contains("\n", regex=False).to_numpy()
    if broken.any():
        row = int(broken.argmax())
        yield (
            f"{args.train_data}: {broken.sum()} of {len(captions)} captions have several lines, the first"
            f" in data row {row + 1}: {captions.iloc[row][:60]!r}; if those are rows, a quote was not closed"
        )


def text_lists(table: Any, column: str, path: str) -> list[list[str]]:
    """The texts in each cell of a column of a table that `read` gave of `path`; "" for a missing one.

    Raises InputError for a cell that is no list of strings.
    """
    return _cells(table, column, path, parse_texts)


def image_lists(table: Any, column: str, path: str) -> list[list[str]]:
    """The paths in each cell of a column of images, as `text_lists`: a cell may also be one path.

    Raises InputError for a cell that is a list of something else.
    """
    return _cells(
        table,
        column,
        path,
        lambda cell: parse_texts(cell) if is_list(cell) else [cell] if cell.strip() else [],
    )


def _cells(table: Any, column: str, path: str, parse: Callable[[str], list[str]]) -> list[list[str]]:
    rows = []
    for row, cell in enumerate(table[column], start=1):
        try:
            rows.append(parse(cell))
        except ValueError as error:
            raise InputError(f"{path}, column {column!r}, data row {row}: {error}") from error
    return rows


def _read(path: str, separator: str, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # columns of mixed types, and a slow engine for long separators
        return pd.read_csv(path, sep=separator, keep_default_na=False, **options)


def _no_caption(captions: Any) -> Any:
    return captions.str.strip().str.lower().isin(NO_CAPTION).to_numpy()


def _lists(captions: Any) -> Any:
    return captions.map(is_list).to_numpy(dtype=bool)


def _explain(path: str, separator: str) -> None:
    """Raise InputError if there is a reason to be named why pandas finds no rows or columns in a file."""
    with open(path, "rb") as file:
        start = file.read(4)
    for magic, kind in OTHER_FILES.items():
        if start.startswith(magic) and path.lower().endswith((".csv", ".tsv", ".txt")):
            raise InputError(f"{path}: it is {kind}, not CSV text; unpack or convert it")
    literal = separator.replace("|", r"\|")
    try:
        pipes = len(separator) > 1 and "|" in separator and not separator.strip("| ")
        if pipes and len(csv_files.check(path, literal)) > 1:
            raise InputError(
                f"{path}: --csv-separator {separator!r} is a regular expression to pandas, in which | means "
                f"'or'; give --csv-separator {shlex.quote(literal)}"
            )
        csv_files.check(path, separator)
    except (re.error, TypeError):  # no separator at all: pandas says so
        return
