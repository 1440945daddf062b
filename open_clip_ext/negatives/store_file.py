"""The SQLite file of a store: its tables, how it is opened, and the rows that a writer adds.

SQLite, because it is in Python's standard library, keeps everything in one file, survives a kill
at any moment, and finds a row among millions in microseconds without any of them in memory.

While a store is written it has a write-ahead log beside it. A finished store is a single plain file
that loader workers open as immutable: no lock, no other file, so that it may lie on any shared or
read-only file system.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any
from urllib.parse import quote

from open_clip_ext.errors import InputError
from open_clip_ext.negatives.records import NEGATIVE, POSITIVE, Candidate, Text

APPLICATION = 0x6F63786E  # "ocxn", in the file's header
FORMAT = 2
CURRENT = f"PRAGMA user_version = {FORMAT}"
KINDS = (NEGATIVE, POSITIVE)  # of format 1; the first two of every store, so that their entries are the same
TABLE_OF_KINDS = (
    # A kind has the place of its row, from 0.
    "CREATE TABLE kind (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)",
    *(f"INSERT INTO kind VALUES ({place}, '{kind}')" for place, kind in enumerate(KINDS)),
)
SCHEMA = (
    # params: a JSON object; types: a JSON list
    "CREATE TABLE generator (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, version TEXT NOT NULL, "
    "params TEXT NOT NULL, types TEXT NOT NULL)",
    # images: a JSON list of file paths
    "CREATE TABLE caption (id INTEGER PRIMARY KEY, key INTEGER NOT NULL, text TEXT NOT NULL, "
    "images TEXT NOT NULL)",
    "CREATE INDEX caption_key ON caption (key)",
    # texts: a JSON list of [place of the type, text, place of the kind, reason]; of a text that belongs to
    # an earlier one in this list, the place of that one is fifth
    "CREATE TABLE entry (caption INTEGER NOT NULL, generator INTEGER NOT NULL, texts TEXT NOT NULL)",
    "CREATE UNIQUE INDEX entry_caption ON entry (caption, generator)",
    "CREATE TABLE tally (generator INTEGER NOT NULL, type TEXT NOT NULL, kind INTEGER NOT NULL, "
    "reason TEXT NOT NULL, count INTEGER NOT NULL, PRIMARY KEY (generator, type, kind, reason)) "
    "WITHOUT ROWID",
    *TABLE_OF_KINDS,
)
# What makes a store of the next format, by format. Format 1 had `keeps`, 0 or 1, for the place of the kind:
# its entries stay as they are, so that many GB are converted in a moment.
CONVERSIONS = {1: (*TABLE_OF_KINDS, "ALTER TABLE tally RENAME COLUMN keeps TO kind")}
ENCODE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@dataclass(frozen=True)
class GeneratorRecord:
    """A generator as a store knows it.

    Attributes:
        name: its name.
        version: of its rules or prompts.
        params: what else identifies its output; plain types.
        types: its types of texts, in stored order.
    """

    name: str
    version: str
    params: Mapping[str, Any]
    types: tuple[str, ...]


class Codec:
    """How texts of one generator are written in an entry of the file.

    Args:
        record: the generator.
        kinds: the kinds of the store, in the order of their places.
        written: those that may be written; None for all.
    """

    def __init__(
        self, record: GeneratorRecord, kinds: Sequence[str], written: Sequence[str] | None = None
    ) -> None:
        self.record = record
        self._kinds = kinds
        self._place_of_type = {type: place for place, type in enumerate(record.types)}
        self._place_of_kind = {
            kind: place for place, kind in enumerate(kinds) if written is None or kind in written
        }

    def encode(self, texts: Iterable[Candidate]) -> str:
        """The JSON of texts; raises ValueError for what the store cannot hold."""
        rows: list[list[Any]] = []
        places: dict[str, int] = {}  # of the texts so far
        for candidate in texts:
            try:
                row = [
                    self._place_of_type[candidate.type],
                    candidate.text,
                    self._place_of_kind[candidate.kind],
                    candidate.reason,
                ]
                if candidate.of:
                    row.append(places[candidate.of])
            except KeyError as error:
                raise ValueError(self._wrong(candidate)) from error
            places.setdefault(candidate.text, len(rows))
            rows.append(row)
        return ENCODE(rows)

    def decode(self, entry: str) -> list[Text]:
        """The texts of an entry's JSON."""
        name, types, kinds = self.record.name, self.record.types, self._kinds
        texts: list[Text] = []
        for place, text, kind, reason, *of in json.loads(entry):
            owner = texts[of[0]].text if of else ""
            texts.append(Text(types[place], text, kinds[kind], reason, owner, name))
        return texts

    def valid(self, entry: str, kind: str) -> list[tuple[str, str]]:
        """Type and text of the valid texts of a kind; training asks for no more, once for each sample."""
        types, wanted = self.record.types, self._place_of_kind.get(kind)
        return [(types[row[0]], row[1]) for row in json.loads(entry) if row[2] == wanted and not row[3]]

    def _wrong(self, candidate: Candidate) -> str:
        if candidate.type not in self._place_of_type:
            return f"a text of the type {candidate.type!r}; declare it in the generator's `types`"
        if candidate.kind not in self._place_of_kind:
            return f"a text of the kind {candidate.kind!r}; declare it in the generator's `kinds`"
        return f"a text that belongs to {candidate.of[:80]!r}, which must be a text before it"


