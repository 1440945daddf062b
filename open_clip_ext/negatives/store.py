"""The store: one SQLite file that holds, by the text of a caption, what generators made of it.

SQLite, because it is in Python's standard library, keeps everything in one file, survives a kill
at any moment, and finds a row among millions in microseconds without any of them in memory.

While a store is written it has a write-ahead log beside it; a finished one is a single plain file
that loader workers open as immutable: no lock, no other file, so that it may lie on any shared or
read-only file system.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any
from urllib.parse import quote

from open_clip_ext.errors import InputError, TrainingError
from open_clip_ext.negatives.records import Candidate, Text, normalise

APPLICATION = 0x6F63786E  # "ocxn", in the file's header
VERSION = 1
SCHEMA = (
    # params: a JSON object; types: a JSON list
    "CREATE TABLE generator (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, version TEXT NOT NULL, "
    "params TEXT NOT NULL, types TEXT NOT NULL)",
    # images: a JSON list of file paths
    "CREATE TABLE caption (id INTEGER PRIMARY KEY, key INTEGER NOT NULL, text TEXT NOT NULL, "
    "images TEXT NOT NULL)",
    "CREATE INDEX caption_key ON caption (key)",
    # texts: a JSON list of [place of the type, text, keeps, reason]
    "CREATE TABLE entry (caption INTEGER NOT NULL, generator INTEGER NOT NULL, texts TEXT NOT NULL)",
    "CREATE UNIQUE INDEX entry_caption ON entry (caption, generator)",
    "CREATE TABLE tally (generator INTEGER NOT NULL, type TEXT NOT NULL, keeps INTEGER NOT NULL, "
    "reason TEXT NOT NULL, count INTEGER NOT NULL, PRIMARY KEY (generator, type, keeps, reason)) "
    "WITHOUT ROWID",
)
ENCODE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
FIND = """
SELECT entry.generator, entry.texts FROM caption LEFT JOIN entry ON entry.caption = caption.id
WHERE caption.key = ? AND caption.text = ? ORDER BY entry.generator
"""


@dataclass(frozen=True)
class Maker:
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


class Store:
    """A finished store, read only.

    It opens the file anew in each process that uses it, so it may be handed to loader workers.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._connection: sqlite3.Connection | None = None
        self._process = 0

    @classmethod
    def open(cls, path: str | Path) -> Store:
        """The store at `path`.

        Raises InputError if there is none, or it is unfinished, damaged or of another version.
        """
        store = cls(path)
        _require_store(store.path)
        if _log(store.path).exists() and _log(store.path).stat().st_size:
            raise InputError(
                f"{path}: it is not finished; wait for the `negatives make` that writes it, or, if that "
                "was killed, run the same command again to the end"
            )
        with store._reported():
            store.types  # noqa: B018  reads every small table
        return store

    def __getstate__(self) -> Path:
        return self.path

    def __setstate__(self, path: Path) -> None:
        self.__init__(path)  # type: ignore[misc]

    def __len__(self) -> int:
        """The number of captions."""
        return int(self._query("SELECT count(*) FROM caption").fetchone()[0])

    def captions(self) -> Iterator[str]:
        """Every caption, in the order of writing."""
        for (text,) in self._query("SELECT text FROM caption ORDER BY id"):
            yield text

    def entries(self) -> Iterator[tuple[str, list[str], list[Text]]]:
        """Every caption with the image files of its source and all its texts, in one pass."""
        for caption, images, *entries in self._query(
            "SELECT caption.text, images, json_group_array(generator), json_group_array(texts) "
            "FROM caption LEFT JOIN (SELECT * FROM entry ORDER BY caption, generator) AS entry "
            "ON entry.caption = caption.id GROUP BY caption.id ORDER BY caption.id"
        ):
            found = [pair for pair in zip(*map(json.loads, entries), strict=True) if pair[0] is not None]
            yield caption, json.loads(images), self._decode(found)

    def texts(self, caption: str) -> list[Text] | None:
        """All texts of a caption, in stored order, rejected ones too; None without an entry."""
        caption = normalise(caption)
        with self._reported():
            found = self._query(FIND, (key(caption), caption)).fetchall()
        return self._decode(found) if found else None

    def negatives(self, caption: str, keeps: bool = False) -> list[Text] | None:
        """The valid texts that change the caption's meaning, or those that keep it.

        None without an entry.
        """
        texts = self.texts(caption)
        return None if texts is None else [text for text in texts if text.valid and text.keeps is keeps]

    def places(self, caption: str, types: Sequence[str]) -> list[list[str]] | None:
        """The valid negatives of a caption: a list for each of `types`; None without an entry."""
        texts = self.negatives(caption)
        return (
            None if texts is None else [[text.text for text in texts if text.type == type] for type in types]
        )

    def images(self, caption: str) -> list[str]:
        """The image files that the source named for a caption."""
        caption = normalise(caption)
        row = self._query(
            "SELECT images FROM caption WHERE key = ? AND text = ?", (key(caption), caption)
        ).fetchone()
        return json.loads(row[0]) if row else []

    def generators(self) -> list[Maker]:
        """The generators whose texts are here."""
        return list(_makers(self._open()).values())

    @property
    def types(self) -> tuple[str, ...]:
        """The types that have valid negatives, in stored order: their places in a batch."""
        return self.types_of(keeps=False)

    def types_of(self, keeps: bool) -> tuple[str, ...]:
        """The types of which there are valid texts that keep the meaning, or that change it."""
        there = {
            (maker, type) for (maker, type, kept, reason) in self.tally() if kept is keeps and not reason
        }
        declared = [(maker.name, type) for maker in self.generators() for type in maker.types]
        return tuple(dict.fromkeys(type for maker, type in declared if (maker, type) in there))

    def tally(self) -> Counter[tuple[str, str, bool, str]]:
        """The number of texts by (generator, type, keeps, reason); the reason of a valid one is ""."""
        return _tally(self._open())

    def close(self) -> None:
        """Close the file in this process; the next look-up opens it again."""
        if self._connection is not None and self._process == os.getpid():
            self._connection.close()
        self._connection = None

    def _decode(self, entries: Sequence[tuple[int, str]]) -> list[Text]:
        return [
            Text(self._makers[maker].types[place], text, bool(keeps), reason, self._makers[maker].name)
            for maker, texts in entries
            if texts is not None
            for place, text, keeps, reason in json.loads(texts)
        ]

    def _open(self) -> sqlite3.Connection:
        # A connection must not be carried through a fork: SQLite forbids it.
        if self._connection is None or self._process != os.getpid():
            self._connection = _connect(self.path, "mode=ro&immutable=1")
            self._process = os.getpid()
            self._makers = _makers(self._connection)
        return self._connection

    def _query(self, sql: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        return self._open().execute(sql, values)

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise InputError(f"{self.path}: it cannot be read ({error}); make it anew") from error


class Writer:
    """A store that is being written by one generator; a context manager.

    It makes the store or goes on with the one that is there. Each caption is safe once `add`
    returns: a kill loses nothing else.

    Args:
        path: the store.
        generator: name of the generator.
        version: of its rules or prompts.
        params: what else identifies its output; plain types.
        types: its types of texts, in stored order.

    Raises InputError if `path` is not a store, is being written by someone else, or has texts of
    the same generator made in another way.
    """

    def __init__(
        self, path: str | Path, generator: str, version: str, params: Mapping[str, Any], types: Sequence[str]
    ) -> None:
        self.path = Path(path)
        self._places = {type: place for place, type in enumerate(types)}
        self._added: list[tuple[int, str, bool, str]] = []  # since the last commit
        self._connection = _create(self.path)
        try:
            with self._reported():
                self._maker = self._settle(Maker(generator, version, _plain(params), tuple(types)))
                there = "SELECT 1 FROM entry WHERE generator = ? LIMIT 1"
                self._begun = self._connection.execute(there, (self._maker,)).fetchone() is not None
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def finished(self, caption: str) -> bool:
        """Whether this generator has done the caption already."""
        if not self._begun:
            return False
        caption = normalise(caption)
        found = self._connection.execute(FIND, (key(caption), caption)).fetchall()
        return any(maker == self._maker for maker, _ in found)

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is added inside becomes safe at its end, all at once: faster, for what is cheaply redone."""
        with self._reported(), _transaction(self._connection):
            self._added = []
            yield
            _count(self._connection, Counter(self._added))

    def add(self, caption: str, texts: Sequence[Candidate], images: Sequence[str] = ()) -> None:
        """Store what the generator made of a caption, rejected texts too, and the caption's images.

        Raises TrainingError if it cannot be written: the disk is full, for example.
        """
        if not self._connection.in_transaction:
            with self.together():
                self.add(caption, texts, images)
            return
        entry = [[self._places[text.type], text.text, int(text.keeps), text.reason] for text in texts]
        self._begun = True
        row = _caption_row(self._connection, normalise(caption), images)
        self._connection.execute("INSERT INTO entry VALUES (?, ?, ?)", (row, self._maker, ENCODE(entry)))
        self._added += [(self._maker, text.type, text.keeps, text.reason) for text in texts]

    def tally(self) -> Counter[tuple[str, bool, str]]:
        """How many texts of this generator are here by (type, keeps, reason)."""
        name = _makers(self._connection)[self._maker].name
        return Counter({key[1:]: n for key, n in _tally(self._connection).items() if key[0] == name})

    def close(self) -> None:
        """Leave one plain file."""
        with self._reported():
            try:
                if not self._connection.in_transaction:
                    self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                    self._connection.execute("PRAGMA journal_mode = DELETE")
            finally:
                self._connection.close()

    def _settle(self, maker: Maker) -> int:
        """The row of this generator, made if it is new."""
        for row, known in _makers(self._connection).items():
            if known.name == maker.name:
                if known == maker:
                    return row
                if self._connection.execute(
                    "SELECT 1 FROM entry WHERE generator = ? AND texts != '[]' LIMIT 1", (row,)
                ).fetchone():
                    raise InputError(
                        f"{self.path}: it has texts of {maker.name} made in another way "
                        f"({_difference(known, maker)}); give another --out"
                    )
                # It came to nothing, and the user was told to change something.
                with _transaction(self._connection):
                    self._connection.execute("DELETE FROM entry WHERE generator = ?", (row,))
                    self._connection.execute("DELETE FROM generator WHERE id = ?", (row,))
        with _transaction(self._connection):
            return _insert_maker(self._connection, maker)

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise TrainingError(
                f"{self.path}: writing failed ({error}); every finished caption is safe, so mend it and run "
                "the same command again"
            ) from error


def merge(out: str | Path, shards: Sequence[str | Path]) -> tuple[int, int]:
    """Bring the texts of `shards` into the store `out`; how many came, and how many were there.

    Doing it again changes nothing. Raises InputError if a shard is not a finished store, if a
    generator has worked in two ways, or if the same generator made different texts of a caption.
    """
    stores = [Store.open(shard) for shard in shards]
    connection = _create(Path(out))
    came = there = 0
    try:
        rows = {maker.name: (row, maker) for row, maker in _makers(connection).items()}
        for store in stores:
            for maker in store.generators():
                known = rows.get(maker.name)
                if known and known[1] != maker:
                    raise InputError(
                        f"{store.path}: its {maker.name} and that of {out} differ "
                        f"({_difference(known[1], maker)}); merge only what was made in one way"
                    )
                if not known:
                    with _transaction(connection):
                        rows[maker.name] = _insert_maker(connection, maker), maker
        for store in stores:
            with _transaction(connection):
                new, old = _merge_one(connection, store, {name: row for name, (row, _) in rows.items()})
            came, there = came + new, there + old
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.Error as error:
        raise TrainingError(f"{out}: writing failed ({error}); mend it and merge again") from error
    finally:
        connection.close()
    return came, there


def _merge_one(connection: sqlite3.Connection, store: Store, rows: Mapping[str, int]) -> tuple[int, int]:
    new = old = 0
    source = store._open()
    names = {row: rows[maker.name] for row, maker in _makers(source).items()}
    for caption, images, maker, texts in source.execute(
        "SELECT text, images, generator, texts FROM caption JOIN entry ON entry.caption = caption.id "
        "ORDER BY entry.rowid"
    ):
        row = _caption_row(connection, caption, json.loads(images))
        there = connection.execute(
            "SELECT texts FROM entry WHERE caption = ? AND generator = ?", (row, names[maker])
        ).fetchone()
        if there is None:
            connection.execute("INSERT INTO entry VALUES (?, ?, ?)", (row, names[maker], texts))
            types = store._makers[maker].types
            counts = Counter(
                (names[maker], types[place], bool(keeps), reason)
                for place, _, keeps, reason in json.loads(texts)
            )
            _count(connection, counts)
            new += 1
        elif there[0] == texts:
            old += 1
        else:
            raise InputError(
                f"{store.path}: other texts of {store._makers[maker].name} than in the store merged into, "
                f"for the caption {caption[:80]!r}; leave one of the two out"
            )
    return new, old


def _connect(path: Path, query: str) -> sqlite3.Connection:
    # isolation_level=None: transactions are begun where the code says so.
    return sqlite3.connect(
        f"file:{quote(str(path.absolute()))}?{query}", uri=True, isolation_level=None, check_same_thread=False
    )


def _create(path: Path) -> sqlite3.Connection:
    """A connection for the one writer of the store `path`, made if it is not there."""
    if path.exists() and (not path.is_file() or path.stat().st_size or _log(path).exists()):
        _require_store(path)
    try:
        connection = _connect(path, "mode=rwc")
        try:
            # One writer only, and the log needs no shared memory: it works on network file systems.
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            with _transaction(connection):
                if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION:
                    for statement in SCHEMA:
                        connection.execute(statement)
                    connection.execute(f"PRAGMA user_version = {VERSION}")
                    connection.execute(f"PRAGMA application_id = {APPLICATION}")
        except BaseException:
            connection.close()
            raise
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise InputError(f"{path}: another process is writing it; wait, or give another --out") from error
        raise InputError(f"{path}: it cannot be written ({error})") from error
    return connection


def _require_store(path: Path) -> None:
    """Raise InputError unless there is a store of our version at `path`."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; make a store with `open-clip-ext negatives make`")
    try:
        with path.open("rb") as file:
            header = file.read(100)
    except OSError as error:
        raise InputError(f"{path}: it cannot be read ({error.strerror})") from error
    application, version, pages = (int.from_bytes(header[at : at + 4], "big") for at in (68, 60, 28))
    if header[:16] == b"SQLite format 3\0" and application == APPLICATION and version != VERSION:
        raise InputError(
            f"{path}: a negatives store of format {version}; this version reads format {VERSION}"
        )
    # A writer that was killed early has left its tables in the log beside the file, or nowhere yet.
    begun = header[:16] == b"SQLite format 3\0" and (_log(path).exists() or pages == 1)
    if application != APPLICATION and not begun:
        raise InputError(f"{path}: not a negatives store; make one with `open-clip-ext negatives make`")


