"""Stores of format 1 are read as they are, converted when they are written, and train as before."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from support_negatives import content

from open_clip_ext import cli
from open_clip_ext.data import CompanionCollate
from open_clip_ext.errors import InputError, TrainingError
from open_clip_ext.negatives import store_file
from open_clip_ext.negatives.merge import merge
from open_clip_ext.negatives.records import Candidate, Text
from open_clip_ext.negatives.store import Store, Writer

TYPES = ("swap_noun", "replace_noun")
# As versions before 0.2 wrote it: the third member of a text was `keeps`, 0 of a negative, 1 of a positive.
FORMAT_1 = r"""
CREATE TABLE generator (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, version TEXT NOT NULL,
    params TEXT NOT NULL, types TEXT NOT NULL);
CREATE TABLE caption (id INTEGER PRIMARY KEY, key INTEGER NOT NULL, text TEXT NOT NULL, images TEXT NOT NULL);
CREATE INDEX caption_key ON caption (key);
CREATE TABLE entry (caption INTEGER NOT NULL, generator INTEGER NOT NULL, texts TEXT NOT NULL);
CREATE UNIQUE INDEX entry_caption ON entry (caption, generator);
CREATE TABLE tally (generator INTEGER NOT NULL, type TEXT NOT NULL, keeps INTEGER NOT NULL,
    reason TEXT NOT NULL, count INTEGER NOT NULL, PRIMARY KEY (generator, type, keeps, reason)) WITHOUT ROWID;
INSERT INTO generator VALUES (1, 'drawn', '1', '{"seed": 0}', '["swap_noun", "replace_noun"]');
INSERT INTO caption VALUES (1, -492210254634494649, 'a dog on a bench', '["1.jpg"]');
INSERT INTO caption VALUES (2, -5137499837262724816, 'a cat near a car', '[]');
INSERT INTO entry VALUES (1, 1, '[[1,"a cat on a bench",0,""],[0,"a bench on a dog",0,""],'
    || '[1,"a hound on a bench",1,""],[1,"a cow on a bench",0,""],[0,"a dog on a bench",0,"identical"]]');
INSERT INTO entry VALUES (2, 1, '[[0,"a car near a cat",0,""]]');
INSERT INTO tally VALUES (1, 'replace_noun', 0, '', 2), (1, 'replace_noun', 1, '', 1),
    (1, 'swap_noun', 0, '', 2), (1, 'swap_noun', 0, 'identical', 1);
PRAGMA user_version = 1;
PRAGMA application_id = 0x6F63786E;
"""
CONTENT = {
    "a dog on a bench": [
        Candidate("replace_noun", "a cat on a bench"),
        Candidate("swap_noun", "a bench on a dog"),
        Candidate("replace_noun", "a hound on a bench", "pos"),
        Candidate("replace_noun", "a cow on a bench"),
        Candidate("swap_noun", "a dog on a bench", reason="identical"),
    ],
    "a cat near a car": [Candidate("swap_noun", "a car near a cat")],
}


@pytest.fixture
def old(tmp_path) -> Path:
    """A store of format 1."""
    with sqlite3.connect(tmp_path / "old") as connection:
        connection.executescript(FORMAT_1)
    connection.close()
    return tmp_path / "old"


def write(path: Path, captions=CONTENT) -> Path:
    with Writer(path, "drawn", "1", {"seed": 0}, TYPES) as writer:
        for caption in captions:
            if not writer.finished(caption):
                images = ["1.jpg"] if caption == "a dog on a bench" else []
                writer.add(caption, CONTENT[caption], images)
    return path


@pytest.fixture
def new(tmp_path) -> Path:
    """The same in the format of today."""
    return write(tmp_path / "new")


def form(path: Path) -> int:
    return int.from_bytes(path.read_bytes()[60:64], "big")


def tables(path: Path) -> list[str]:
    """Everything in a store's file, its tables as they were defined."""
    with sqlite3.connect(path) as connection:
        lines = sorted(" ".join(line.split()) for line in connection.iterdump())
    connection.close()
    return lines


def test_format_1_reads_as_format_2_does_and_reading_changes_nothing(old, new):
    before = old.read_bytes()
    assert (form(old), form(new)) == (1, 2)
    assert content(old) == content(new)
    store = Store.open(old)
    assert store.kinds() == ("neg", "pos")
    assert [text.text for text in store.texts("a dog on a bench", "pos")] == ["a hound on a bench"]
    assert store.types("neg") == TYPES
    assert store.types("pos") == ("replace_noun",)
    assert old.read_bytes() == before


