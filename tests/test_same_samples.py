"""`--loss-cfg same=mask`, from a data file with several captions for a picture to the weights."""

from __future__ import annotations

import csv
import io
import json
import tarfile

import pytest
import torch
from support import add_file, assert_same, photos, train, train_here, write_csv, write_shards

from open_clip_ext import _startup, cli
from open_clip_ext.data import CompanionCollate
from open_clip_ext.host.loaders.companions import CompanionBatches, identify
from open_clip_ext.host.released import TupleLayout
from open_clip_ext.identity import picture_identity
from open_clip_ext.model.forward import extend_forward

pytestmark = pytest.mark.trainer

MASK = ("--loss-cfg", "same=mask")


def numbered(count):
    """Photos that all differ, and so do their captions."""
    made = photos(count)
    for i, photo in enumerate(made):
        photo.caption += f" {i}"
        photo.image.putpixel((0, 0), (i, 0, 0))
    return made


def table(folder, change, count=32):
    """A CSV with a column `photo`; `change` gets each row and its number."""
    path = write_csv(folder, numbered(count))
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for i, row in enumerate(rows):
        row["photo"] = f"photo {i}"
        change(row, i)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def several(folder, captions=4, count=32):
    """So many captions for each picture."""

    def share(row, i):
        row["filepath"] = folder / f"{i // captions}.png"

    return table(folder, share, count)


def csv_flags(path, loss="clip"):
    return ("--train-data", path, "--csv-separator", ",", "--loss", loss)


def shard_flags(data, loss="clip"):
    flags = ("--train-data", data, "--dataset-type", "webdataset", "--train-num-samples", 32)
    return (*flags, "--workers", 2, "--loss", loss)


@pytest.fixture
def stop(tmp_path, model, capsys):
    """Run a call that must stop; its sentence."""

    def run(*flags):
        with pytest.raises(SystemExit) as stopped:
            train_here(tmp_path, "--model", model, *flags)
        assert stopped.value.code == 2
        return capsys.readouterr().err.strip().splitlines()[-1].removeprefix("open_clip_ext: ")

    return run


# --- what is the same ---


@pytest.mark.parametrize("what", ["filepath", "title", "photo"])
def test_a_csv_in_which_all_rows_are_the_same_leaves_nothing_to_contrast(tmp_path, model, what):
    first = {}

    def share(row, i):
        row[what] = first.setdefault(what, row[what])

    flags = ["--model", model, *csv_flags(table(tmp_path, share)), "--workers", 2, *MASK]
    flags += ["--picture-key", "photo"] if what == "photo" else []
    run = train_here(tmp_path, *flags)
    assert run.values("contrastive_loss") == [0.0] * 4
    pictures, captions = (1, 32) if what != "title" else (32, 1)
    assert f"32 rows show {pictures} pictures and have {captions} captions" in run.output


@pytest.mark.parametrize("key", ["", "photo"])
def test_shards_that_show_one_picture_leave_nothing_to_contrast(tmp_path, model, key):
    made = numbered(32)
    if key:
        data = write_keyed(tmp_path, made, lambda i: 7)
    else:
        for photo in made:
            photo.image = made[0].image
        data = write_shards(tmp_path, made)
    flags = ["--picture-key", key] if key else []
    run = train(tmp_path, "--model", model, *shard_flags(data), *MASK, *flags)
    assert run.status == 0, run.output
    assert run.values("contrastive_loss") == [0.0] * 4
    assert "32 samples looked at show 1 pictures and have 32 captions" in run.output


def write_keyed(folder, made, key):
    """Shards with a key `photo` in json; None for none."""
    for s in range(2):
        with tarfile.open(folder / f"{s}.tar", "w") as tar:
            for i, photo in list(enumerate(made))[s::2]:
                png = io.BytesIO()
                photo.image.save(png, "png")
                add_file(tar, f"{i:05d}.png", png.getvalue())
                add_file(tar, f"{i:05d}.txt", photo.caption.encode())
                fields = {} if key(i) is None else {"photo": key(i)}
                add_file(tar, f"{i:05d}.json", json.dumps(fields).encode())
    return f"{folder}/{{0..1}}.tar"


