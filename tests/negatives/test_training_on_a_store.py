"""Training on a store: `--negatives STORE` with upstream's real command line."""

from __future__ import annotations

import csv
import os
import sqlite3
from pathlib import Path

import pytest
import support
from support import photos, train, train_here, write_csv, write_shards

from open_clip_ext import cli
from open_clip_ext.negatives.records import Candidate
from open_clip_ext.negatives.store import Writer

pytestmark = pytest.mark.trainer

TYPES = ("swap_adj", "swap_noun", "swap_both", "relation")


def write_store(path: Path, made, types=TYPES, known=lambda i: True) -> Path:
    with Writer(path, "drawn", "1", {}, types) as writer:
        for i, photo in enumerate(made):
            if known(i) and not writer.finished(photo.caption):
                texts = [Candidate(t, text) for t, text in zip(types, photo.negatives, strict=False)]
                writer.add(photo.caption, texts)
    return path


@pytest.fixture
def data(tmp_path):
    """Photos that carry no negatives, and where they lie."""
    made = photos(32)
    table = write_csv(tmp_path / "csv", made)
    rows = list(csv.DictReader(table.read_text().splitlines()))
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["filepath", "title"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return made, ("--train-data", table, "--csv-separator", ",")


@pytest.fixture
def stop(tmp_path, model, capsys):
    def run(*flags) -> str:
        with pytest.raises(SystemExit) as stopped:
            train_here(tmp_path, "--model", model, "--loss", "degla", *flags)
        assert stopped.value.code == 2
        return capsys.readouterr().err.strip().splitlines()[-1].removeprefix("open_clip_ext: ")

    return run


def as_format_1(store: Path) -> Path:
    """The same store in format 1: `keeps` was the place of the kind."""
    with sqlite3.connect(store) as connection:
        connection.executescript(
            "DROP TABLE kind; ALTER TABLE tally RENAME COLUMN kind TO keeps; PRAGMA user_version = 1;"
        )
    connection.close()
    return store


@pytest.mark.parametrize("old", [False, True], ids=["format 2", "format 1"])
def test_a_store_gives_the_run_that_a_column_gives(tmp_path, model, data, old):
    made, flags = data
    column = write_csv(tmp_path / "column", made)
    store = write_store(tmp_path / "store", made)
    if old:
        as_format_1(store)
    by_store = train_here(
        tmp_path, "--model", model, "--loss", "degla", *flags, "--negatives", store, name="a"
    )
    by_column = train_here(
        tmp_path,
        "--model",
        model,
        "--loss",
        "degla",
        "--train-data",
        column,
        "--csv-separator",
        ",",
        name="b",
    )
    assert by_store.values("loss") == by_column.values("loss")
    assert by_store.values("igc_loss")[0] > 0


@pytest.mark.trainer
def test_webdataset_with_workers_gives_what_its_own_field_gives(tmp_path, model):
    made = photos(32)
    store = write_store(tmp_path / "store", made)
    common = ("--model", model, "--loss", "degla", "--dataset-type", "webdataset", "--train-num-samples", 32)
    field = train(
        tmp_path, *common, "--train-data", write_shards(tmp_path / "with", made), "--workers", 2, name="a"
    )
    for photo in made:
        photo.negatives = []
    bare = write_shards(tmp_path / "bare", made)
    looked_up = train(tmp_path, *common, "--train-data", bare, "--negatives", store, "--workers", 2, name="b")
    assert looked_up.status == 0, looked_up.output
    assert looked_up.values("loss") == field.values("loss")


def test_captions_without_an_entry_are_masked_and_counted(tmp_path, model, data):
    made, flags = data
    unknown = {made[i].caption for i in range(0, 32, 4)}
    known = [photo for photo in made if photo.caption not in unknown]
    missing = 32 - len(known)
    assert 0 < missing < 16
    store = write_store(tmp_path / "store", known)
    run = train_here(tmp_path, "--model", model, "--loss", "degla", *flags, "--negatives", store)
    assert f"{missing} of 32 captions have no entry in {store}" in run.output
    assert f"for {len(known)} of 32 captions looked up" in run.output


def test_a_run_stops_when_most_captions_have_no_entry(tmp_path, stop, data):
    made, flags = data
    store = write_store(tmp_path / "store", made[:1])
    sentence = stop(*flags, "--negatives", store)
    assert "of 32 captions looked up for" in sentence
    assert sentence.endswith("make the store from these data")


def test_a_webdataset_epoch_of_unknown_captions_stops_the_run(tmp_path, stop, monkeypatch):
    monkeypatch.setattr("open_clip_ext.host.loaders.samples.PEEK", 8)  # the look sees the first shard alone
    made, others = photos(8), photos(8)
    for photo in others:
        photo.caption = "something else: " + photo.caption
    write_shards(tmp_path / "shards", made, shards=1)
    (tmp_path / "shards" / "0.tar").rename(tmp_path / "first.tar")
    write_shards(tmp_path / "shards", 4 * others, shards=1)
    (tmp_path / "first.tar").rename(tmp_path / "shards" / "00.tar")
    store = write_store(tmp_path / "store", made)
    sentence = stop(
        "--dataset-type", "webdataset", "--train-data", f"{tmp_path}/shards/{{00,0}}.tar",
        "--train-num-samples", 40, "--negatives", store,
    )  # fmt: skip
    assert sentence.startswith(f"--negatives {store}: ")
    assert "captions of epoch 0 have no entry there" in sentence


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--negatives", "absent"], "absent: no such file; make a store with `open-clip-ext negatives make`"),
        (
            ["--negatives", "absent", "--negatives-key", "x"],
            "--negatives absent and --negatives-key x: the negatives come from a store or from the training "
            "data, not from both; leave one of the two out",
        ),
        (
            ["--loss", "clip", "--negatives", "absent"],
            "--negatives has no effect with --loss clip, which uses no negatives; leave it out",
        ),
    ],
)
def test_flags(stop, data, arguments, sentence):
    assert stop(*data[1], *arguments) == sentence