@pytest.mark.parametrize(
    ("command", "flags", "part"),
    [
        ("stats", ["--json"], '"kind": "pos",\n   "texts": 1'),
        ("show", ["--rejected"], "  \u2248 replace_noun  a [hound] on a bench\n"),
        ("export", ["--out", "{0}/out.csv", "--images", "{0}"], '""a bench on a dog"", ""a cat on a bench""'),
    ],
)
def test_every_command_that_reads_says_the_same(old, new, tmp_path, capsys, command, flags, part):
    (tmp_path / "1.jpg").touch()
    said = []
    for path in (old, new):
        store, table = tmp_path / "store", tmp_path / "out.csv"
        path.rename(store)
        words = [command, str(store), *(flag.format(tmp_path) for flag in flags)]
        assert cli.main(["negatives", *words]) == 0
        said.append(capsys.readouterr().out + (table.read_text() if table.exists() else ""))
        table.unlink(missing_ok=True)
    assert said[0] == said[1]
    assert part in said[0]


def test_a_batch_of_training_is_the_same(old, new):
    numbers: dict[str, int] = {}

    def tokenizer(texts):
        import torch

        return torch.tensor([[numbers.setdefault(text, 1 + len(numbers))] for text in texts])

    def batches(path):
        store = Store.open(path)
        collate = CompanionCollate(tokenizer, {"neg": 2})
        for epoch in range(8):
            collate.set_epoch(epoch)
            found = [{"neg": store.texts_by_type(caption, store.types("neg"), "neg")} for caption in CONTENT]
            yield collate.texts(list(CONTENT), found).tolist()

    of_old, of_new = list(batches(old)), list(batches(new))
    assert of_old == of_new
    # Each type has its place; of the two replacements one is drawn in each epoch.
    drawn = [[numbers[text] for text in ("a bench on a dog", other)] for other in
             ("a cat on a bench", "a cow on a bench")]  # fmt: skip
    assert {tuple(row[0] for row in batch[0][1:]) for batch in of_old} == set(map(tuple, drawn))


def test_a_writer_converts(old, new):
    with Writer(old, "drawn", "1", {"seed": 0}, TYPES) as writer:
        assert writer.finished("a dog on a bench")
        assert not writer.finished("a bird")
    assert form(old) == 2
    assert tables(old) == tables(new)


def test_opening_a_store_of_today_writes_nothing(new):
    with Writer(new, "drawn", "1", {"seed": 0}, TYPES):
        assert store_file.log_of(new).stat().st_size == 0


def test_make_goes_on_with_a_store_of_format_1(old, tmp_path):
    with sqlite3.connect(old) as connection:
        connection.execute("DELETE FROM entry WHERE caption = 2")
        connection.execute("DELETE FROM caption WHERE id = 2")
        connection.execute("UPDATE tally SET count = 1 WHERE type = 'swap_noun' AND reason = ''")
    connection.close()
    assert content(write(old)) == content(write(tmp_path / "new"))


def test_another_way_of_making_is_still_refused(old):
    with pytest.raises(InputError, match="seed: 0 there, 1 now"):
        Writer(old, "drawn", "1", {"seed": 1}, TYPES)
    assert list(Store.open(old).captions()) == list(CONTENT)


@pytest.mark.parametrize("out", ["none", "old", "new"])
def test_formats_are_merged(old, tmp_path, out):
    """A store of format 1 and one of format 2, into a new store or into one of either format."""
    second = tmp_path / "second"
    with Writer(second, "second", "1", {}, ["unit"], ["phrase", "foil"]) as writer:
        writer.add("a dog on a bench", PARTS)
    shards = [second, old]
    target = tmp_path / "none"
    if out == "old":
        target = tmp_path / "copy"
        target.write_bytes(old.read_bytes())
    elif out == "new":
        target = write(tmp_path / "new", ["a cat near a car"])
    came, there = merge(target, shards)
    assert (came + there, there) == (3, {"none": 0, "old": 2, "new": 1}[out])
    assert form(target) == 2
    store = Store.open(target)
    assert store.kinds() == ("neg", "pos", "phrase", "foil")
    texts = store.texts("a dog on a bench", rejected=True)
    of_first = [Text(c.type, c.text, c.kind, c.reason, c.of, "drawn") for c in CONTENT["a dog on a bench"]]
    of_second = [Text(c.type, c.text, c.kind, c.reason, c.of, "second") for c in PARTS]
    assert sorted(map(repr, texts)) == sorted(map(repr, of_first + of_second))
    assert store.tally() == Store.open(old).tally() + Store.open(second).tally()
    assert merge(target, shards) == (0, 3)


