"""Companion images, from each source of data to a loss of a third party."""

from __future__ import annotations

import json
import math
import multiprocessing
import re
import tarfile
from pathlib import Path

import open_clip
import pandas as pd
import pytest
import torch
from support import add_file, assert_same, photos, png, train_here, write_csv, write_shards

from open_clip_ext import registry
from open_clip_ext.data import CompanionCollate
from open_clip_ext.losses.base import Batch, HardNegativeLoss, Loss, Teacher, option, term
from open_clip_ext.negatives.records import Candidate
from open_clip_ext.negatives.store import Writer

pytestmark = pytest.mark.trainer

# No draw per photo: what a transform gives is the photo.
WHOLE = ("--aug-cfg", "scale=(1.0,1.0)")
TURNS = (
    lambda x: x.flip(-1),
    lambda x: x.flip(-2),
    lambda x: x.flip(-1, -2),
    lambda x: x.transpose(-1, -2),
)


class Shown(HardNegativeLoss):
    """A negative image nearer to its negative than to the caption, and near its teacher's view."""

    companions = {"neg": 2}
    companion_images = {"neg": 2}
    decay: float = option(default=0.9)
    teacher = Teacher(decay="decay")

    @term
    def shown_loss(self, x: Batch) -> torch.Tensor:
        u, _, n, exists = x.rows.images("neg"), x.rows.text, x.rows.features("neg"), x.rows.exists("neg")
        pair = exists & x.rows.images_exist("neg")
        moved = (u - x.teacher.rows.images("neg")).square().sum(-1)
        return (((1 - (u * n).sum(-1)) + moved) * pair).sum() / pair.sum().clamp(min=1)


class Alone(Loss):
    """Images without texts of their kind, and no texts at all."""

    companion_images = {"near": 1}

    @term
    def near_loss(self, x: Batch) -> torch.Tensor:
        near = 1 - (x.rows.image[:, None] * x.rows.images("near")).sum(-1)
        return (near * x.rows.images_exist("near")).mean() + (1 - (x.rows.image * x.rows.text).sum(-1)).mean()


class Optional(HardNegativeLoss):
    companions = {"neg": 1, "more": 0}
    companion_images = {"neg": 0, "more": 0}


class NotAMapping(Loss):
    companion_images = ("neg",)


class Uneven(Loss):
    companions = {"neg": 2}
    companion_images = {"neg": 1}


class BadName(Loss):
    companions = {"neg_image": 1}


@pytest.fixture(autouse=True)
def install(monkeypatch):
    known, names = registry.entries(), ("Shown", "Alone", "Optional", "NotAMapping", "Uneven", "BadName")
    theirs = {name: registry.EntryPoint(name, f"{__name__}:{name}", registry.GROUP) for name in names}
    monkeypatch.setattr(registry, "entries", lambda: {**known, **theirs})


@pytest.fixture
def stop(tmp_path, model, capsys):
    """Run a call that must stop; its sentence."""

    def run(*flags) -> str:
        with pytest.raises(SystemExit) as stopped:
            train_here(tmp_path, "--model", model, *flags)
        assert stopped.value.code == 2
        return capsys.readouterr().err.strip().splitlines()[-1].removeprefix("open_clip_ext: ")

    return run


@pytest.fixture
def seen(monkeypatch):
    """The images and texts that models are given, as they are."""
    batches = []

    call = torch.nn.Module.__call__

    def watched(module, *inputs, **named):  # upstream's main branch names them
        given = (*inputs, *named.values())
        if isinstance(module, open_clip.CLIP) and given[0].ndim == 5:  # the teacher gets rows
            batches.append(given)
        return call(module, *inputs, **named)

    monkeypatch.setattr(torch.nn.Module, "__call__", watched)
    return batches