def connect(path: Path, query: str) -> sqlite3.Connection:
    """A connection to the file `path` with the parameters `query` of SQLite's URI."""
    # isolation_level=None: transactions are begun where the code says so.
    return sqlite3.connect(
        f"file:{quote(str(path.absolute()))}?{query}", uri=True, isolation_level=None, check_same_thread=False
    )


def create(path: Path) -> sqlite3.Connection:
    """A connection for the one writer of the store `path`, made if it is not there.

    A store of an earlier format stays as it is until `convert`, so that a refused command changes nothing.

    Raises InputError if `path` is no store, cannot be written, or is being written.
    """
    if path.exists() and (not path.is_file() or path.stat().st_size or log_of(path).exists()):
        require_store(path)
    try:
        connection = connect(path, "mode=rwc")
        try:
            # One writer only, and the log needs no shared memory: it works on network file systems.
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            with transaction(connection):
                if _number(connection, "application_id") != APPLICATION:
                    for statement in (*SCHEMA, f"PRAGMA application_id = {APPLICATION}", CURRENT):
                        connection.execute(statement)
                elif (form := _number(connection, "user_version")) > FORMAT:  # in the log of a killed writer
                    raise InputError(_newer(path, form))
        except BaseException:
            connection.close()
            raise
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise InputError(f"{path}: another process is writing it; wait, or give another --out") from error
        raise InputError(f"{path}: it cannot be written ({error})") from error
    except sqlite3.DatabaseError as error:
        raise InputError(f"{path}: it cannot be read ({error}); make it anew") from error
    return connection


def convert(connection: sqlite3.Connection) -> None:
    """Bring a store of an earlier format to today's; inside a transaction."""
    if (form := _number(connection, "user_version")) == FORMAT:
        return
    for older in range(form, FORMAT):
        for statement in CONVERSIONS[older]:
            connection.execute(statement)
    connection.execute(CURRENT)


def finish(connection: sqlite3.Connection) -> None:
    """Leave one plain file, without a log."""
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.execute("PRAGMA journal_mode = DELETE")


