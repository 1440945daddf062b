"""`negatives select`: what is kept, against the model's own similarities; what is refused."""

from __future__ import annotations

import math

import numpy as np
import open_clip
import pytest
import torch
from fakes import FakeEncoder
from PIL import Image
from support_negatives import content

from open_clip_ext.cli import main
from open_clip_ext.evaluation import models
from open_clip_ext.evaluation.items import Picture
from open_clip_ext.mining.scores import Scorer
from open_clip_ext.mining.selection import Rule
from open_clip_ext.negatives.records import Candidate, Text
from open_clip_ext.negatives.rewrite import rewrite
from open_clip_ext.negatives.store import Store, Writer


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Rule(), "near_truth    near_truth"),
        (Rule(margin=-0.05), "    near_truth"),
        (Rule(margin=0.1), "near_truth near_truth   near_truth"),
        (Rule(floor=0.2), "near_truth  too_easy too_easy near_truth"),
        (Rule(count=1), "near_truth  not_hardest not_hardest near_truth"),
        (Rule(count=2, floor=0.12), "near_truth   too_easy near_truth"),
        (Rule(margin=0.1, floor=0.12, count=1), "near_truth near_truth  too_easy near_truth"),
    ],
)
def test_the_rule(rule, expected):
    """One negative above its caption, one a little below, two far below, one far above."""
    reasons = rule.reasons(np.array([0.32, 0.25, 0.15, 0.10, 0.50]), np.array([0.3] * 5))
    assert reasons == expected.split(" ")


def test_of_equal_negatives_the_first_is_kept():
    assert Rule(count=1).reasons(np.array([0.1, 0.1]), np.array([0.3, 0.3])) == ["", "not_hardest"]


class Counted:
    """In the place of `features.Model`."""

    def __init__(self, folder):
        self.folder, self.fake = folder, FakeEncoder(8)

    def encoder(self):
        return self.fake


def test_scores_are_those_of_a_loop_and_are_kept(tmp_path):
    pictures = {name: Picture(name) for name in ("a", "b", "c")}
    model = Counted(tmp_path)
    features = model.fake.pictures(list(pictures.values()))
    block = [
        ("one", ["a"], [Text("t", "neg 1"), Text("t", "neg 2", reason="length"), Text("t", "neg 3")]),
        ("two", ["b", "gone", "c"], [Text("t", "true", "pos"), *(Text("t", f"neg {i}") for i in range(6))]),
        ("three", ["gone"], [Text("t", "neg 1")]),
        ("four", ["a"], []),
    ]
    rows = dict(zip(pictures, range(3), strict=True))
    scorer = Scorer(model, features.numpy(), [b"1", b"2", b"3"], rows)
    found = scorer(block)
    assert [None if x is None else len(x) for x in found] == [2, 6, None, 0]
    for (caption, images, texts), scores in zip(block[:2], found, strict=False):
        t, *n = model.fake.texts([caption, *(x.text for x in texts if x.valid and x.kind == "neg")])
        for negative, (theirs, own) in zip(n, scores, strict=True):
            views = [features[rows[image]] for image in images if image in rows]
            v = max(views, key=lambda v: float(v @ negative - v @ t))
            assert (theirs, own) == pytest.approx((float(v @ negative), float(v @ t)), abs=1e-6)
    model.fake.encoded.clear()
    again = scorer(block)
    assert model.fake.encoded == []
    for one, other in zip(found, again, strict=True):
        assert (one is None and other is None) or (one == other).all()
    Scorer(model, features.numpy(), [b"1", b"2", b"other"], rows)(block)
    assert model.fake.encoded  # another picture: the scores are not its


def similarities(name, file):
    """By open_clip alone: of a picture and a text."""
    model = models.load(name, file, activation="gelu", device="cpu")
    tokenizer = open_clip.get_tokenizer(name)

    @torch.no_grad()
    def of(image, text):
        v = model.model.encode_image(model.preprocess(Image.open(image).convert("RGB"))[None], normalize=True)
        return float(v @ model.model.encode_text(tokenizer([text]), normalize=True).T)

    return of


