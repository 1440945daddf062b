"""A copy of a store in which some texts have become rejected ones."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from open_clip_ext.errors import TrainingError
from open_clip_ext.files import atomic_write
from open_clip_ext.negatives import store_file
from open_clip_ext.negatives.records import Text
from open_clip_ext.negatives.store import Store

SELECTED = "selected"  # what was done to the texts of a generator, among its `params`
AT_ONCE = 1024  # captions

Entry = tuple[str, Sequence[str], Sequence[Text]]


def rewrite(store: Store, out: Path, note: Mapping[str, Any], entries: Iterable[Entry]) -> None:
    """Write the store `out`, which is there when it is complete and not before.

    Args:
        store: whose generators and kinds the new store has.
        out: the new store.
        note: how texts were selected; it is added to what identifies each generator, so that `make` and
            `merge` do not mix selected texts with others.
        entries: caption, images and all texts of each caption, as `Store.entries` yields them. A text that
            belongs to a rejected one is rejected, too.

    Raises TrainingError if it cannot be written.
    """

    def write(part: Path) -> None:
        connection = store_file.create(part)
        try:
            _write(connection, store, note, iter(entries))
            store_file.finish(connection)
        finally:
            connection.close()

    try:
        atomic_write(out, write)
    except (sqlite3.Error, OSError) as error:
        raise TrainingError(f"--out {out}: writing failed ({error})") from error


def _write(
    connection: sqlite3.Connection, store: Store, note: Mapping[str, Any], entries: Iterable[Entry]
) -> None:
    codecs: dict[str, tuple[int, store_file.Codec]] = {}
    with store_file.transaction(connection):
        store_file.add_kinds(connection, store.kinds())
        for record in store.generators():
            params = {**record.params, SELECTED: [*record.params.get(SELECTED, ()), dict(note)]}
            record = replace(record, params=params)
            row = store_file.insert_generator(connection, record)
            codecs[record.name] = row, store_file.Codec(record, store_file.kinds(connection))
    entries = iter(entries)
    while batch := list(islice(entries, AT_ONCE)):
        added: list[tuple[int, str, str, str]] = []
        with store_file.transaction(connection):
            for caption, images, texts in batch:
                place = store_file.caption_row(connection, caption, images)
                texts = _with_those_that_belong(texts)
                for name, (row, codec) in codecs.items():
                    if its := [text for text in texts if text.generator == name]:
                        entry = place, row, codec.encode(its)
                        connection.execute("INSERT INTO entry VALUES (?, ?, ?)", entry)
                        added += [(row, text.type, text.kind, text.reason) for text in its]
            store_file.count(connection, Counter(added))


def _with_those_that_belong(texts: Sequence[Text]) -> list[Text]:
    gone = {(text.generator, text.text) for text in texts if not text.valid}
    return [
        replace(text, reason="unattached")
        if text.valid and text.of and (text.generator, text.of) in gone
        else text
        for text in texts
    ]