def test_more_negatives_than_the_store_has(tmp_path, stop, data):
    made, flags = data
    store = write_store(tmp_path / "store", made, types=TYPES[:2])
    assert stop(*flags, "--negatives", store) == (
        f"--negatives {store}, looked up for {flags[1]}: --num-negatives 4 is more than any caption has "
        "(2 at most); give --num-negatives 2"
    )


def test_a_store_without_any_valid_text(tmp_path, stop, data):
    made, flags = data
    with Writer(tmp_path / "store", "drawn", "1", {}, TYPES) as writer:
        for caption in {photo.caption for photo in made}:
            writer.add(caption, [Candidate("swap_adj", "x", reason="identical")])
    assert "there is no negative in any caption" in stop(*flags, "--negatives", tmp_path / "store")


@pytest.mark.trainer
@pytest.mark.parametrize("recipe", ["swap", "degla-rules"])
def test_from_captions_to_training(tmp_path, model, recipe):
    """The whole way on real photos where they are at hand, and on drawn ones where not."""
    if "OPEN_CLIP_EXT_PHOTOS" in os.environ:
        folder = Path(os.environ["OPEN_CLIP_EXT_PHOTOS"])
        with (folder / "captions.csv").open(newline="", encoding="utf-8") as file:
            rows = [[folder / row["filepath"], row["title"]] for row in csv.DictReader(file)][:200]
    else:
        made = photos(64)
        write_csv(tmp_path / "csv", made)
        rows = [[tmp_path / "csv" / f"{i}.png", photo.caption] for i, photo in enumerate(made)]
    table = tmp_path / "captions.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["filepath", "title"], *rows])
    store = tmp_path / "captions.negatives"
    make = [
        "negatives",
        "make",
        str(table),
        "--recipe",
        recipe,
        "--out",
        str(store),
        "--cfg",
        "tagger=textblob",
    ]
    assert cli.main(make) == 0
    run = train(
        tmp_path, "--model", model, "--loss", "degla", "--train-data", table, "--csv-separator", ",",
        "--negatives", store, "--workers", 2, "--num-negatives", 2,
    )  # fmt: skip
    assert run.status == 0, run.output
    assert run.values("igc_loss")[0] > 0
    assert "; 0 have no entry" in run.output
    assert recipe in run.checkpoint()["optimizer"]["open_clip_ext"]["negatives"]["generators"]


def test_alternatives_of_a_place_are_drawn_anew_each_epoch(model):
    from open_clip_ext.data import CompanionCollate

    collate = CompanionCollate(lambda texts: support.torch.tensor([[int(t)] for t in texts]), {"neg": 2})
    found = set()
    for epoch in range(8):
        collate.set_epoch(epoch)
        rows = collate.texts(["9"], [{"neg": [["1", "2"], ["3"], []]}])[0, :, 0].tolist()
        assert rows[0] == 9
        assert rows[2] == 3
        found.add(rows[1])
    assert found == {1, 2}


def test_further_alternatives_fill_places_that_are_left(model):
    from open_clip_ext.data import CompanionCollate

    collate = CompanionCollate(lambda texts: support.torch.tensor([[int(t)] for t in texts]), {"neg": 4})
    rows = collate.texts(["9"], [{"neg": [["1", "2", "3"]]}])[0, :, 0].tolist()
    assert rows[0] == 9
    assert sorted(rows[1:]) == [0, 1, 2, 3]
    assert rows[4] == 0