def test_the_hardest_of_each_caption_is_kept(data, flags, weights, tmp_path, capsys):
    _, store = data
    out = tmp_path / "out.store"
    call = ["negatives", "select", str(store), "--keep", "hardest", "--margin", "-0.002", *flags]
    assert main([*call, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    similar = similarities(*weights[:2])
    kept = 0
    for caption, images, texts in Store.open(store).entries():
        negatives = {x.text: similar(images[0], x.text) for x in texts if x.kind == "neg" and x.valid}
        limit = similar(images[0], caption) + 0.002
        best = max((text for text, s in negatives.items() if s <= limit), key=negatives.get, default=None)
        left = [x.text for x in Store.open(out).texts(caption, "neg")]
        assert left == ([best] if best else [])
        kept += len(left)
        assert [x.text for x in Store.open(out).texts(caption, "pos")] == [
            x.text for x in texts if x.kind == "pos"
        ]
    assert kept > 4
    tally = Store.open(out).tally()
    assert sum(n for (*_, kind, reason), n in tally.items() if kind == "neg" and not reason) == kept
    assert tally["drawn", "cross", "neg", "length"] == 1
    assert sum(tally.values()) == sum(Store.open(store).tally().values())
    for line in ("near_truth  not_hardest", "below 0 the model prefers the negative"):
        assert line in printed
    (record,) = Store.open(out).generators()
    assert record.params["selected"][0]["keep"] == "hardest"
    assert len(record.params["selected"][0]["by"]["sha256"]) == 64


def test_the_pictures_of_a_file_in_place_of_the_store_s(data, flags, tmp_path):
    table, store = data
    bare = tmp_path / "bare.store"
    with Writer(bare, "drawn", "1", {"seed": 0}, ["swap", "cross", "both", "turn", "same"]) as writer:
        for caption, _, texts in Store.open(store).entries():
            writer.add(caption, texts)
    for source, name, more in ((store, "1", []), (bare, "2", ["--captions", str(table)])):
        out = str(tmp_path / f"{name}.store")
        band = ["--keep", "band", "--floor", "-0.9", "--out", out]
        assert main(["negatives", "select", str(source), *band, *more, *flags]) == 0
    one, other = ({c: t for c, _, t in content(tmp_path / f"{name}.store")[0]} for name in "12")
    assert one == other


def test_captions_whose_picture_is_not_there(data, flags, tmp_path, stop):
    _, store = data
    (tmp_path / "3.png").unlink()
    call = ["select", store, "--out", tmp_path / "o.store", "--keep", "hardest", *flags]
    assert stop(*call) == (
        "1 of 12 pictures are not there, such as 3.png; name their folder with --images, or leave them out "
        "with --allow-missing"
    )
    assert main(["negatives", *map(str, call), "--allow-missing"]) == 0
    tally = Store.open(tmp_path / "o.store").tally()
    assert sum(n for (*_, reason), n in tally.items() if reason == "no_picture") == 4


def test_a_text_that_belongs_to_a_rejected_one_goes_too(tmp_path):
    with Writer(tmp_path / "a", "units", "1", {}, ["t"], ["phrase", "foil"]) as writer:
        foil = Candidate("t", "a cat", "foil", of="a dog")
        writer.add("a dog runs", [Candidate("t", "a dog", "phrase"), foil])
    store = Store.open(tmp_path / "a")
    caption, images, (phrase, foil) = next(store.entries())
    phrase.reason = "too_easy"
    rewrite(store, tmp_path / "b", {}, [(caption, images, [phrase, foil])])
    texts = Store.open(tmp_path / "b").texts(caption, rejected=True)
    assert [(x.text, x.reason, x.of) for x in texts] == [
        ("a dog", "too_easy", ""),
        ("a cat", "unattached", "a dog"),
    ]


def test_selected_and_other_texts_of_a_generator_are_not_mixed(data, flags, tmp_path, stop):
    _, store = data
    out = tmp_path / "o.store"
    assert main(["negatives", "select", str(store), "--out", str(out), "--keep", "hardest", *flags]) == 0
    assert "its drawn and that of" in stop("merge", out, store)


def test_a_failure_leaves_no_store(data, tmp_path):
    def entries():
        yield "a", [], []
        raise RuntimeError("the model fell over")

    with pytest.raises(RuntimeError):
        rewrite(Store.open(data[1]), tmp_path / "o.store", {}, entries())
    assert not [path for path in tmp_path.iterdir() if "o.store" in path.name]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "--keep: missing; give --keep hardest or band, or --plausible, or both"),
        (["--plausible", "--floor", "0.1"], "--floor: without effect, since --keep is missing"),
        (
            ["--plausible", "--model", "x", "--images", "y"],
            "--model, --images: without effect, since --keep is missing",
        ),
        (["--keep", "band"], "--keep band: needs --floor, the least similarity to the picture, such as 0.15"),
        (["--keep", "hardest", "--count", "0"], "--count 0: give at least 1"),
        (["--keep", "hardest", "--margin", "3"], "--margin 3.0: give a cosine, from -2 to 2"),
        (["--keep", "hardest", "--margin", "nan"], "--margin nan: give a cosine, from -2 to 2"),
        (["--keep", "band", "--floor", "1.5"], "--floor 1.5: give a cosine, from -1 to 1"),
        (["--plausible", "0.5"], "--plausible 0.5: give a probability above 0.5, up to 1"),
        (["--plausible", "--batch-size", "0"], "--batch-size 0: give at least 1"),
    ],
)
def test_options_that_are_wrong(data, tmp_path, stop, options, sentence):
    assert stop("select", data[1], "--out", tmp_path / "o.store", *options) == sentence