def pairs(seen) -> tuple[set[str], int]:
    """Negatives whose image is next to them, which must be theirs; and how many places have none."""
    tokenize = open_clip.get_tokenizer("ViT-B-32", context_length=16)
    known = {tuple(tokenize([p.caption])[0].tolist()): p for p in photos(16)}
    drawn, missing = set(), 0
    for images, texts in seen:
        for shown, (caption, *negatives) in zip(images, texts.tolist(), strict=True):
            photo = known[tuple(caption)]
            turned = dict(zip(map(tuple, tokenize(photo.negatives).tolist()), TURNS, strict=True))
            for image, text in zip(shown[1:], negatives, strict=True):
                if image.isnan().any():
                    assert image.isnan().all()
                    missing += 1
                elif any(text):
                    torch.testing.assert_close(image, turned[tuple(text)](shown[0]))
                    drawn.add(photo.negatives[list(turned).index(tuple(text))])
    return drawn, missing


def csv_flags(path) -> tuple[object, ...]:
    return ("--train-data", path, "--csv-separator", ",")


def shard_flags(url, samples=16) -> tuple[object, ...]:
    return ("--train-data", url, "--dataset-type", "webdataset", "--train-num-samples", samples)


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    return write_csv(tmp_path_factory.mktemp("csv"), photos(16), images=("neg", "near"))


@pytest.fixture(scope="module")
def shards_with_images(tmp_path_factory) -> str:
    return write_shards(tmp_path_factory.mktemp("shards"), photos(16), images=("neg", "near"))


def changed(path: Path, **columns) -> Path:
    """A CSV with other columns, each made from the rows; at another place."""
    rows = pd.read_csv(path)
    for name, make in columns.items():
        rows[name] = [make(i, row) for i, row in rows.iterrows()]
    other = path.with_name(f"{len(list(path.parent.glob('*.csv')))}.csv")
    rows.to_csv(other, index=False)
    return other


# --- from each source ---


@pytest.mark.parametrize("source", ["csv", "shards"])
def test_an_image_stays_with_its_text(tmp_path, model, table, shards_with_images, seen, source):
    """Negative k of a photo goes with the photo turned as place k says; two of four are drawn."""
    flags = csv_flags(table) if source == "csv" else shard_flags(shards_with_images)
    run = train_here(tmp_path, "--model", model, *flags, *WHOLE, "--loss", "Shown", "--epochs", 2)
    drawn, missing = pairs(seen)
    assert len(drawn) > 4
    assert missing == 2 * 2 * 4  # every fourth row, in two epochs
    for kind in ("neg", "neg image"):
        assert f"{kind}: " in run.output
    looked_at = "captions" if source == "csv" else "captions looked at"
    assert f"neg image: 12 of 16 {looked_at} have some, 1.50 of 2 on average" in run.output
    assert "companions: neg=2 images: neg=2 steps: 0" in run.output
    state = run.checkpoint("epoch_2.pt")["optimizer"]["open_clip_ext"]
    assert state["companion_images"] == {"neg": 2}
    assert all(0 < value < 10 for value in run.values("shown_loss"))


def test_images_without_any_text_of_their_kind(tmp_path, model, table, shards_with_images, seen):
    for name, flags in (("csv", csv_flags(table)), ("shards", shard_flags(shards_with_images))):
        run = train_here(tmp_path, "--model", model, *flags, "--loss", "Alone", name=name)
        assert "companions: none images: near=1" in run.output
        assert run.values("near_loss")[0] > 0
    assert {(images.shape[1:], texts.shape[1]) for images, texts in seen} == {((2, 3, 32, 32), 1)}


def test_a_cell_with_one_path_and_another_column(tmp_path, model, table, monkeypatch):
    """Relative to the folder that the run is started in, as upstream takes its own column."""
    monkeypatch.chdir(table.parent)
    path = changed(table, mine=lambda i, row: f"{i}.png" if i % 2 else "")
    run = train_here(
        tmp_path, "--model", model, *csv_flags(path), "--loss", "Alone", "--image-keys", "near=mine"
    )
    assert "near image: 8 of 16 captions have some, 0.50 of 1 on average" in run.output


def test_one_member_without_a_number(tmp_path, model, seen):
    made = photos(16)
    monkey = write_shards(tmp_path / "shards", made, images=("near",))
    flags = ["--model", model, *shard_flags(monkey), "--loss", "Alone", "--image-keys", "near=near_image.3"]
    train_here(tmp_path, *flags, *WHOLE)
    for images, _ in seen:
        for shown in images:
            if not shown[1].isnan().any():
                torch.testing.assert_close(shown[1], TURNS[3](shown[0]))


