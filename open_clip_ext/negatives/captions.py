"""Captions from the files that people have: CSV, TSV, COCO JSON, JSONL, Parquet, webdataset shards."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from open_clip_ext import csv_files
from open_clip_ext.errors import InputError
from open_clip_ext.texts import captions

# The columns or keys that are tried, in this order, when the user names none.
TEXT_KEYS = ("title", "caption", "captions", "text", "txt", "sentence", "sentences", "comment", "raw")
IMAGE_KEYS = (
    *("filepath", "image", "file_name", "image_path", "filename", "image_name", "file_path", "img_path"),
    "image_file",
)


class Row(NamedTuple):
    """A caption of a file, and the picture it belongs to: a file path, or some name of it, or "".

    Where the picture has no name, `others` are the captions that stand in one list with this one.
    """

    caption: str
    image: str
    others: tuple[str, ...] = ()


class Keys(NamedTuple):
    """What the user said of the file; empty for what was left open."""

    caption: str = ""
    image: str = ""
    separator: str = ""


Reader = Callable[[Path, Keys], Iterator[Row]]


def read(source: str, caption_key: str = "", image_key: str = "", separator: str = "") -> Iterator[Row]:
    """The captions of a file, or of webdataset shards `{00..99}.tar`, one by one.

    A list of texts is so many captions of one picture; a missing caption is an empty one. Raises
    InputError, with file and line, for whatever else cannot be read.
    """
    keys = Keys(caption_key, image_key, separator)
    path = Path(source)
    if separator and READERS.get(path.suffix.lower()) is not _csv:
        raise InputError(f"--csv-separator {separator!r}: {source} is no .csv or .tsv file")
    try:
        if path.suffix == ".tar" or ".tar" in source.partition("{")[2]:
            yield from _shards(source, keys)
            return
        if not path.is_file():
            raise InputError(f"{source}: no such file")
        reader = READERS.get(path.suffix.lower())
        if reader is None:
            raise InputError(
                f"{source}: captions are read from {', '.join(READERS)} and .tar, not {path.suffix!r}"
            )
        yield from reader(path, keys)
    except UnicodeDecodeError as error:
        raise csv_files.not_utf8(path) from error
    except OSError as error:
        raise InputError(f"{source}: it cannot be read ({error.strerror or error})") from error


def _csv(path: Path, keys: Keys) -> Iterator[Row]:
    separator = keys.separator or csv_files.separator(
        path, lambda columns: bool(_find(columns, keys.caption, TEXT_KEYS))
    )
    rows = csv_files.rows(path, separator)
    _, columns = next(rows)
    caption, image = _columns(path, columns, keys)
    at, named = columns.index(caption), columns.index(image) if image else None
    for line, fields in rows:
        where = f"{path}, line {line}"
        if len(fields) <= at:
            raise InputError(
                f"{where}: fewer fields than the header has columns; complete the row or leave it out"
            )
        name = fields[named] if named is not None and named < len(fields) else ""
        yield from _rows(fields[at], name, where, caption)


def _json(path: Path, keys: Keys) -> Iterator[Row]:
    """COCO's captions format, or a list of objects."""
    try:
        content = json.loads(path.read_text("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from error
    items = content.get("annotations") if isinstance(content, dict) else content
    pictures = content.get("images", []) if isinstance(content, dict) else []
    if not isinstance(items, list) or not isinstance(pictures, list):
        raise InputError(
            f"{path}: expected COCO captions (an object with `annotations`) or a list of objects"
        )
    names = {}
    for number, picture in enumerate(pictures, start=1):
        where = f"{path}, image {number}"
        found = _object(picture, where)
        names[_id(found.get("id"), where, "id")] = _name(found.get("file_name"), where, "file_name")
    for number, item in enumerate(items, start=1):
        where = f"{path}, item {number}"
        found = _object(item, where)
        usual = names.get(_id(found.get("image_id"), where, "image_id"), "") if names else ""
        yield from _from_object(found, keys, where, usual)


def _jsonl(path: Path, keys: Keys) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                where = f"{path}, line {number}"
                try:
                    item = json.loads(line)
                except json.JSONDecodeError as error:
                    raise InputError(f"{where}: not JSON ({error.msg})") from error
                yield from _from_object(_object(item, where), keys, where)


def _parquet(path: Path, keys: Keys) -> Iterator[Row]:
    try:
        from pyarrow import ArrowException, parquet, types
    except ImportError as error:
        raise InputError(f"{path}: Parquet needs pyarrow; pip install pyarrow") from error
    try:
        with parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            caption, image = _columns(path, schema.names, keys)
            wanted = [caption]
            if image:  # of a picture with its bytes only the name
                wanted.append(f"{image}.path" if types.is_struct(schema.field(image).type) else image)
            rows = (row for batch in file.iter_batches(columns=wanted) for row in batch.to_pylist())
            for number, row in enumerate(rows, start=1):
                yield from _from_object(row, Keys(caption, image), f"{path}, row {number}")
    except ArrowException as error:
        raise InputError(f"{path}: not a Parquet file ({str(error).splitlines()[0]})") from error


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
                        yield from sample_rows(sample, keys, f"{name}, sample {at}")
                    sample, at = (sample if key == at else {}), key
                    wanted = extension in ("txt", "json", keys.caption, keys.image)
                    content = tar.extractfile(member) if wanted else None
                    sample[extension] = content.read() if content else b""
                if sample:
                    yield from sample_rows(sample, keys, f"{name}, sample {at}")
        except tarfile.TarError as error:
            raise InputError(f"{name}: not a whole tar file ({error})") from error


def sample_rows(sample: Mapping[str, bytes], keys: Keys, where: str) -> Iterator[Row]:
    """The captions of an undecoded sample: its `txt`, another field, or a key of its `json`."""
    name = keys.caption or "txt"
    if name in sample:
        yield from _rows(sample[name].decode("utf-8", "replace"), "", where, name)
    elif "json" in sample:
        try:
            item = json.loads(sample["json"])
        except ValueError as error:
            raise InputError(f"{where}: its json cannot be read ({error})") from error
        where = f"{where}, field json"
        yield from _from_object(_object(item, where), keys, where)
    else:
        fields = ", ".join(sample)
        raise InputError(f"{where}: no field {name!r}; its fields: {fields}; name one with --caption-key")


def _object(item: Any, where: str) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise InputError(f"{where}: expected an object, got {type(item).__name__} {item!r:.40}")
    return item


def _from_object(item: Mapping[str, Any], keys: Keys, where: str, usual: str = "") -> Iterator[Row]:
    """The captions of an object; `usual` is the name of its picture if it has none itself."""
    there, lacks = list(item), f"{where} has no key"
    caption = _choose(there, keys.caption, TEXT_KEYS, lacks)
    image = _choose(there, keys.image, IMAGE_KEYS, lacks)
    name = _name(item[image], where, image) if image else ""
    yield from _rows(item[caption], name or usual, where, caption)


def _rows(value: Any, image: str, where: str, key: str) -> Iterator[Row]:
    try:
        texts = captions(value)
    except ValueError as error:
        raise InputError(f"{where}, {key.strip()}: {error}") from error
    others = tuple(texts) if len(texts) > 1 and not image else ()
    for text in texts:
        yield Row(text, image.strip(), others)


def _name(value: Any, where: str, key: str) -> str:
    """The name of a picture: a text, a number, or the path in what the datasets library writes."""
    if isinstance(value, dict):
        value = value.get("path")
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError:  # the picture itself
            return ""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value}"
    raise InputError(
        f"{where}, {key}: expected the name of a picture, got {type(value).__name__} {value!r:.40}"
    )


def _id(value: Any, where: str, key: str) -> str:
    """The id of a picture; pandas makes 7.0 of a 7 in a column in which others are missing."""
    whole = isinstance(value, float) and value.is_integer()
    return _name(int(value) if whole else value, where, key)


def _columns(path: Path, there: Sequence[str], keys: Keys) -> tuple[str, str]:
    """The columns of the captions and of the pictures, "" if there is none."""
    lacks = f"{path} has no column"
    return _choose(there, keys.caption, TEXT_KEYS, lacks), _choose(there, keys.image, IMAGE_KEYS, lacks)


def _choose(there: Sequence[str], wanted: str, usual: Sequence[str], lacks: str) -> str:
    """The key that holds what is looked for: the one the user names, or the first usual one.

    Captions have to be there, pictures have not.
    """
    found = _find(there, wanted, usual)
    if not found and (wanted or usual is TEXT_KEYS):
        others = ", ".join(key.strip() for key in there)
        if wanted:
            raise InputError(f"{lacks} {wanted!r}; there are: {others}")
        raise InputError(
            f"{lacks} of captions, such as {', '.join(usual[:3])}; there are: {others}; "
            "name one with --caption-key"
        )
    return found


def _find(there: Sequence[str], wanted: str, usual: Sequence[str]) -> str:
    """A key by its name, as it is or without blanks around it; a usual one in any case too."""
    names = [wanted] if wanted else usual
    for name in names:
        if name in there:
            return name
    for name in names:
        for key in there:
            if key.strip() == name or (not wanted and key.strip().casefold() == name):
                return key
    return ""


READERS: dict[str, Reader] = {
    ".csv": _csv,
    ".tsv": _csv,
    ".json": _json,
    ".jsonl": _jsonl,
    ".parquet": _parquet,
}