def _log(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
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


def _caption_row(connection: sqlite3.Connection, caption: str, images: Sequence[str]) -> int:
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


def _count(connection: sqlite3.Connection, counts: Mapping[tuple[int, str, bool, str], int]) -> None:
    connection.executemany(
        "INSERT INTO tally VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET count = count + excluded.count",
        [(*what, n) for what, n in counts.items()],
    )


def _tally(connection: sqlite3.Connection) -> Counter[tuple[str, str, bool, str]]:
    makers = _makers(connection)
    return Counter(
        {
            (makers[maker].name, type, bool(keeps), reason): count
            for maker, type, keeps, reason, count in connection.execute("SELECT * FROM tally")
        }
    )


def _makers(connection: sqlite3.Connection) -> dict[int, Maker]:
    rows = connection.execute("SELECT id, name, version, params, types FROM generator ORDER BY id")
    return {
        row: Maker(name, version, json.loads(params), tuple(json.loads(types)))
        for row, name, version, params, types in rows
    }


def _insert_maker(connection: sqlite3.Connection, maker: Maker) -> int:
    values = maker.name, maker.version, _json(maker.params), _json(maker.types)
    row = connection.execute("INSERT INTO generator VALUES (NULL, ?, ?, ?, ?)", values).lastrowid
    assert row is not None
    return row


def _plain(params: Mapping[str, Any]) -> dict[str, Any]:
    """`params` as they come back from the file, so that they compare equal."""
    plain: dict[str, Any] = json.loads(_json(params))
    return plain


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _difference(one: Maker, other: Maker) -> str:
    """What sets two makers of one name apart, in words."""
    sides = [{"version": maker.version, "types": list(maker.types), **maker.params} for maker in (one, other)]
    keys = [key for key in {**sides[0], **sides[1]} if sides[0].get(key) != sides[1].get(key)]
    return "; ".join(f"{key}: {sides[0].get(key)!r} there, {sides[1].get(key)!r} now" for key in keys)