def require_store(path: Path) -> None:
    """Raise InputError unless there is a store at `path`, of a format that is known here."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; make a store with `open-clip-ext negatives make`")
    try:
        with path.open("rb") as file:
            header = file.read(100)
    except OSError as error:
        raise InputError(f"{path}: it cannot be read ({error.strerror})") from error
    application, version, pages = (int.from_bytes(header[at : at + 4], "big") for at in (68, 60, 28))
    if header[:16] == b"SQLite format 3\0" and application == APPLICATION and version > FORMAT:
        raise InputError(_newer(path, version))
    # A writer that was killed early has left its tables in the log beside the file, or nowhere yet.
    begun = header[:16] == b"SQLite format 3\0" and (log_of(path).exists() or pages == 1)
    if application != APPLICATION and not begun:
        raise InputError(f"{path}: not a negatives store; make one with `open-clip-ext negatives make`")


def _newer(path: Path, form: int) -> str:
    return (
        f"{path}: a negatives store of format {form}; this version reads formats up to {FORMAT}, so update "
        "open_clip_ext"
    )


def log_of(path: Path) -> Path:
    """The write-ahead log of the store `path`."""
    return path.with_name(path.name + "-wal")


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All that is written inside, or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def key(caption: str) -> int:
    """What a store finds a normalised caption by: 64 bits, signed."""
    return int.from_bytes(blake2b(caption.encode("utf-8"), digest_size=8).digest(), "big", signed=True)


def caption_row(connection: sqlite3.Connection, caption: str, images: Sequence[str]) -> int:
    """The row of a caption, made if it is new, with the new ones among its images added."""
    where = key(caption), caption
    found = connection.execute("SELECT id, images FROM caption WHERE key = ? AND text = ?", where).fetchone()
    if found is None:
        values = *where, _images(tuple(images))
        row = connection.execute("INSERT INTO caption VALUES (NULL, ?, ?, ?)", values).lastrowid
        assert row is not None
        return row
    row, known = found[0], json.loads(found[1])
    if new := [image for image in images if image not in known]:
        connection.execute("UPDATE caption SET images = ? WHERE id = ?", (ENCODE([*known, *new]), row))
    return int(row)


@lru_cache(maxsize=1)  # the captions of a picture come one after the other
def _images(images: tuple[str, ...]) -> str:
    return ENCODE(images)


def count(connection: sqlite3.Connection, counts: Mapping[tuple[int, str, str, str], int]) -> None:
    """Add to the numbers of texts, by (row of the generator, type, kind, reason)."""
    connection.executemany(
        "INSERT INTO tally VALUES (?, ?, (SELECT id FROM kind WHERE name = ?), ?, ?) "
        "ON CONFLICT DO UPDATE SET count = count + excluded.count",
        [(*what, n) for what, n in counts.items()],
    )


def tally(connection: sqlite3.Connection) -> Counter[tuple[str, str, str, str]]:
    """The number of texts by (generator, type, kind, reason)."""
    known, names = generators(connection), kinds(connection)
    return Counter(
        {
            (known[generator].name, type, names[kind], reason): count
            for generator, type, kind, reason, count in connection.execute("SELECT * FROM tally")
        }
    )


def kinds(connection: sqlite3.Connection) -> tuple[str, ...]:
    """The kinds of texts that the store knows, in the order of their places."""
    if _number(connection, "user_version") < 2:
        return KINDS
    return tuple(name for (name,) in connection.execute("SELECT name FROM kind ORDER BY id"))


def add_kinds(connection: sqlite3.Connection, names: Iterable[str]) -> None:
    """Make the kinds known to the store."""
    there = kinds(connection)
    for name in names:
        if name not in there:
            connection.execute("INSERT INTO kind VALUES ((SELECT count(*) FROM kind), ?)", (name,))


def generators(connection: sqlite3.Connection) -> dict[int, GeneratorRecord]:
    """The generators by their rows, in the order in which they came."""
    rows = connection.execute("SELECT id, name, version, params, types FROM generator ORDER BY id")
    return {
        row: GeneratorRecord(name, version, json.loads(params), tuple(json.loads(types)))
        for row, name, version, params, types in rows
    }


def insert_generator(connection: sqlite3.Connection, record: GeneratorRecord) -> int:
    """The row of a new generator."""
    values = record.name, record.version, _json(record.params), _json(record.types)
    row = connection.execute("INSERT INTO generator VALUES (NULL, ?, ?, ?, ?)", values).lastrowid
    assert row is not None
    return row


def plain(params: Mapping[str, Any]) -> dict[str, Any]:
    """`params` as they come back from the file, so that they compare equal."""
    plain: dict[str, Any] = json.loads(_json(params))
    return plain


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    return int(connection.execute(f"PRAGMA {pragma}").fetchone()[0])


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def difference(one: GeneratorRecord, other: GeneratorRecord) -> str:
    """What sets two generators of one name apart, in words."""
    sides = [
        {"version": record.version, "types": list(record.types), **record.params} for record in (one, other)
    ]
    keys = [key for key in {**sides[0], **sides[1]} if sides[0].get(key) != sides[1].get(key)]
    return "; ".join(f"{key}: {sides[0].get(key)!r} there, {sides[1].get(key)!r} now" for key in keys)
