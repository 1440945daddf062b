"""The reader that sees no picture: what it must tell, what it cannot, and that it knows no answers."""

from __future__ import annotations

import json
import random
import re

import numpy as np
import pytest

from open_clip_ext.cli import main
from open_clip_ext.negatives import text_only
from open_clip_ext.negatives.records import Candidate
from open_clip_ext.negatives.store import Store, Writer
from open_clip_ext.negatives.text_only import Pair

PLACE = ("g", "t")
THINGS = [f"{a}{b}" for a in "bcdfg" for b in ("at", "og", "en", "ip")]


def drawn(count: int, edit, seed: int = 0) -> list[Pair]:
    """Captions of five pictures in six; `edit` makes a negative of one thing and another."""
    rng = random.Random(seed)
    pairs = []
    for i in range(count):
        one, other = rng.sample(THINGS, 2)
        pairs.append(Pair(f"a {one} on a mat", edit(one, other), f"picture {5 * i // 6}"))
    return pairs


def test_a_word_that_only_negatives_have_is_told():
    told = text_only.measure({PLACE: drawn(300, lambda one, _: f"a {one} on no mat")})[PLACE]
    assert told.accuracy == 1.0
    assert told.pairs == 300


def test_another_word_of_the_same_kind_cannot_be_told():
    told = text_only.measure({PLACE: drawn(2000, lambda _, other: f"a {other} on a mat")})[PLACE]
    assert abs(told.accuracy - 0.5) < 2 * told.half
    assert 0.01 < told.half < 0.04


def test_case_is_not_seen_but_signs_are():
    seen = {
        name: text_only.measure({PLACE: drawn(300, edit)})[PLACE].accuracy
        for name, edit in (
            ("case", lambda one, _: f"A {one.upper()} on a Mat"),
            ("sign", lambda one, _: f"a {one} on a mat ."),
        )
    }
    assert seen == {"case": 0.5, "sign": 1.0}  # ties are half a pair


def test_a_pair_is_scored_by_a_model_that_has_not_seen_its_picture():
    """Negatives with a word of their picture alone: with the answers one could tell them all."""
    rng = random.Random(0)
    pairs = []
    for i in range(300):
        texts = [f"a {rng.choice(THINGS)} w{i}", f"a {rng.choice(THINGS)} v{i}"]
        pairs += [Pair(*texts, f"picture {i}")] * 2
    assert abs(text_only.measure({PLACE: pairs})[PLACE].accuracy - 0.5) < 0.1


def test_the_interval_is_that_of_a_loop_over_pictures():
    rng = np.random.default_rng(0)
    scores, groups = rng.choice([0.2, 0.5, 0.9], 60), [f"{i // 3}" for i in range(60)]
    told = text_only._told(scores, groups)
    right = [1.0 if s > 0.5 else 0.5 if s == 0.5 else 0.0 for s in scores]
    assert told.accuracy == pytest.approx(sum(right) / 60)
    spread = sum(
        sum(r - told.accuracy for r, g in zip(right, groups, strict=True) if g == group) ** 2
        for group in set(groups)
    )
    assert told.half == pytest.approx(1.96 * spread**0.5 / 60)


def test_of_too_few_nothing_is_said():
    few = drawn(text_only.FEWEST - 1, lambda one, _: f"no {one}")
    one_picture = [pair._replace(group="the same") for pair in drawn(100, lambda one, _: f"no {one}")]
    assert text_only.measure({PLACE: few, ("g", "u"): one_picture}) == {PLACE: None, ("g", "u"): None}
    assert text_only.Readers({PLACE: few}).score(PLACE, few).tolist() == [0.5] * len(few)


@pytest.fixture
def store(tmp_path):
    """Negatives of one type that give themselves away, and of one that do not."""
    path = tmp_path / "n.store"
    rng = random.Random(0)
    with Writer(path, "g", "1", {}, ["told", "fair"]) as writer, writer.together():
        for i in range(400):
            one, other = rng.sample(THINGS, 2)
            caption = f"a {one} on mat {i}"
            texts = [Candidate("told", f"no {one} on mat {i}"), Candidate("fair", f"a {other} on mat {i}")]
            writer.add(caption, texts, [f"{i // 2}.jpg"])
    return path


