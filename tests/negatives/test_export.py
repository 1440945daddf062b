"""A store becomes training data that upstream's trainer runs on."""

from __future__ import annotations

import csv
import json
import tarfile
from pathlib import Path

import pytest
from support import add_file, photos, train_here, write_shards

from open_clip_ext.cli import main
from open_clip_ext.negatives.export import Export
from open_clip_ext.negatives.records import Candidate
from open_clip_ext.negatives.store import Store, Writer

TYPES = ("swap_colour", "swap_shape", "swap_both", "replace_rel")
MADE = photos(24)
CAPTIONS = list(dict.fromkeys(photo.caption for photo in MADE))


def negatives_of(caption: str) -> list[str]:
    """As they should be in the data: every other caption has no `swap_colour`."""
    texts = next(photo.negatives for photo in MADE if photo.caption == caption)
    return ["", *texts[1:]] if CAPTIONS.index(caption) % 2 else texts


def texts_of(caption: str) -> list[Candidate]:
    there = [Candidate(type, text) for type, text in zip(TYPES, negatives_of(caption), strict=True) if text]
    no_negatives = (
        Candidate("swap_colour", "bad", reason="length"),
        Candidate("swap_both", "same", kind="pos"),
    )
    return [*no_negatives, *reversed(there)]


@pytest.fixture
def folder(tmp_path) -> Path:
    """`n.store`, and the pictures of its captions in `pictures/`."""
    (tmp_path / "pictures").mkdir()
    for i, photo in enumerate(MADE):
        photo.image.save(tmp_path / "pictures" / f"{i}.png")
    with Writer(tmp_path / "n.store", "test", "1", {}, TYPES) as writer:
        for caption in CAPTIONS:
            images = [f"{i}.png" for i, photo in enumerate(MADE) if photo.caption == caption]
            writer.add(caption, texts_of(caption), images)
    return tmp_path


@pytest.fixture
def export(folder, capsys):
    """Export `n.store`: what is printed, or the sentence."""

    def run(out: str, *flags: object, status=0) -> str:
        words = ["negatives", "export", folder / "n.store", "--out", folder / out]
        words = [*map(str, words), "--images", str(folder / "pictures"), *map(str, flags)]
        if not status:
            assert main(words) == 0
            return capsys.readouterr().out
        with pytest.raises(SystemExit) as stopped:
            main(words)
        assert stopped.value.code == status
        assert not (folder / f"{out}.part").exists()
        return capsys.readouterr().err.splitlines()[-1].removeprefix("open_clip_ext: ")

    return run


def samples(*shards: Path) -> dict[str, dict[str, bytes]]:
    found: dict[str, dict[str, bytes]] = {}
    for shard in shards:
        with tarfile.open(shard) as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                found.setdefault(key, {})[extension] = tar.extractfile(member).read()
    return found


def test_places_are_in_the_order_of_the_types_and_one_without_a_text_is_empty(tmp_path):
    texts = [
        Candidate("c", "3"), Candidate("a", "1"), Candidate("a", "2"),
        Candidate("b", "5", kind="pos"), Candidate("b", "6", reason="length"),
    ]  # fmt: skip
    with Writer(tmp_path / "n.store", "test", "1", {}, ["a", "b", "c", "d"]) as writer:
        writer.add("x", texts)
    store = Store.open(tmp_path / "n.store")
    export = Export(store, {("neg",): ["a", "b", "c"]})
    assert store.texts_by_type("x", ["a", "b", "c"]) == [["1", "2"], [], ["3"]]
    assert export.texts("x") == {"negatives": ["1", "2", "", "3"]}
    assert export.texts("y") == {"negatives": ["", "", ""]}
    assert (export.counts, export.unknown) == ({"neg": {3: 1, 0: 1}}, 1)


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_a_table_has_the_negatives_in_their_places(folder, export, suffix):
    printed = export(f"data.{suffix}")
    with (folder / f"data.{suffix}").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t" if suffix == "tsv" else ","))
    assert sorted(Path(row["filepath"]).name for row in rows) == sorted(f"{i}.png" for i in range(len(MADE)))
    assert all(json.loads(row["negatives"]) == negatives_of(row["title"]) for row in rows)
    assert "24 samples, 24 of them with negatives" in printed
    assert f"types, in this order: {', '.join(TYPES)}" in printed