def test_synthetic_data_bring_images(tmp_path, model):
    flags = ["--dataset-type", "synthetic", "--train-num-samples", 16, "--loss", "Shown"]
    assert train_here(tmp_path, "--model", model, *flags).values("shown_loss")


@pytest.mark.parametrize("alternatives", [False, True])
@pytest.mark.parametrize("source", ["csv", "shards"])
def test_texts_of_a_store_and_images_of_the_data(
    tmp_path, model, table, shards_with_images, seen, stop, source, alternatives
):
    with Writer(tmp_path / "store", "drawn", "1", {}, ("a", "b")) as writer:
        for photo in photos(16):
            if not writer.finished(photo.caption):
                types = ("a", "a") if alternatives else ("a", "b")
                writer.add(
                    photo.caption, [Candidate(*x) for x in zip(types, photo.negatives[:2], strict=True)]
                )
    flags = csv_flags(table) if source == "csv" else shard_flags(shards_with_images)
    flags = [*flags, "--loss", "Shown", "--negatives", tmp_path / "store", *WHOLE]
    if alternatives:
        flags += ["--num-negatives", 1, "--companion-images", "neg=1"]
        assert re.fullmatch(
            rf"--negatives {tmp_path}/store, looked up for .*: negatives such as '.*' share their place with "
            "others, so which of them a neg image belongs to is not known; write a text for each image into "
            "the training data",
            stop(*flags),
        )
        return
    run = train_here(tmp_path, "--model", model, *flags)
    assert f"neg: from {tmp_path}/store, for 16 of 16 captions looked up" in run.output
    assert "neg image: 12 of 16 captions" in run.output
    drawn, missing = pairs(seen)
    assert len(drawn) > 4
    assert missing == 2 * 4


# --- the modes of a run ---


@pytest.mark.parametrize(
    "extra",
    [
        ("--precision", "amp_bf16"),
        ("--precision", "amp"),
        ("--precision", "pure_bf16"),
        ("--grad-checkpointing",),
        ("--lock-image",),
        ("--force-patch-dropout", 0.5),
        ("--accum-freq", 2),
        ("--local-loss", "--gather-with-grad"),
    ],
    ids=lambda extra: " ".join(map(str, extra)).replace("--", ""),
)
def test_upstreams_options_work(tmp_path, model, table, extra):
    run = train_here(tmp_path, "--model", model, *csv_flags(table), "--loss", "Shown", *extra)
    assert run.values("loss")
    assert all(math.isfinite(value) for value in run.values("loss"))


def test_a_locked_image_tower_stays(tmp_path, model, table):
    flags = ["--model", model, *csv_flags(table), "--loss", "Shown", "--epochs", 2, "--save-frequency", 1]
    run = train_here(tmp_path, *flags, "--lock-image")
    first, last = (run.checkpoint(f"epoch_{n}.pt")["state_dict"] for n in (1, 2))
    for name, tensor in last.items():
        if name.startswith("visual."):
            assert torch.equal(tensor, first[name])
    assert not torch.equal(last["text_projection"], first["text_projection"])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_bring_what_the_main_process_would(tmp_path, model, table, method):
    flags = ["--model", model, *csv_flags(table), "--loss", "Alone"]
    here = train_here(tmp_path, *flags, name="here")
    default = multiprocessing.get_start_method()
    multiprocessing.set_start_method(method, force=True)
    try:
        there = train_here(tmp_path, *flags, "--workers", 2, name="there")
    finally:
        multiprocessing.set_start_method(default, force=True)
    assert here.values("loss") == there.values("loss")