@pytest.mark.parametrize("kind", ["csv", "shards"])
def test_where_nothing_is_the_same_it_is_the_run_of_keep_to_the_bit(tmp_path, model, kind):
    if kind == "csv":
        flags = csv_flags(table(tmp_path, lambda row, i: None), "degla")
    else:
        flags = shard_flags(write_shards(tmp_path, numbered(32)), "degla")
    keep = train_here(tmp_path, "--model", model, *flags, "--workers", 0, name="keep")
    mask = train_here(tmp_path, "--model", model, *flags, "--workers", 0, *MASK, name="mask")
    assert keep.values("loss") == mask.values("loss") != []
    assert_same(keep.checkpoint()["state_dict"], mask.checkpoint()["state_dict"])


def test_captions_of_one_picture_no_longer_push_each_other_away(tmp_path, model):
    """The first batch has 8 of 32 rows, of which some show one picture."""
    flags = ["--model", model, *csv_flags(several(tmp_path, 16), "negclip")]
    keep = train_here(tmp_path, *flags, name="keep").values("contrastive_loss")
    mask = train_here(tmp_path, *flags, *MASK, name="mask").values("contrastive_loss")
    assert mask[0] < keep[0] - 0.1


# --- through every mode that texts go through ---


def test_resumed_equals_unstopped(tmp_path, model):
    flags = ["--model", model, *csv_flags(several(tmp_path), "degla"), *MASK, "--epochs", 2]
    unstopped = train_here(tmp_path, *flags, name="unstopped")
    stopped = unstopped.folder / "checkpoints" / "epoch_1.pt"
    resumed = train_here(tmp_path, *flags, "--resume", stopped, name="resumed")
    assert unstopped.values("loss")[4:] == resumed.values("loss")
    last = (run.checkpoint("epoch_2.pt")["optimizer"] for run in (unstopped, resumed))
    assert_same(*last)


def test_an_accumulated_batch_is_a_batch(tmp_path, model):
    flags = ["--model", model, *csv_flags(several(tmp_path), "degla"), *MASK, "--aug-cfg", "scale=(1.0,1.0)"]
    whole = train_here(tmp_path, *flags, "--batch-size", 16, name="whole")
    parts = train_here(tmp_path, *flags, "--batch-size", 4, "--accum-freq", 4, name="parts")
    first = [run.values("contrastive_loss")[0] for run in (whole, parts)]
    assert first[0] == pytest.approx(first[1], abs=1e-4)


def test_two_processes_equal_one(tmp_path, model):
    """A batch is the whole table, of two pictures with eight captions each: both have some of either."""
    flags = ["--model", model, *csv_flags(several(tmp_path, 8, 16), "negclip"), *MASK, "--epochs", 2]
    flags += ["--aug-cfg", "scale=(1.0,1.0)", "--opt", "timm/momentum", "--momentum", 0, "--wd", 0]
    one = train_here(tmp_path, *flags, "--lr", 0.1, "--batch-size", 16, name="one")
    modes = ["--local-loss", "--gather-with-grad"]
    two = train(tmp_path, *flags, "--lr", 0.1, *modes, name="two", processes=2)
    assert two.status == 0, two.output
    theirs = {k.removeprefix("module."): v for k, v in two.checkpoint("epoch_2.pt")["state_dict"].items()}
    for name, tensor in one.checkpoint("epoch_2.pt")["state_dict"].items():
        torch.testing.assert_close(theirs[name], tensor, rtol=1e-4, atol=2e-6)


def tokens(texts):
    ids = torch.zeros(len(texts), 16, dtype=torch.long)
    for row, text in zip(ids, texts, strict=True):
        row[: len(text)] = torch.tensor([ord(letter) for letter in text])
    return ids


