"""Pairs of samples for CLIC: what the collate function makes of a batch."""

from __future__ import annotations

import random

import open_clip
import pytest
import torch
from support import assert_same, photos, train_here, write_csv, write_shards

from open_clip_ext import registry
from open_clip_ext.data import CompanionCollate
from open_clip_ext.host.loaders.pairs import KINDS, Pairs, across, sentence
from open_clip_ext.losses.base import Loss


class OtherKinds(Loss):
    companions = {"neg": 1}
    pairs = True


def words(texts):
    """A tokenizer whose tokens are the letters of a text."""
    return torch.tensor([[ord(letter) for letter in text[:80].ljust(80, "\0")] for text in texts])


def text(ids):
    return "".join(chr(i) for i in ids.tolist()).rstrip("\0")


@pytest.fixture
def pairs():
    return Pairs(CompanionCollate(words, dict.fromkeys(KINDS, 1)))


def test_each_picture_stands_beside_the_next_one_at_half_its_width(pairs):
    colours = torch.arange(3.0)[:, None, None, None].expand(3, 3, 8, 10)
    images = pairs.images(colours)
    assert images.shape == (3, 2, 3, 8, 10)
    assert torch.equal(images[:, 0], colours)
    for i, joined in enumerate(images[:, 1]):
        assert (joined[..., :5] == i).all()
        assert (joined[..., 5:] == (i + 1) % 3).all()


def test_an_odd_width_keeps_its_size(pairs):
    assert pairs.images(torch.rand(2, 3, 8, 9)).shape == (2, 2, 3, 8, 9)


def test_captions_are_joined_in_both_orders_and_exchange_a_word(pairs):
    ids = pairs.texts(["a black dog", "A white horse.", "two cats!"])
    rows = [[text(cell) for cell in row] for row in ids]
    assert [row[:3] for row in rows] == [
        ["a black dog", "a black dog. A white horse.", "A white horse. a black dog."],
        ["A white horse.", "A white horse. two cats!", "two cats! A white horse."],
        ["two cats!", "two cats! a black dog.", "a black dog. two cats!"],
    ]
    assert rows[0][3] in ("a black horse. A white dog.", "a white dog. A black horse.")
    assert [row[3] for row in rows[1:]] == ["", ""]  # one and several


def test_an_exchange_that_gives_the_other_order_is_no_negative(pairs):
    ids = pairs.texts(["a dog", "a cat"])
    assert [text(cell) for cell in ids[0]] == ["a dog", "a dog. a cat.", "a cat. a dog.", ""]


def test_an_exchange_that_is_cut_off_is_missing(pairs):
    ids = pairs.texts([f"{'very ' * 16}old dog", "a horse"])
    assert [text(cell) for cell in ids[0]][3] == ""
    assert text(ids[1, 3])


def test_words_are_exchanged_between_the_two_and_within_none():
    found = across().exchanges("a red dog and a blue cup.", "a green horse.", random.Random(0))
    assert found
    for exchanged in found:
        one, two = exchanged.split(". ")
        assert set(two.rstrip(".").split()) & {"red", "blue", "dog", "cup"}
        assert set(one.split()) & {"green", "horse"}


def test_the_choice_depends_on_seed_epoch_and_captions(pairs):
    captions = ["a red dog and a blue cup", "a green horse and a white bird"]
    first = pairs.texts(captions)
    assert torch.equal(pairs.texts(captions), first)
    others = set()
    for epoch in range(1, 9):
        pairs.collate.set_epoch(epoch)
        others.add(text(pairs.texts(captions)[0, 3]))
    assert len(others) > 2


def test_a_worker_that_is_spawned_makes_the_same(pairs):
    captions = ["a red dog and a blue cup", "a green horse and a white bird"]
    collate = pairs.collate
    copied = Pairs(CompanionCollate(collate.tokenizer, collate.counts))
    assert vars(pairs).keys() == {"collate"}  # no tagger is sent
    assert torch.equal(copied.texts(captions), pairs.texts(captions))


def test_a_single_sample_is_a_pair_with_itself(pairs):
    assert text(pairs.texts(["a dog"])[0, 1]) == "a dog. a dog."
    assert sentence(" what? ") == "what?"


@pytest.mark.trainer
@pytest.mark.parametrize("source", ["csv", "shards"])
def test_a_run_needs_nothing_but_captions_and_resumes_to_the_bit(tmp_path, model, monkeypatch, source):
    made = photos(32)
    if source == "csv":
        flags = ["--train-data", write_csv(tmp_path / "csv", made), "--csv-separator", ","]
    else:
        flags = ["--train-data", write_shards(tmp_path / "shards", made), "--dataset-type", "webdataset"]
        flags += ["--train-num-samples", 32]
    flags += ["--model", model, "--loss", "clic", "--epochs", 2, "--workers", 1, "--batch-size", 4]
    flags += ["--save-most-recent"]
    batches = []

    call = torch.nn.Module.__call__

    def watched(module, *inputs, **named):  # upstream's main branch names them
        if isinstance(module, open_clip.CLIP):
            batches.append((*inputs, *named.values()))
        return call(module, *inputs, **named)

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.Module, "__call__", watched)
        unstopped = train_here(tmp_path, *flags, name="unstopped")
    assert {(tuple(images.shape), tuple(texts.shape)) for images, texts in batches} == {
        ((4, 2, 3, 32, 32), (4, 4, 16))
    }
    assert sum(bool(row[3].any()) for _, texts in batches for row in texts) > 32
    values = unstopped.values("own_loss")
    assert all(value > 0 for value in values[::2])
    assert not any(values[1::2])
    path = unstopped.folder / "checkpoints" / "epoch_1.pt"
    resumed = train_here(tmp_path, *flags, "--resume", path, name="resumed")
    assert resumed.values("loss") == unstopped.values("loss")[8:]
    assert_same(*(run.checkpoint("epoch_2.pt")["optimizer"] for run in (unstopped, resumed)))


@pytest.mark.trainer
@pytest.mark.parametrize(
    ("loss", "flags", "sentence"),
    [
        (
            "clic",
            ["--companions", "pair=2"],
            "--companions has no effect with --loss clic, which uses no companion texts; leave it out",
        ),
        (
            "clic",
            ["--companion-images", "pair=1"],
            "--companion-images has no effect with --loss clic, which uses no companion images; leave it out",
        ),
        (
            "clic",
            ["--negatives", "store"],
            "--negatives has no effect with --loss clic, which uses no negatives; leave it out",
        ),
        (
            "OtherKinds",
            [],
            f"--loss OtherKinds: {__name__}:OtherKinds lacks the contract of a loss: with `pairs`, "
            "`companions` must be {'pair': 1, 'pair_pos': 1, 'pair_neg': 1}, and `companion_images` "
            "{'pair': 1}",
        ),
    ],
    ids=["companions", "images", "store", "declaration"],
)
def test_what_is_refused(tmp_path, model, csv_data, capsys, monkeypatch, loss, flags, sentence):
    known = registry.entries()
    entry = registry.EntryPoint("OtherKinds", f"{__name__}:OtherKinds", registry.GROUP)
    monkeypatch.setattr(registry, "entries", lambda: {**known, "OtherKinds": entry})
    with pytest.raises(SystemExit, match="2"):
        train_here(
            tmp_path,
            "--model",
            model,
            "--train-data",
            csv_data,
            "--csv-separator",
            ",",
            "--loss",
            loss,
            *flags,
        )
    assert capsys.readouterr().err.strip().splitlines()[-1] == f"open_clip_ext: {sentence}"
