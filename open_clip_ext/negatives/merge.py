"""`negatives merge`: one store of the shards of an array job."""

from __future__ import annotations

import argparse
import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from open_clip_ext.errors import InputError, TrainingError
from open_clip_ext.negatives import store_file
from open_clip_ext.negatives.store import Store


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("out", type=Path, metavar="OUT", help="the store to make, or to add to")
    parser.add_argument("shards", type=Path, nargs="+", metavar="STORE", help="the stores to bring together")


def main(args: argparse.Namespace) -> int:
    """Merge; repeating it changes nothing."""
    came, there = merge(args.out, args.shards)
    print(
        f"{args.out}: {came} entries came from {len(args.shards)} stores, {there} were there already; "
        f"{len(Store.open(args.out))} captions"
    )
    return 0


def merge(out: str | Path, shards: Sequence[str | Path]) -> tuple[int, int]:
    """Bring the texts of `shards` into the store `out`; how many came, and how many were there.

    Doing it again changes nothing. Raises InputError if a shard is not a finished store, if a
    generator has worked in two ways, or if the same generator made different texts of a caption.
    """
    stores = [Store.open(shard) for shard in shards]
    connection = store_file.create(Path(out))
    came = there = 0
    try:
        known = {record.name: record for record in store_file.generators(connection).values()}
        for store in stores:
            for record in store.generators():
                if (other := known.setdefault(record.name, record)) != record:
                    raise InputError(
                        f"{store.path}: its {record.name} and that of {out} differ "
                        f"({store_file.difference(other, record)}); merge only what was made in one way"
                    )
        with store_file.transaction(connection):
            store_file.convert(connection)
            rows = {record.name: row for row, record in store_file.generators(connection).items()}
            for name, record in known.items():
                if name not in rows:
                    rows[name] = store_file.insert_generator(connection, record)
        for store in stores:
            with store_file.transaction(connection):
                store_file.add_kinds(connection, store.kinds())
                new, old = _add(connection, store, rows)
            came, there = came + new, there + old
        store_file.finish(connection)
    except sqlite3.Error as error:
        raise TrainingError(f"{out}: writing failed ({error}); fix it and merge again") from error
    finally:
        connection.close()
    return came, there


def _add(connection: sqlite3.Connection, store: Store, rows: Mapping[str, int]) -> tuple[int, int]:
    """Add the entries of a store; how many were new, and how many were there.

    Args:
        connection: of the store merged into.
        store: where the entries come from.
        rows: the row of each generator in the store merged into, by name.
    """
    new = old = 0
    added: Counter[tuple[int, str, str, str]] = Counter()
    kinds = store_file.kinds(connection)
    codecs = {record.name: store_file.Codec(record, kinds) for record in store.generators()}
    for caption, images, name, texts in store.written():
        row = store_file.caption_row(connection, caption, images)
        entry = codecs[name].encode(texts)
        there = connection.execute(
            "SELECT texts FROM entry WHERE caption = ? AND generator = ?", (row, rows[name])
        ).fetchone()
        if there is None:
            connection.execute("INSERT INTO entry VALUES (?, ?, ?)", (row, rows[name], entry))
            added.update((rows[name], text.type, text.kind, text.reason) for text in texts)
            new += 1
        elif there[0] == entry:
            old += 1
        else:
            raise InputError(
                f"{store.path}: other texts of {name} than in the store merged into, "
                f"for the caption {caption[:80]!r}; leave one of the two out"
            )
    store_file.count(connection, added)
    return new, old