@pytest.mark.parametrize("source", ["csv", "shards"])
def test_resumed_equals_unstopped(tmp_path, model, table, shards_with_images, source):
    """With an augmentation that draws for each image."""
    flags = csv_flags(table) if source == "csv" else shard_flags(shards_with_images)
    flags = ["--model", model, *flags, "--loss", "Shown", "--epochs", 2, "--workers", 1]
    unstopped = train_here(tmp_path, *flags, name="unstopped")
    path = unstopped.folder / "checkpoints" / "epoch_1.pt"
    resumed = train_here(tmp_path, *flags, "--resume", path, name="resumed")
    assert unstopped.values("loss")[2:] == resumed.values("loss")
    assert_same(*(run.checkpoint("epoch_2.pt")["optimizer"] for run in (unstopped, resumed)))


def test_an_image_of_one_of_several_texts_is_seldom_drawn_and_the_log_says_so(tmp_path, model, table):
    path = changed(table, neg_image=lambda i, row: row["filepath"])
    run = train_here(tmp_path, "--model", model, *csv_flags(path), "--loss", "triplet-clip")
    assert "neg image: 16 of 16 captions have some, 0.25 of 1 on average" in run.output


# --- images that cannot be read ---


@pytest.fixture
def broken(table) -> Path:
    """A table in which the third row's second negative image is no picture."""
    bad = table.parent / "bad.png"
    bad.write_text("hello")

    def cell(i, row):
        names = json.loads(row["neg_image"])
        return json.dumps([names[0], str(bad), *names[2:]] if i == 2 else names)

    return changed(table, neg_image=cell)


FOUR = ("--num-negatives", 4, "--companion-images", "neg=4")


def test_a_broken_companion_image_stops_a_run_before_it_starts(stop, broken):
    assert stop(*csv_flags(broken), "--loss", "Shown") == (
        f"{broken}, data row 3: neg image '{broken.parent}/bad.png' is no picture; 1 of 48 neg images looked "
        "at cannot be read; repair them or empty their cells (--image-keys neg=NAME names another column), "
        "or have them count as missing by --skip-broken-images"
    )


def test_or_is_missing_counted_and_said(tmp_path, model, broken, seen):
    flags = ["--model", model, *csv_flags(broken), "--loss", "Shown", *FOUR, "--skip-broken-images"]
    run = train_here(tmp_path, *flags)
    assert (
        f"{broken}: companion image '{broken.parent}/bad.png' is no picture; it counts as missing"
        in run.output
    )
    assert "epoch 0: 1 companion images could not be read and counted as missing" in run.output
    assert "were skipped" not in run.output  # its row is there
    companions = torch.cat([images[:, 1:] for images, _ in seen])
    assert companions[:, :, 0, 0, 0].isnan().sum() == 16 + 1


def test_one_that_breaks_during_the_run_stops_it(tmp_path, model, table, capsys, monkeypatch):
    from open_clip_ext.host import preflight

    bad = table.parent / "gone.png"
    path = changed(table, near_image=lambda i, row: str(bad) if i == 2 else "")
    monkeypatch.setattr(preflight, "_companion_images", lambda *_: iter(()))
    with pytest.raises(SystemExit, match="2"):
        train_here(tmp_path, "--model", model, *csv_flags(path), "--loss", "Alone", "--workers", 1)
    assert capsys.readouterr().err.strip().splitlines()[-1] == (
        f"open_clip_ext: {path}: companion image '{bad}' does not exist on this node; repair it or empty its "
        "cell and go on from the last checkpoint, or have such images count as missing by "
        "--skip-broken-images"
    )


def test_in_shards_it_is_always_missing_and_counted(tmp_path, model, monkeypatch):
    import support

    png, calls = support.png, []

    def broken_png(image):
        calls.append(image)
        return b"hello" if len(calls) == 3 else png(image)  # the second companion of the first sample

    monkeypatch.setattr(support, "png", broken_png)
    url = write_shards(tmp_path / "shards", photos(16), images=("neg",))
    run = train_here(tmp_path, "--model", model, *shard_flags(url), "--loss", "Shown", *FOUR)
    assert "first problem among 16 samples looked at: " in run.output
    assert "sample 00000: its neg_image.1.png cannot be read" in run.output
    assert "epoch 0: 1 companion images could not be read and counted as missing" in run.output
    assert len(run.values("loss")) == 2