@pytest.fixture
def units(folder):
    """In the store also: of every caption two phrases, of every other one a foil of the second."""
    with Writer(folder / "n.store", "units", "1", {}, ("first", "second"), ("phrase", "foil")) as writer:
        for i, caption in enumerate(CAPTIONS):
            texts = [Candidate("first", "a", "phrase"), Candidate("second", "b", "phrase")]
            writer.add(caption, [*texts, *[Candidate("second", "c", "foil", of="b")] * (i % 2)])


def test_further_kinds_have_columns_of_their_own(folder, export, units):
    printed = export("data.csv", "--kind", "pos", "phrase")
    with (folder / "data.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["filepath", "title", "negatives", "pos", "phrase"]
    for row in rows:
        assert json.loads(row["negatives"]) == negatives_of(row["title"])
        assert json.loads(row["pos"]) == ["same"]
        assert json.loads(row["phrase"]) == ["a", "b"]
    assert "24 samples with texts of kind pos, 1.00 on average\ntypes, in this order: swap_both\n" in printed


@pytest.mark.parametrize("source", [False, True])
def test_kinds_that_belong_together_are_in_the_same_places(folder, export, units, source):
    flags = ["--source", write_shards(folder / "source", MADE)] if source else []
    export("shards", "--kind", "phrase+foil", *flags)
    for sample in samples(*(folder / "shards").iterdir()).values():
        odd = CAPTIONS.index(sample["txt"].decode()) % 2
        assert json.loads(sample["phrase.json"]) == ["", "b" * odd]
        assert json.loads(sample["foil.json"]) == ["", "c" * odd]


def test_shards_have_the_pictures_as_they_are_and_the_negatives(folder, export):
    export("shards", "--shard-size", 10)
    shards = sorted((folder / "shards").iterdir())
    assert [len(samples(shard)) for shard in shards] == [10, 10, 4]
    found = samples(*shards).values()
    pictures = {(folder / "pictures" / f"{i}.png").read_bytes() for i in range(len(MADE))}
    assert {sample["png"] for sample in found} == pictures
    for sample in found:
        assert json.loads(sample["negatives.json"]) == negatives_of(sample["txt"].decode())


def test_shards_of_the_source_come_again_with_negatives(folder, export):
    source = write_shards(folder / "source", [*MADE, *photos(1, seed=5)])
    with tarfile.open(folder / "source" / "0.tar", "a") as tar:
        add_file(tar, "strange.txt", b"a caption of another file")
        add_file(tar, "strange.png", b"a picture")
        add_file(tar, "strange.cls", b"7")
    printed = export("again", "--source", source)
    for name in ("0.tar", "1.tar"):
        before, after = samples(folder / "source" / name), samples(folder / "again" / name)
        assert list(before) == list(after)
        for key, sample in after.items():
            caption = sample["txt"].decode()
            wanted = negatives_of(caption) if caption in CAPTIONS else [""] * 4
            assert sample == {**before[key], "negatives.json": json.dumps(wanted).encode()}
    assert "samples have a caption that the store has not" in printed


def test_only_some_types_in_the_order_asked_for(folder, export):
    export("data.csv", "--type", "replace_rel", "swap_shape")
    with (folder / "data.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            _, shape, _, rel = negatives_of(row["title"])
            assert json.loads(row["negatives"]) == [rel, shape]


@pytest.mark.parametrize("out", ["data.csv", "shards"])
def test_upstream_s_trainer_trains_on_it(folder, export, model, out):
    export(out, "--shard-size", 12)
    data = ["--train-data", folder / out, "--csv-separator", ","]
    if out == "shards":
        data = ["--train-data", folder / out / "{00000..00001}.tar", "--dataset-type", "webdataset"]
        data += ["--train-num-samples", 24]
    run = train_here(folder, "--model", model, *data, "--loss", "degla")
    assert ("neg: 24 of 24 captions have some, 3." in run.output) == (out == "data.csv")
    assert run.values("igc_loss")
    assert all(0 < value < 100 for value in run.values("igc_loss"))
    assert (run.folder / "checkpoints" / "epoch_1.pt").exists()


def test_pictures_that_are_not_there_are_counted_and_left_out(folder, export):
    for i in range(5):
        (folder / "pictures" / f"{i}.png").unlink()
    printed = export("data.csv")
    assert "19 samples" in printed
    assert "5 pictures are not there and were left out: " in printed


def test_pictures_that_the_trainer_would_not_find_in_a_shard(folder, export):
    (folder / "pictures" / "0.bmp").write_bytes(b"")
    with Writer(folder / "n.store", "test", "1", {}, TYPES) as writer:
        writer.add("one more", [Candidate("swap_colour", "more one")], ["0.bmp"])
    assert "1 pictures are not jpg, jpeg, png, webp and were left out" in export("shards")


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (
            ["--type", "swap_verb"],
            "--type swap_verb: {0}/n.store has no such negatives; it has swap_colour, swap_",
        ),
        (["--shard-size", 0], "--shard-size 0: give at least 1"),
        (["--images", "/nowhere"], "none of the 24 pictures is there, such as /nowhere/"),
        (["--source", "x.tar"], "--out {0}/data.csv: shards are written to a folder; give one, or leave out"),
        (["--out", "{0}/shards", "--source", "{0}/x{{0..1}}.tar"], "{0}/x0.tar: no such file"),
        (
            ["--out", "{0}/shards", "--source", "{0}/n.store"],
            "{0}/n.store: not a whole tar file of samples (",
        ),
        (["--out", "{0}/pictures"], "{0}/pictures: it is there already; give another --out, or remove it"),
    ],
)
def test_wrong_calls_leave_nothing(folder, export, flags, sentence):
    before = sorted(folder.iterdir())
    said = export("data.csv", *(str(flag).format(folder) for flag in flags), status=2)
    assert said.startswith(sentence.format(folder))
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    ("name", "content"),
    [("txt", b"['A red circle.' 'A blue square.']"), ("json", b'{"caption": ["A red circle.", "A cat."]}')],
)
def test_a_sample_of_several_captions_has_no_one_list_of_negatives(folder, export, name, content):
    with tarfile.open(folder / "0.tar", "w") as tar:
        add_file(tar, f"7.{name}", content)
    assert export("again", "--source", folder / "0.tar", status=2) == (
        f"{folder}/0.tar, sample 7: 2 captions, where training reads one; name its field with --caption-key"
    )