def test_identities_reach_the_loss_by_name(model):
    import open_clip

    collate = CompanionCollate(tokens, {"neg": 2, "pos": 1})
    lookup = {"abc": {"neg": ["abd", "abe"], "pos": ["cba"]}, "abd": {"neg": ["abc"]}}
    read = CompanionBatches(
        collate, TupleLayout(), True, lambda text: (text, lookup.get(text, {})), identified=True
    )
    captions = [identify("abc", "1.png"), identify("abd", b"2"), identify("x y", "1.png")]
    _, texts = read((torch.zeros(3, 3, 32, 32), captions))
    assert texts.shape == (3, 1 + 3 + 1, 16)

    net = open_clip.create_model(model, output_dict=True)
    extend_forward(net, {"neg": 2, "pos": 1}, identified=True)
    out = net(torch.zeros(3, 3, 32, 32), texts)
    assert out["image_id"].tolist() == [picture_identity(name) for name in ("1.png", "2", "1.png")]
    assert out["text_id"].tolist() == [out["neg_text_id"][1, 0], out["neg_text_id"][0, 0], out["text_id"][2]]
    assert out["pos_text_id"].shape == (3, 1)
    assert out["text_features"].shape == (3, 32)
    assert all(len(tensor) == 3 for name, tensor in out.items() if name != "logit_scale")


# --- what cannot be done ---


def test_flags(stop, tmp_path):
    data = several(tmp_path)
    assert stop(*csv_flags(data), "--picture-key", "photo") == (
        "--picture-key photo has no effect without --loss-cfg same=mask; leave it out"
    )
    assert stop("--train-data", data, "--picture-key", "photo") == (
        "--picture-key has no effect without --loss; add --loss NAME"
    )
    assert stop(*csv_flags(data), "--loss-cfg", "same=other") == (
        "--loss-cfg same=other: same must be 'keep' or 'mask', not 'other'"
    )
    assert stop("--dataset-type", "synthetic", "--train-num-samples", 32, "--loss", "clip", *MASK) == (
        "--loss-cfg same=mask: synthetic data have no pictures that could be told apart; leave it out"
    )


def test_a_column_that_is_not_there(stop, tmp_path):
    data = several(tmp_path)
    assert stop(*csv_flags(data), *MASK, "--picture-key", "id") == (
        f"{data} has no column 'id'; its columns: filepath, title, negatives, photo; name one with "
        "--picture-key"
    )


def test_a_row_that_does_not_say_which_picture_it_shows(stop, tmp_path):
    data = table(tmp_path, lambda row, i: row.update(photo=" " if i == 4 else "p"))
    assert stop(*csv_flags(data), *MASK, "--picture-key", "photo") == (
        f"{data}, data row 5: nothing in column 'photo' says which picture it shows, and same=mask needs "
        "that; fill it in or leave out the row"
    )


def test_shards_that_do_not_say_it(stop, tmp_path):
    data = write_keyed(tmp_path, numbered(32), lambda i: None)
    assert stop(*shard_flags(data), "--workers", 0, *MASK, "--picture-key", "photo") == (
        f"2 shards of {data}: none of its first 32 samples has a field photo.json or a key photo in its "
        "json; their fields: json, png, txt; name one with --picture-key"
    )


def test_a_sample_of_shards_that_does_not_say_it(stop, tmp_path):
    data = write_keyed(tmp_path, numbered(32), lambda i: None if i == 4 else i)
    assert stop(*shard_flags(data), "--workers", 0, *MASK, "--picture-key", "photo") == (
        f"{tmp_path}/0.tar, sample 00004: there is no photo that says which picture it shows, and same=mask "
        "needs that"
    )


@pytest.mark.parametrize("kind", ["csv", "shards"])
def test_doctor_looks_for_the_key(tmp_path, model, capsys, kind):
    if kind == "csv":
        flags = csv_flags(several(tmp_path))
    else:
        flags = shard_flags(write_keyed(tmp_path, numbered(32), lambda i: None))
    _startup.arm()  # once more, after a run in this process
    flags = ["--model", model, "--device", "cpu", "--logs", tmp_path / "logs", *flags, *MASK]
    assert cli.main(["doctor", "--quiet", "--", *map(str, flags), "--picture-key", "id"]) == 1
    assert capsys.readouterr().err.strip().endswith("name one with --picture-key")
