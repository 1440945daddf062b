"""Captions from the files that people have: CSV, TSV, COCO JSON, JSONL, Parquet, webdataset shards."""

from __future__ import annotations

import csv
import json
import sys
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from open_clip_ext.errors import InputError

# The columns or keys that are tried, in this order, when the user names none.
TEXT_KEYS = ("title", "caption", "text", "txt")
IMAGE_KEYS = ("filepath", "image", "file_name", "image_path", "filename")


class Row(NamedTuple):
    """A caption of a file, and the picture it belongs to: a file path, or some name of it, or ""."""

    caption: str
    image: str


class Keys(NamedTuple):
    """What the user said of the file; empty for what was left open."""

    caption: str = ""
    image: str = ""


Reader = Callable[[Path, Keys], Iterator[Row]]


def read(source: str, caption_key: str = "", image_key: str = "") -> Iterator[Row]:
    """The captions of a file, or of webdataset shards `{00..99}.tar`, one by one.

    Raises InputError, with file and line, for whatever cannot be read.
    """
    keys = Keys(caption_key, image_key)
    if Path(source).suffix == ".tar" or ".tar" in source.partition("{")[2]:
        yield from _shards(source, keys)
        return
    path = Path(source)
    if not path.is_file():
        raise InputError(f"{source}: no such file")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(
            f"{source}: captions are read from {', '.join(READERS)} and .tar, not {path.suffix!r}"
        )
    try:
        yield from reader(path, keys)
    except UnicodeDecodeError as error:
        raise InputError(f"{source}: not UTF-8 text (byte {error.start}); convert it first") from error


def _csv(path: Path, keys: Keys) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)
    with path.open(newline="", encoding="utf-8-sig") as file:
        separator = "\t" if path.suffix.lower() == ".tsv" else _separator(file.readline())
        file.seek(0)
        rows = csv.DictReader(file, delimiter=separator)
        columns = list(rows.fieldnames or ())
        caption = _choose(columns, keys.caption, TEXT_KEYS, f"{path} has no column", "--caption-key")
        image = _choose(columns, keys.image, IMAGE_KEYS, f"{path} has no column", "--image-key", needed=False)
        try:
            for row in rows:
                if row[caption] is None:
                    raise InputError(
                        f"{path}, line {rows.line_num}: fewer fields than the header has columns"
                    )
                yield Row(row[caption], (row[image] or "") if image else "")
        except csv.Error as error:
            raise InputError(f"{path}, line {rows.line_num}: {error}") from error


def _separator(header: str) -> str:
    return "\t" if header.count("\t") > header.count(",") else ","


def _json(path: Path, keys: Keys) -> Iterator[Row]:
    """COCO's captions format, or a list of objects."""
    try:
        content = json.loads(path.read_text("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from error
    names: Mapping[Any, str] = {}
    items: Any = content
    if isinstance(content, dict):
        items = content.get("annotations")
        names = {image.get("id"): image.get("file_name", "") for image in content.get("images", ())}
    if not isinstance(items, list):
        raise InputError(
            f"{path}: expected COCO captions (an object with `annotations`) or a list of objects"
        )
    for number, item in enumerate(items, start=1):
        where = f"{path}, item {number}"
        row = _from_object(item, keys, where)
        yield row if row.image or not names else Row(row.caption, names.get(item.get("image_id"), ""))


def _jsonl(path: Path, keys: Keys) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    item = json.loads(line)
                except json.JSONDecodeError as error:
                    raise InputError(f"{path}, line {number}: not JSON ({error.msg})") from error
                yield _from_object(item, keys, f"{path}, line {number}")


def _parquet(path: Path, keys: Keys) -> Iterator[Row]:
    try:
        from pyarrow import ArrowInvalid, parquet
    except ImportError as error:
        raise InputError(f"{path}: Parquet needs pyarrow; pip install pyarrow") from error
    try:
        file = parquet.ParquetFile(path)
    except ArrowInvalid as error:
        raise InputError(f"{path}: not a Parquet file ({str(error).splitlines()[0]})") from error
    with file:
        columns = file.schema_arrow.names
        caption = _choose(columns, keys.caption, TEXT_KEYS, f"{path} has no column", "--caption-key")
        image = _choose(columns, keys.image, IMAGE_KEYS, f"{path} has no column", "--image-key", needed=False)
        for batch in file.iter_batches(columns=[name for name in (caption, image) if name]):
            for row in batch.to_pylist():
                yield Row(_text(row[caption]), _text(row[image]) if image else "")


def _shards(source: str, keys: Keys) -> Iterator[Row]:
    """The field `txt` of each sample, or another field, or a key of its `json`."""
    from braceexpand import braceexpand

    for name in braceexpand(source):
        if not Path(name).is_file():
            raise InputError(f"{name}: no such file")
        try:
            with tarfile.open(name) as tar:
                sample: dict[str, bytes] = {}
                at = None
                for member in tar:
                    key, _, extension = member.name.rpartition("/")[2].partition(".")
                    key = member.name.rpartition("/")[0] + "/" + key
                    if not member.isfile():
                        continue
                    if key != at and sample:
                        yield sample_row(sample, keys, f"{name}, sample {at}")
                    sample, at = (sample if key == at else {}), key
                    wanted = extension in ("txt", "json", keys.caption, keys.image)
                    content = tar.extractfile(member) if wanted else None
                    sample[extension] = content.read() if content else b""
                if sample:
                    yield sample_row(sample, keys, f"{name}, sample {at}")
        except tarfile.TarError as error:
            raise InputError(f"{name}: not a whole tar file ({error})") from error


def sample_row(sample: Mapping[str, bytes], keys: Keys, where: str) -> Row:
    """The caption of an undecoded sample: its `txt`, another field, or a key of its `json`."""
    name = keys.caption or "txt"
    if name in sample:
        return Row(sample[name].decode("utf-8", "replace"), "")
    if "json" in sample:
        try:
            return _from_object(json.loads(sample["json"]), keys, f"{where}, field json")
        except ValueError as error:
            raise InputError(f"{where}: its json cannot be read ({error})") from error
    fields = ", ".join(sample)
    raise InputError(f"{where}: no field {name!r}; its fields: {fields}; name one with --caption-key")


def _from_object(item: Any, keys: Keys, where: str) -> Row:
    if not isinstance(item, dict):
        raise InputError(f"{where}: expected an object, got {str(item)[:40]!r}")
    caption = _choose(list(item), keys.caption, TEXT_KEYS, f"{where} has no key", "--caption-key")
    image = _choose(list(item), keys.image, IMAGE_KEYS, f"{where} has no key", "--image-key", needed=False)
    return Row(_text(item[caption]), _text(item[image]) if image else "")


def _choose(
    there: Sequence[str], wanted: str, usual: Sequence[str], lacks: str, flag: str, needed: bool = True
) -> str:
    """The key that holds what is looked for: the one the user names, or the first usual one."""
    if wanted:
        if wanted not in there:
            raise InputError(f"{lacks} {wanted!r}; there are: {', '.join(map(str, there))}")
        return wanted
    found = next((key for key in usual if key in there), "")
    if needed and not found:
        raise InputError(
            f"{lacks} {' or '.join(usual)}; there are: {', '.join(map(str, there))}; name one with {flag}"
        )
    return found


def _text(value: Any) -> str:
    return "" if value is None else str(value)


READERS: dict[str, Reader] = {
    ".csv": _csv,
    ".tsv": _csv,
    ".json": _json,
    ".jsonl": _jsonl,
    ".parquet": _parquet,
}