def test_what_is_refused(data, flags, weights, tmp_path, stop):
    table, store = data
    out = tmp_path / "o.store"
    keep = ["--keep", "hardest"]
    assert stop("select", store, "--out", table, *keep, *flags) == (
        f"--out {table}: it is there already; give another, or remove it"
    )
    nowhere = tmp_path / "nowhere" / "o.store"
    assert stop("select", store, "--out", nowhere, *keep, *flags) == (
        f"--out {nowhere}: there is no folder {nowhere.parent}; make it first"
    )
    assert "missing.pt: no such tag and no such file" in stop(
        "select", store, "--out", out, *keep, "--model", weights[0], "--pretrained", "missing.pt"
    )
    assert stop("select", store, "--out", out, *keep, "--model", "ViT-Nonsense", *flags[2:]).startswith(
        "--model ViT-Nonsense: open_clip has no such model"
    )
    other = tmp_path / "other.csv"
    other.write_text("filepath,title\n0.png,something else\n")
    assert stop("select", store, "--out", out, *keep, *flags, "--captions", other) == (
        f"--captions {other}: it has 0 of the 12 captions of {store} with a picture; give the file "
        "that the store was made of"
    )
    other.write_text("title\nsomething\n")
    assert stop("select", store, "--out", out, *keep, *flags, "--captions", other) == (
        f"--captions {other}: its captions come without pictures"
    )
    bare, empty = tmp_path / "bare.store", tmp_path / "empty.store"
    with Writer(bare, "g", "1", {}, ["t"]) as writer:
        writer.add("a", [Candidate("t", "b")])
    with Writer(empty, "g", "1", {}, ["t"]) as writer:
        writer.add("a", [Candidate("t", "b", reason="length")], ["0.png"])
    assert stop("select", bare, "--out", out, *keep, *flags) == (
        f"{bare}: its captions came without pictures; give a file that names them, with --captions"
    )
    assert stop("select", empty, "--out", out, *keep, *flags) == (
        f"{empty}: it has no valid negatives to select from"
    )
    assert "name their folder with --images" in stop(
        "select", store, "--out", out, *keep, *flags, "--images", "elsewhere"
    )
    (tmp_path / "2.png").write_text("no picture")
    said = stop("select", store, "--out", out, *keep, *flags)
    assert said.endswith("2.png: does not decode as a picture (cannot identify image file)")
    assert not out.exists()


def test_without_a_floor_nothing_is_too_easy():
    assert Rule(floor=-math.inf).reasons(np.array([-1.0]), np.array([0.0])) == [""]


def test_two_names_of_one_picture(tmp_path, data, flags):
    """Captions that came from two tables may name a picture in two ways."""
    with Writer(tmp_path / "two.store", "drawn", "1", {}, ["swap"]) as writer:
        for caption, name in (("one", "0.png"), ("other", "./0.png")):
            writer.add(caption, [Candidate("swap", f"not {caption}")], [name])
    rules = ["--keep", "hardest", "--margin", "-2"]
    assert main(["negatives", "select", "two.store", *rules, "--out", "o.store", *flags]) == 0
    assert all(Store.open("o.store").texts(caption) for caption in ("one", "other"))
