"""The store: one SQLite file that holds, by the text of a caption, what generators made of it."""

from __future__ import annotations

import itertools
import json
import os
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from open_clip_ext.errors import InputError, TrainingError
from open_clip_ext.negatives import store_file
from open_clip_ext.negatives.records import NEGATIVE, POSITIVE, Candidate, Text, normalise
from open_clip_ext.negatives.store_file import GeneratorRecord, key

FIND = """
SELECT entry.generator, entry.texts FROM caption LEFT JOIN entry ON entry.caption = caption.id
WHERE caption.key = ? AND caption.text = ? ORDER BY entry.generator
"""


class Store:
    """A finished store, read only.

    It opens the file anew in each process that uses it, so it may be handed to loader workers.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._connection: sqlite3.Connection | None = None
        self._process = 0
        self._codecs: dict[int, store_file.Codec] = {}  # by the row of the generator

    @classmethod
    def open(cls, path: str | Path) -> Store:
        """The store at `path`.

        Raises InputError if there is none, or it is unfinished, damaged or of another version.
        """
        store = cls(path)
        store_file.require_store(store.path)
        log = store_file.log_of(store.path)
        if log.exists() and log.stat().st_size:
            raise InputError(
                f"{path}: it is not finished; wait for the `negatives make` that writes it, or, if that "
                "was killed, run the same command again to the end"
            )
        with store._reported():  # a damaged file is found out now, by its small tables
            store.tally()
        return store

    def __reduce__(self) -> tuple[type[Store], tuple[Path]]:
        """It travels as its path: a connection belongs to the process that opened it."""
        return type(self), (self.path,)

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

    def written(self) -> Iterator[tuple[str, list[str], str, list[Text]]]:
        """Every entry in the order of writing: caption, images, name of the generator, its texts."""
        for caption, images, generator, texts in self._query(
            "SELECT text, images, generator, texts FROM caption JOIN entry ON entry.caption = caption.id "
            "ORDER BY entry.rowid"
        ):
            codec = self._codecs[generator]
            yield caption, json.loads(images), codec.record.name, codec.decode(texts)

    def texts(self, caption: str, kind: str = "", *, rejected: bool = False) -> list[Text] | None:
        """The texts of a caption in stored order; None without an entry.

        Args:
            caption: the caption.
            kind: which texts, such as "neg" or "pos"; empty for all.
            rejected: whether to include those that must not be trained on.
        """
        found = self._find(caption)
        if not found:
            return None
        return [
            text
            for text in self._decode(found)
            if (rejected or not text.reason) and (not kind or text.kind == kind)
        ]

    def texts_by_type(
        self, caption: str, types: Sequence[str], kind: str = NEGATIVE
    ) -> list[list[str]] | None:
        """The valid texts of a kind, in stored order: a list for each of `types`; None without an entry."""
        found = self._find(caption)
        if not found:
            return None
        texts = [
            pair
            for generator, entry in found
            if entry is not None
            for pair in self._codecs[generator].valid(entry, kind)
        ]
        return [[text for its, text in texts if its == type] for type in types]

    def companions(
        self, caption: str, types: Mapping[tuple[str, ...], Sequence[str]]
    ) -> dict[str, list[list[str]]] | None:
        """Of each kind the valid texts for each type, in stored order; None without an entry.

        Args:
            caption: the caption.
            types: by kinds that are drawn together, a kind by itself among them: the types of the first.
        """
        found: dict[str, list[list[str]]] = {}
        for kinds, its in types.items():
            if len(kinds) == 1:
                places = self.texts_by_type(caption, its, kinds[0])
                if places is None:
                    return None
                found[kinds[0]] = places
                continue
            together = self.together_by_type(caption, its, kinds)
            if together is None:
                return None
            found |= {
                kind: [[unit[i] for unit in place] for place in together] for i, kind in enumerate(kinds)
            }
        return found

    def together_by_type(
        self, caption: str, types: Sequence[str], kinds: Sequence[str]
    ) -> list[list[tuple[str, ...]]] | None:
        """The valid texts of kinds that belong together, such as phrases and their foils.

        Args:
            caption: the caption.
            types: of the texts of the first kind.
            kinds: a text of the first one is what those of the others belong to (`of`).

        Returns:
            For each type a list of texts of the first kind, each with one of each other kind, in stored
            order: as often as there are others, and not at all if it lacks one. None without an entry.
        """
        found = self._find(caption)
        if not found:
            return None
        first, *others = kinds
        units = []
        for generator, entry in found:
            texts = [text for text in self._decode([(generator, entry)]) if text.valid]
            for owner in (text for text in texts if text.kind == first):
                owned = [[x.text for x in texts if x.kind == kind and x.of == owner.text] for kind in others]
                units += [(owner.type, (owner.text, *unit)) for unit in itertools.product(*owned)]
        return [[unit for its, unit in units if its == type] for type in types]

    def images(self, caption: str) -> list[str]:
        """The image files that the source named for a caption."""
        caption = normalise(caption)
        row = self._query(
            "SELECT images FROM caption WHERE key = ? AND text = ?", (key(caption), caption)
        ).fetchone()
        return json.loads(row[0]) if row else []

    def kinds(self) -> tuple[str, ...]:
        """The kinds of texts that the store knows, in the order in which they came."""
        return store_file.kinds(self._open())

    def generators(self) -> list[GeneratorRecord]:
        """The generators whose texts are here."""
        return list(store_file.generators(self._open()).values())

    def types(self, kind: str = NEGATIVE) -> tuple[str, ...]:
        """The types of which there are valid texts of a kind, in stored order: their places in a batch."""
        there = {
            (generator, type) for (generator, type, its, reason) in self.tally() if its == kind and not reason
        }
        declared = [(record.name, type) for record in self.generators() for type in record.types]
        return tuple(dict.fromkeys(type for name, type in declared if (name, type) in there))

    def tally(self) -> Counter[tuple[str, str, str, str]]:
        """The number of texts by (generator, type, kind, reason); the reason of a valid one is ""."""
        return store_file.tally(self._open())

    def close(self) -> None:
        """Close the file in this process; the next look-up opens it again."""
        if self._connection is not None and self._process == os.getpid():
            self._connection.close()
        self._connection = None

    def _find(self, caption: str) -> list[tuple[int, str | None]]:
        """The entries of a caption with the rows of their generators; empty if it is not here."""
        caption = normalise(caption)
        with self._reported():
            return self._query(FIND, (key(caption), caption)).fetchall()

    def _decode(self, entries: Sequence[tuple[int, str | None]]) -> list[Text]:
        return [
            text
            for generator, texts in entries
            if texts is not None
            for text in self._codecs[generator].decode(texts)
        ]

    def _open(self) -> sqlite3.Connection:
        # A connection must not be carried through a fork: SQLite forbids it.
        if self._connection is None or self._process != os.getpid():
            self._connection = store_file.connect(self.path, "mode=ro&immutable=1")
            self._process = os.getpid()
            kinds = store_file.kinds(self._connection)
            records = store_file.generators(self._connection)
            self._codecs = {row: store_file.Codec(record, kinds) for row, record in records.items()}
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
        kinds: the kinds of its texts.

    Raises InputError if `path` is not a store, is being written by someone else, or has texts of
    the same generator made in another way.
    """

    def __init__(
        self,
        path: str | Path,
        generator: str,
        version: str,
        params: Mapping[str, Any],
        types: Sequence[str],
        kinds: Sequence[str] = (NEGATIVE, POSITIVE),
    ) -> None:
        self.path = Path(path)
        record = GeneratorRecord(generator, version, store_file.plain(params), tuple(types))
        self._added: list[tuple[int, str, str, str]] = []  # since the last commit
        self._connection = store_file.create(self.path)
        try:
            with self._reported():
                self._generator = self._settle(record)
                with store_file.transaction(self._connection):
                    store_file.add_kinds(self._connection, kinds)
                self._codec = store_file.Codec(record, store_file.kinds(self._connection), kinds)
                there = "SELECT 1 FROM entry WHERE generator = ? LIMIT 1"
                self._begun = self._connection.execute(there, (self._generator,)).fetchone() is not None
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
        return any(generator == self._generator for generator, _ in found)

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is added inside becomes safe at its end, all at once: faster, for what is cheaply redone."""
        with self._reported(), store_file.transaction(self._connection):
            self._added = []
            yield
            store_file.count(self._connection, Counter(self._added))

    def add(self, caption: str, texts: Sequence[Candidate], images: Sequence[str] = ()) -> None:
        """Store what the generator made of a caption, rejected texts too, and the caption's images.

        Raises InputError if the generator did not declare a text's type or kind, or if the text that
        it belongs to is not there; TrainingError if it cannot be written: the disk is full, for example.
        """
        if not self._connection.in_transaction:
            with self.together():
                self.add(caption, texts, images)
            return
        try:
            entry = self._codec.encode(texts)
        except ValueError as error:
            raise InputError(f"{self._codec.record.name}, caption {caption[:80]!r}: {error}") from error
        self._begun = True
        row = store_file.caption_row(self._connection, normalise(caption), images)
        self._connection.execute("INSERT INTO entry VALUES (?, ?, ?)", (row, self._generator, entry))
        self._added += [(self._generator, text.type, text.kind, text.reason) for text in texts]

    def tally(self) -> Counter[tuple[str, str, str]]:
        """How many texts of this generator are here by (type, kind, reason)."""
        name = self._codec.record.name
        return Counter(
            {key[1:]: n for key, n in store_file.tally(self._connection).items() if key[0] == name}
        )

    def close(self) -> None:
        """Leave one plain file."""
        with self._reported():
            try:
                if not self._connection.in_transaction:
                    store_file.finish(self._connection)
            finally:
                self._connection.close()

    def _settle(self, record: GeneratorRecord) -> int:
        """The row of this generator, made if it is new."""
        for row, known in store_file.generators(self._connection).items():
            if known.name == record.name:
                if known == record:
                    return row
                if self._connection.execute(
                    "SELECT 1 FROM entry WHERE generator = ? AND texts != '[]' LIMIT 1", (row,)
                ).fetchone():
                    raise InputError(
                        f"{self.path}: it has texts of {record.name} made in another way "
                        f"({store_file.difference(known, record)}); give another --out"
                    )
                # It came to nothing, and the user was told to change something.
                with store_file.transaction(self._connection):
                    self._connection.execute("DELETE FROM entry WHERE generator = ?", (row,))
                    self._connection.execute("DELETE FROM generator WHERE id = ?", (row,))
        with store_file.transaction(self._connection):
            return store_file.insert_generator(self._connection, record)

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise TrainingError(
                f"{self.path}: writing failed ({error}); every finished caption is safe, so fix it and run "
                "the same command again"
            ) from error