def test_stats_say_it(store, capsys):
    assert main(["negatives", "stats", str(store), "--text-only"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"g  told +400 +100\.0 +0\.0\n", printed)
    assert main(["negatives", "stats", str(store), "--text-only", "--json"]) == 0
    told, fair = json.loads(capsys.readouterr().out)["kinds"]
    assert told["told"] == {"pairs": 400, "accuracy": 1.0, "half": 0.0}
    assert abs(fair["told"]["accuracy"] - 0.5) < 0.1
    assert main(["negatives", "stats", str(store), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kinds"][0]["told"] is None


def test_types_of_too_few_are_named(tmp_path, capsys):
    """Without that, `kept 100 %` looks like negatives that texts do not give away."""
    path = tmp_path / "n.store"
    with Writer(path, "g", "1", {}, ["rare"]) as writer:
        for i in range(text_only.FEWEST - 1):
            writer.add(f"a cat on mat {i}", [Candidate("rare", f"no cat on mat {i}")], [f"{i}.jpg"])
    said = "Too few to say how texts alone tell them (below 50 pairs, or too few pictures): g rare"
    assert main(["negatives", "stats", str(path), "--text-only"]) == 0
    assert f"{said}\n" in capsys.readouterr().out
    assert main(["negatives", "select", str(path), "--plausible", "--out", str(tmp_path / "o.store")]) == 0
    assert f"{said}; none of these is dropped as text_tells\n" in capsys.readouterr().out


def test_select_keeps_what_cannot_be_told(store, tmp_path):
    """No model, no pictures: the texts alone."""
    out = tmp_path / "o.store"
    assert main(["negatives", "select", str(store), "--plausible", "--out", str(out)]) == 0
    tally = Store.open(out).tally()
    assert tally["g", "told", "neg", "text_tells"] == 400
    assert tally["g", "fair", "neg", ""] > 100
    readers = text_only.Readers(text_only.sample(Store.open(store)))
    for caption, images, texts in Store.open(out).entries():
        fair = texts[1]
        (score,) = readers.score(("g", "fair"), [Pair(caption, fair.text, images[0])])
        assert fair.reason == ("" if 0.3 <= score <= 0.7 else "text_tells")


def test_pictures_of_a_file_make_the_folds_of_sample_and_scores(store, tmp_path):
    """With `--captions` what a model has seen is told by that file's pictures, on both sides."""
    table, out = tmp_path / "captions.csv", tmp_path / "o.store"
    entries = list(Store.open(store).entries())
    rows = "".join(f"{caption},other/{i // 4}.jpg\n" for i, (caption, *_) in enumerate(entries))
    table.write_text(f"title,filepath\n{rows}")
    call = ["negatives", "select", str(store), "--plausible", "--captions", str(table), "--out", str(out)]
    assert main(call) == 0
    moved = [(caption, [f"other/{i // 4}.jpg"], texts) for i, (caption, _, texts) in enumerate(entries)]
    pairs = text_only.sample(Store.open(store), entries=moved)["g", "fair"]
    scores = text_only.Readers({("g", "fair"): pairs}).score(("g", "fair"), pairs)
    reasons = [texts[1].reason for _, _, texts in Store.open(out).entries()]
    assert reasons == ["" if 0.3 <= score <= 0.7 else "text_tells" for score in scores]


def test_a_large_store_is_sampled_by_pictures(store):
    full, part = (text_only.sample(Store.open(store), most)["g", "fair"] for most in (400, 100))
    assert len(full) == 400
    assert 50 < len(part) < 150
    groups = {pair.group for pair in part}
    assert [pair for pair in full if pair.group in groups] == part


def test_without_scikit_learn(store, monkeypatch, capsys):
    import sys

    monkeypatch.setitem(sys.modules, "sklearn.feature_extraction.text", None)
    with pytest.raises(SystemExit) as stopped:
        main(["negatives", "stats", str(store), "--text-only"])
    assert stopped.value.code == 2
    assert "a classifier of texts needs scikit-learn; pip install" in capsys.readouterr().err


def test_a_store_without_negatives(tmp_path, capsys):
    path = tmp_path / "n.store"
    with Writer(path, "g", "1", {}, ["t"], ["pos"]) as writer:
        writer.add("a", [Candidate("t", "b", "pos")])
    with pytest.raises(SystemExit):
        main(["negatives", "stats", str(path), "--text-only"])
    assert f"{path}: it has no valid negatives" in capsys.readouterr().err