def test_a_store_without_pictures_says_where_else_to_go(folder, export):
    (folder / "n.store").unlink()
    with Writer(folder / "n.store", "test", "1", {}, TYPES) as writer:
        writer.add("a b", [Candidate("swap_colour", "b a")])
    assert "came without pictures; train on the source with --negatives" in export("data.csv", status=2)


@pytest.mark.parametrize("kinds", [["absent"], ["pos", "pos"], ["neg"], ["phrase+phrase"]], ids=" ".join)
def test_kinds_that_the_store_has_not(folder, export, units, kinds):
    sentence = (
        f"--kind {kinds[-1]}: give kinds other than neg that {folder}/n.store has, each once; it has pos, "
        "phrase, foil"
    )
    assert export("data.csv", "--kind", *kinds, status=2) == sentence


@pytest.mark.parametrize(
    ("kinds", "first", "other"), [("foil+phrase", "foil", "phrase"), ("pos+foil", "pos", "foil")]
)
def test_kinds_that_do_not_belong_together(folder, export, units, kinds, first, other):
    assert export("data.csv", "--kind", kinds, status=2) == (
        f"--kind {kinds}: in {folder}/n.store no {first} has a {other} that belongs to it; name first the "
        "kind that others belong to, as in phrase+foil, or write single kinds"
    )
    assert not (folder / "data.csv").exists()


def test_a_store_without_negatives(folder, export):
    (folder / "n.store").unlink()
    with Writer(folder / "n.store", "test", "1", {}, TYPES) as writer:
        writer.add("a b", [Candidate("swap_colour", "b a", reason="length")])
    assert export("data.csv", status=2) == f"{folder}/n.store: it has no valid negatives to write"
