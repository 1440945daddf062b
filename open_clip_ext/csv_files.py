"""Read CSV files with any separator, encoding problems and broken quotes included.

Upstream's trainer reads CSV files with pandas and its defaults. This module returns the same rows. Where
pandas fails, it raises one sentence that says where the file is broken.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import lzma
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, Any

from open_clip_ext.errors import InputError

SEPARATORS = {",": "comma", "\t": "tab", "|": "pipe", ";": "semicolon"}
# Recognised by the file name, as in pandas. Its other formats (zip, tar, zst) are not supported.
COMPRESSED: dict[str, Callable[..., IO[Any]]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
# Byte order marks. UTF-32 first, because its mark begins with that of UTF-16.
MARKS = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
# Two fields appended after the last line. An unclosed quote makes them part of an earlier field.
END = ("\x02", "\x03")


def check(path: str | Path, separator: str) -> list[str]:
    """Read a CSV file to its end; return the names of its columns, including surrounding spaces.

    The first row may be wider than the header: pandas then uses its first fields as an index.

    Args:
        path: the file.
        separator: one character, or a regular expression as in pandas. With a regular expression only
            the encoding and the header are checked.

    Raises InputError if pandas cannot read the file, or if the separator is wrong.
    """
    separator = _plain(separator)
    if len(separator) > 1:
        with _opened(path) as file:
            header = next((line for line in file if line.strip()), "")
            for _ in file:
                pass
        try:
            columns = re.split(separator, header.rstrip("\r\n"))
        except re.error as error:
            raise InputError(f"--csv-separator {separator!r}: not a regular expression ({error})") from error
        _require_columns(path, columns, separator)
        return columns
    found = rows(path, separator, index=True)
    _, columns = next(found)
    for _ in found:
        pass
    return columns


def rows(path: str | Path, separator: str, index: bool = False) -> Iterator[tuple[int, list[str]]]:
    """The header of a CSV file and its rows, each with the number of the line it begins in.

    Args:
        path: the file.
        separator: one character.
        index: whether the first row may be wider than the header, and the others as wide as the first.

    Raises InputError if the file is empty or not UTF-8, if the separator is wrong, if a quote is never
    closed, and if a row has more fields than there are columns.
    """
    found = parsed(path, separator, index)
    line, header = next(found)
    _require_columns(path, header, separator)
    yield line, header
    yield from found


def parsed(path: str | Path, separator: str, index: bool = False) -> Iterator[tuple[int, list[str]]]:
    """As `rows`, for a file whose separator is known: a single column may contain other ones."""
    csv.field_size_limit(sys.maxsize)
    width = columns = 0
    line = 1
    with _opened(path) as file:
        end = separator.join(END)
        reader = csv.reader(chain(file, [end]), delimiter=separator)
        try:
            for fields in reader:
                begins, line = line, reader.line_num + 1
                if fields == [*END]:
                    break
                if fields and fields[-1].endswith(end):
                    opens = begins + sum(field.count("\n") for field in fields[:-1])
                    raise InputError(
                        f"{path}, line {opens}: the quote that begins a field there is never closed; close "
                        "it, and double the quotes inside quoted text"
                    )
                if not fields or (len(fields) == 1 and fields[0].isspace()):
                    continue
                if not columns:
                    width = columns = len(fields)
                    if "\0" in fields[0]:
                        raise InputError(f"{path}: it seems to be UTF-16 text; convert it to UTF-8")
                elif index:
                    width, index = max(width, len(fields)), False
                if len(fields) > width:
                    raise InputError(
                        f"{path}, line {begins}: {len(fields)} fields, but the header has {columns} columns; "
                        f"put text that contains a {_name(separator)} in quotes"
                    )
                yield begins, fields
        except csv.Error as error:
            raise InputError(f"{path}, line {reader.line_num}: {error}") from error
    if not columns:
        raise InputError(f"{path}: it is empty")


def separator(path: str | Path, usual: Callable[[Sequence[str]], bool]) -> str:
    """The separator of a CSV file, found from its header.

    Args:
        path: the file.
        usual: whether a list of column names contains names that the caller looks for.

    Raises InputError if several separators are possible.
    """
    headers = {char: next(parsed(path, char))[1] for char in SEPARATORS}
    found = [char for char, header in headers.items() if len(header) > 1]
    if len(found) > 1:
        found = [char for char in found if usual(headers[char])] or found
    if len(found) > 1:
        raise InputError(
            f"{path}: its separator may be {' or '.join(map(_name, found))}; "
            f"give --csv-separator {_options(found)}"
        )
    return found[0] if found else ","


def one_character(separator: str) -> str:
    r"""The separator given by a user, where `\t` may stand for a tab.

    Raises InputError unless it is one character that can separate fields.
    """
    char = _plain(separator)
    if len(char) != 1 or char in '"\r\n':
        raise InputError(f"--csv-separator {separator!r}: give one character: {_options(SEPARATORS)}")
    return char


def not_utf8(path: str | Path) -> InputError:
    """The error for a file that does not decode; it names the encoding or the first wrong byte."""
    with _open(path, "rb") as file:
        content = file.read(4)
        for mark, name in MARKS.items():
            if content.startswith(mark):
                return InputError(f"{path}: it is {name} text; convert it to UTF-8")
        file.seek(0)
        before = 0
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                return InputError(
                    f"{path}, line {number}: not UTF-8 text (byte {before + error.start} of the file); "
                    "convert it to UTF-8"
                )
            before += len(line)
    return InputError(f"{path}: not UTF-8 text; convert it to UTF-8")


def _require_columns(path: str | Path, header: Sequence[str], separator: str) -> None:
    """Refuse a header with one column if another separator would give more."""
    if len(header) == 1 and (others := [char for char in SEPARATORS if char in header[0]]):
        raise InputError(
            f"{path}: with {_name(separator)} as separator its only column is {header[0][:80]!r}; "
            f"give --csv-separator {_options(others)}"
        )


@contextmanager
def _opened(path: str | Path) -> Iterator[IO[str]]:
    """The file as text. Raises InputError if it is not UTF-8, or cannot be read."""
    try:
        with _open(path, "rt", newline="", encoding="utf-8-sig") as file:
            yield file
    except UnicodeDecodeError as error:
        raise not_utf8(path) from error
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise InputError(
            f"{path}: it cannot be read ({getattr(error, 'strerror', None) or error})"
        ) from error


def _open(path: str | Path, mode: str, **options: Any) -> IO[Any]:
    opener = COMPRESSED.get(Path(path).suffix.lower(), open)
    return opener(path, mode, **options)  # type: ignore[no-any-return]


def _plain(separator: str) -> str:
    return "\t" if separator == r"\t" else separator


def _name(separator: str) -> str:
    return SEPARATORS.get(separator, repr(separator))


def _options(separators: Iterable[str]) -> str:
    """Separators, quoted for a shell."""
    return " or ".join(map(repr, separators))