# --- the conversion is whole or has not happened


def test_a_conversion_that_fails_changes_nothing(old, monkeypatch):
    before = content(old)
    broken = {1: (*store_file.CONVERSIONS[1], "INSERT INTO absent VALUES (1)")}
    monkeypatch.setattr(store_file, "CONVERSIONS", broken)
    with pytest.raises(TrainingError, match="writing failed"):
        write(old)
    assert form(old) == 1
    assert content(old) == before
    monkeypatch.undo()
    assert content(write(old)) == before


def test_a_refused_writer_or_merge_leaves_the_format(old, tmp_path):
    with pytest.raises(InputError, match="made in another way"):
        Writer(old, "drawn", "1", {"seed": 1}, TYPES)
    with Writer(tmp_path / "other", "drawn", "1", {"seed": 1}, TYPES):
        pass
    with pytest.raises(InputError, match="differ"):
        merge(old, [tmp_path / "other"])
    assert form(old) == 1


def test_a_truncated_store_is_refused_in_a_sentence(old):
    old.write_bytes(old.read_bytes()[:3000])
    with pytest.raises(InputError, match=r"it cannot be read .*; make it anew"):
        Writer(old, "other", "1", {}, TYPES)


@pytest.mark.parametrize("moment", [*range(len(store_file.CONVERSIONS[1])), "converted"])
def test_a_kill_at_any_moment_of_the_conversion_loses_nothing(old, new, moment):
    script = f"""
import os, signal, sys
from open_clip_ext.negatives import store_file
from open_clip_ext.negatives.store import Writer

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

class Killed(tuple):
    def __iter__(self):
        for number, statement in enumerate(tuple.__iter__(self)):
            if number == {moment!r}:
                kill()
            yield statement

store_file.CONVERSIONS = {{1: Killed(store_file.CONVERSIONS[1])}}
Writer(sys.argv[1], "drawn", "1", {{"seed": 0}}, {TYPES})
kill()
"""
    killed = subprocess.run([sys.executable, "-c", script, old], capture_output=True, check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert content(write(old)) == content(new)
    assert tables(old) == tables(new)


def test_a_newer_format_is_refused_by_readers_and_writers(new):
    with sqlite3.connect(new) as connection:
        connection.execute("PRAGMA user_version = 3")
    connection.close()
    sentence = "a negatives store of format 3; this version reads formats up to 2, so update open_clip_ext"
    with pytest.raises(InputError, match=sentence):
        Store.open(new)
    with pytest.raises(InputError, match=sentence):
        write(new)
    assert form(new) == 3


# --- what format 2 is for

PARTS = [
    Candidate("unit", "a dog", "phrase"),
    Candidate("unit", "a cow", "foil", of="a dog"),
    Candidate("unit", "a bench", "phrase"),
    Candidate("unit", "a bench", "foil", "unchanged", of="a bench"),
]


def test_texts_of_other_kinds_and_what_they_belong_to(tmp_path):
    with Writer(tmp_path / "s", "parts", "1", {}, ["unit"], ["phrase", "foil"]) as writer:
        writer.add("a dog on a bench", PARTS)
    store = Store.open(tmp_path / "s")
    texts = store.texts("a dog on a bench", rejected=True)
    assert texts == [Text(c.type, c.text, c.kind, c.reason, c.of, "parts") for c in PARTS]
    assert store.texts("a dog on a bench", "foil") == [texts[1]]
    assert store.texts_by_type("a dog on a bench", ["unit"], "phrase") == [["a dog", "a bench"]]
    assert store.types("foil") == ("unit",)
    assert store.types("neg") == ()
    assert store.tally()["parts", "unit", "foil", "unchanged"] == 1


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (
            Candidate("part", "x", "phrase"),
            "a text of the type 'part'; declare it in the generator's `types`",
        ),
        (Candidate("unit", "x", "foil"), "a text of the kind 'foil'; declare it in the generator's `kinds`"),
        (Candidate("unit", "x"), "a text of the kind 'neg'; declare it in the generator's `kinds`"),
        (
            Candidate("unit", "x", "phrase", of="y"),
            "a text that belongs to 'y', which must be a text before it",
        ),
    ],
)
def test_what_a_generator_did_not_declare(tmp_path, wrong, sentence):
    with Writer(tmp_path / "s", "parts", "1", {}, ["unit"], ["phrase"]) as writer:
        with pytest.raises(InputError) as stopped:
            writer.add("a dog", [wrong])
        assert str(stopped.value) == f"parts, caption 'a dog': {sentence}"
    assert len(Store.open(tmp_path / "s")) == 0
