"""The figures of a store against a count by hand and by loops."""

from __future__ import annotations

import itertools
import json
import random

import pytest

from open_clip_ext.cli import main
from open_clip_ext.language import word_diff, words
from open_clip_ext.negatives.records import Candidate
from open_clip_ext.negatives.stats import summarise
from open_clip_ext.negatives.store import Store, Writer


@pytest.fixture
def store(tmp_path):
    path = tmp_path / "n.store"
    with Writer(path, "one", "3", {"seed": 7}, ["swap", "replace"]) as writer:
        writer.add(
            "A dog sees a cat .",
            [
                Candidate("swap", "A cat sees a dog ."),
                Candidate("swap", "a cat sees a dog"),  # the same, but for case and stop
                Candidate("replace", "A red dog sees a cat ."),
                Candidate("replace", "A dog", reason="length"),
                Candidate("replace", "A cat is seen by a dog .", kind="pos"),
            ],
        )
        writer.add("A cat sees a dog .", [Candidate("replace", "A cat sees a cow .")])
        writer.add("Nothing .", [Candidate("swap", "", reason="empty")])
    with Writer(path, "two", "1", {}, ["swap"]) as writer:
        writer.add("Nothing .", [Candidate("swap", ". Nothing")])
    return path


def test_every_figure(store):
    summary = summarise(Store.open(store))
    figures = {(t.generator, t.type, t.kind): vars(t) for t in summary.types}
    assert list(figures) == [
        ("one", "swap", "neg"),
        ("one", "replace", "neg"),
        ("one", "replace", "pos"),
        ("two", "swap", "neg"),
    ]
    picked = ("texts", "captions", "words", "edits", "repeated", "captions_too", "rejected")
    assert {key: tuple(found[name] for name in picked) for key, found in figures.items()} == {
        ("one", "swap", "neg"): (2, 1, 5.5, 2.5, 1, 2, 1),
        ("one", "replace", "neg"): (2, 2, 6.5, 1.0, 0, 0, 1),
        ("one", "replace", "pos"): (1, 1, 8.0, 5.0, 0, 0, 0),
        ("two", "swap", "neg"): (1, 1, 2.0, 2.0, 0, 0, 0),
    }
    assert summary.captions == 3
    assert summary.counts["neg"] == {3: 1, 1: 2}
    assert summary.counts["pos"] == {1: 1, 0: 2}
    assert summary.reasons == [("one", "replace", "length", 1), ("one", "swap", "empty", 1)]


def test_the_tables(store, capsys):
    assert main(["negatives", "stats", str(store)]) == 0
    printed = capsys.readouterr().out
    assert "one, version 3: seed=7\ntwo, version 1\n" in printed
    for line in (
        "one  swap         2         33.3    5.5    2.5         1              2         1",
        "one  replace      2         66.7    6.5    1.0         0              0         1",
        "Captions by their number of negatives",
        "1         2  66.7",
        "one  replace  length      1",
    ):
        assert line in printed


def test_json_says_the_same(store, capsys):
    assert main(["negatives", "stats", str(store), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["captions"] == 3
    assert found["negatives"] == {"1": 2, "3": 1}
    assert found["reasons"][0] == {"generator": "one", "type": "replace", "reason": "length", "texts": 1}
    assert found["kinds"][0]["edits"] == 2.5


@pytest.mark.parametrize("command", ["stats", "show", "export"])
def test_what_is_no_store(command, tmp_path, capsys):
    (tmp_path / "x").write_text("no")
    out = ["--out", str(tmp_path / "y.csv")] if command == "export" else []
    for path in (tmp_path / "x", tmp_path / "none"):
        with pytest.raises(SystemExit) as stopped:
            main(["negatives", command, str(path), *out])
        assert stopped.value.code == 2
        assert f"{path}: " in capsys.readouterr().err


def levenshtein(one: list[str], other: list[str]) -> int:
    if not one or not other:
        return len(one) + len(other)
    return min(
        levenshtein(one[1:], other) + 1,
        levenshtein(one, other[1:]) + 1,
        levenshtein(one[1:], other[1:]) + (one[0] != other[0]),
    )


@pytest.mark.parametrize("seed", range(100))
def test_edits_against_the_definition(seed):
    rng = random.Random(seed)
    caption, text = (" ".join(rng.choices(["a", "dog", "cat's", "sees", ",", "red"], k=rng.randrange(6)))
                     for _ in range(2))  # fmt: skip
    spoken = [[token[2] for token in words.split(t)] for t in (caption, text)]
    assert [word_diff.spoken(caption), word_diff.spoken(text)] == spoken
    assert word_diff.distance(*spoken) == levenshtein(*spoken)

    pieces = word_diff.pieces(caption, text)
    assert "".join(piece.text for piece in pieces if piece.change != "gone") == text
    before = [piece.text if piece.change != "new" else piece.was for piece in pieces]
    assert [t[2] for part in before for t in words.split(part)] == spoken[0]
    same = [piece.change == "same" for piece in pieces]
    assert all(one is not other for one, other in itertools.pairwise(same))


def test_case_is_no_edit_and_neighbouring_edits_are_one():
    assert word_diff.spoken("A Dog sees a cat") == word_diff.spoken("a dog sees a cat")
    assert word_diff.pieces("A dog sees a cat .", "A big dog of ours sees it .") == [
        ("A", "same", ""),
        (" big", "new", ""),
        (" dog", "same", ""),
        (" of ours", "new", ""),
        (" sees", "same", ""),
        (" it", "new", "a cat"),
        (" .", "same", ""),
    ]