def test_but_a_run_does_not_start_if_all_are_broken(stop, tmp_path):
    fields = {"png": png(photos(1)[0].image), "txt": b"a cat", "negatives.json": b'["a dog"]'}
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for key in range(8):
            for name, content in (fields | {"neg_image.png": b"hello"}).items():
                add_file(tar, f"{key}.{name}", content)
    assert stop(*shard_flags(f"{tmp_path}/0.tar", 8), "--loss", "triplet-clip", "--workers", 0) == (
        f"{tmp_path}/0.tar: none of the 8 neg images looked at can be read; the first problem: "
        f"{tmp_path}/0.tar, sample 0: its neg_image.png cannot be read (cannot identify image file); repair "
        "them, or name other ones with --image-keys neg=NAME"
    )


# --- what is refused ---


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--loss", "clip", "--companion-images", "neg=1"],
            "--companion-images has no effect with --loss clip, which uses no companion images; leave it out",
        ),
        (
            ["--loss", "clip", "--image-keys", "neg=x"],
            "--image-keys has no effect with --loss clip, which uses no companion images; leave it out",
        ),
        (
            ["--companion-images", "neg=1"],
            "--companion-images has no effect without --loss; add --loss NAME",
        ),
        (
            ["--loss", "Shown", "--companion-images", "hard=1"],
            "--companion-images hard=1: --loss Shown uses no companion images of kind hard; its kinds: neg",
        ),
        (
            ["--loss", "Shown", "--companion-images", "neg=x"],
            "--companion-images neg=x: give a number of images per caption, at least 1",
        ),
        (["--loss", "Shown", "--image-keys", "neg"], "--image-keys neg: expected KIND=NAME"),
        (
            ["--loss", "Shown", "--companion-images", "neg=1"],
            "--companions neg=2 --companion-images neg=1: --loss Shown draws neg and neg image together, "
            "place by place; give --companions neg=2 --companion-images neg=2",
        ),
        (
            ["--loss", "Optional", "--companion-images", "more=1"],
            "--companions more=0 --companion-images more=1: --loss Optional draws more and more image "
            "together, place by place; give --companions more=1 --companion-images more=1",
        ),
        (
            ["--loss", "Optional", "--companions", "more=1"],
            "--companions more=1 --companion-images more=0: --loss Optional draws more and more image "
            "together, place by place; give --companions more=1 --companion-images more=1",
        ),
        (
            ["--loss", "Optional", "--image-keys", "neg=x"],
            "--image-keys neg=x has no effect: the loss takes images of kind neg only where they are asked "
            "for; add --companion-images neg=1",
        ),
        (
            ["--loss", "Optional", "--companion-keys", "more=x"],
            "--companion-keys more=x has no effect: the loss takes texts of kind more only where they are "
            "asked for; add --companions more=1",
        ),
        (
            ["--loss", "negclip", "--companions", "hard_neg=1"],
            "--loss negclip: hard_neg are the negatives of hard images; add --companion-images hard=1 "
            "--companions hard=1",
        ),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_flags(stop, tmp_path, every_kind, table, arguments, sentence):
    assert stop(*csv_flags(every_kind if "negclip" in arguments else table), *arguments) == sentence


@pytest.mark.parametrize(
    ("loss", "lacks"),
    [
        ("NotAMapping", "`companion_images` must be a mapping such as {'neg': 1}"),
        ("Uneven", "`companion_images` must have as many of kind 'neg' as `companions` has, or 0"),
        (
            "BadName",
            "the kind 'neg_image' in `companions` must be a name of letters, digits and underscores that "
            "does not begin with teacher or anchor or end in _image, as tensors are named after it",
        ),
    ],
)
def test_declarations(stop, table, loss, lacks):
    sentence = stop(*csv_flags(table), "--loss", loss)
    assert sentence == f"--loss {loss}: {__name__}:{loss} lacks the contract of a loss: {lacks}"


def test_a_csv_without_the_column(stop, tmp_path, csv_data):
    assert stop(*csv_flags(csv_data), "--loss", "Shown") == (
        f"{csv_data} has no column 'neg_image'; its columns: filepath, title, negatives; name one with "
        "--image-keys neg=NAME"
    )


@pytest.mark.parametrize(
    ("cell", "sentence"),
    [
        ("[]", "there is no neg image in any row; make some, or train with --loss clip"),
        (
            None,
            "--companion-images neg=2 is more than any row has (1 at most); give --companion-images neg=1",
        ),
    ],
    ids=["empty", "too few"],
)
def test_a_csv_s_images(stop, table, cell, sentence):
    path = changed(table, neg_image=lambda i, row: row["filepath"] if cell is None else cell)
    assert stop(*csv_flags(path), "--loss", "Shown") == f"{path}, column 'neg_image': {sentence}"


def test_a_cell_that_is_no_list_of_paths(stop, table):
    path = changed(table, neg_image=lambda i, row: "['a' ... 'b']" if i == 3 else row["neg_image"])
    sentence = stop(*csv_flags(path), "--loss", "Shown")
    assert sentence.startswith(f"{path}, column 'neg_image', data row 4: expected a list of strings, got ")


def test_shards_without_images(stop, tmp_path):
    url = write_shards(tmp_path, photos(8), shards=1)
    assert stop(*shard_flags(url, 8), "--loss", "Shown") == (
        f"{tmp_path}/0.tar: none of its first 8 samples has a field neg_image.jpg or neg_image.0.jpg; their "
        "fields: negatives.json, png, txt; name one with --image-keys neg=NAME"
    )


def test_a_checkpoint_with_other_images(tmp_path, model, table, capsys):
    flags = ["--model", model, *csv_flags(table), "--loss", "Shown"]
    path = train_here(tmp_path, *flags, *FOUR).folder / "checkpoints" / "epoch_1.pt"
    with pytest.raises(SystemExit, match="2"):
        train_here(tmp_path, *flags, "--resume", path, name="other")
    assert "a run with companions {'neg': 4}, resumed with {'neg': 2}" in capsys.readouterr().err
    state = torch.load(path, weights_only=True)
    state["optimizer"]["open_clip_ext"]["companion_images"] = {"neg": 3}
    torch.save(state, path)
    with pytest.raises(SystemExit, match="2"):
        train_here(tmp_path, *flags, *FOUR, "--resume", path, name="third")
    assert (
        "a run with companion images {'neg': 3}, resumed with {'neg': 4}; give the same "
        "--companion-images neg=3" in capsys.readouterr().err
    )


# --- the draw ---


def test_pairs_are_drawn_together_and_each_half_may_be_missing():
    collate = CompanionCollate(lambda texts: None, {"neg": 2}, images={"neg": 2})
    names, halves = {str(i): f"{i}.png" for i in range(6)}, set()
    for epoch in range(50):
        collate.set_epoch(epoch)
        texts = ["0", "", "2", "", "4", "5"]
        images = ["0.png", "1.png", "", "", "4.png", "5.png"]
        drawn = collate.draw("a", {"neg": texts, "neg image": images})
        assert len(drawn["neg"]) == len(drawn["neg image"]) == 2
        for text, image in zip(drawn["neg"], drawn["neg image"], strict=True):
            assert text or image
            assert not (text and image) or names[text] == image
            halves.add((text, image))
        again = collate.draw("a", {"neg": drawn["neg"], "neg image": drawn["neg image"]})
        assert again == drawn
    assert halves == {("0", "0.png"), ("", "1.png"), ("2", ""), ("4", "4.png"), ("5", "5.png")}


def test_an_image_of_a_place_with_alternatives_belongs_to_the_first():
    collate = CompanionCollate(lambda texts: None, {"neg": 1}, images={"neg": 1})
    drawn = {
        tuple(x[0] for x in collate.draw(caption, {"neg": [["x", "y"]], "neg image": ["x.png"]}).values())
        for caption in "abcdefgh"
    }
    assert drawn == {("x", "x.png"), ("y", "")}


def test_texts_and_images_of_a_kind_need_equal_counts():
    with pytest.raises(ValueError, match=r"1 images of kind neg need as many texts, got {'neg': 2}"):
        CompanionCollate(lambda texts: None, {"neg": 2}, images={"neg": 1})
