"""Companions of several kinds, from each source of data to a loss of a third party."""

from __future__ import annotations

import hashlib
import json
import math
import random
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from support import photos, train, train_here, write_csv, write_shards

from open_clip_ext import _startup, cli, registry
from open_clip_ext.data import CompanionCollate
from open_clip_ext.losses.base import Batch, HardNegativeLoss, Loss, term
from open_clip_ext.negatives.records import Candidate
from open_clip_ext.negatives.store import Writer

pytestmark = pytest.mark.trainer

KINDS = ("pos", "phrase", "foil")


class Units(HardNegativeLoss):
    """Each unit of a caption closer to the image than its foil."""

    companions = {"neg": 1, "phrase": 2, "foil": 2}
    aligned = (("phrase", "foil"),)

    @term
    def unit_loss(self, x: Batch) -> torch.Tensor:
        v, _, p, there = x.rows.tensors("phrase")
        assert torch.equal(there, x.rows.exists("foil"))
        apart = ((x.rows.features("foil") - p) * v[:, None]).sum(-1)
        return (F.softplus(x.scale * apart) * there).sum() / there.sum().clamp(min=1)


class Positives(Loss):
    """Positives near their caption, negatives not; a kind of its own besides."""

    companions = {"neg": 2, "pos": 1, "Own_2": 1}

    @term
    def pull_loss(self, x: Batch) -> torch.Tensor:
        t = x.own.text[:, None]
        near, far, own = ((t * x.own.features(kind)).sum(-1) for kind in self.companions)
        return self.average((far.mean(1) - near.mean(1) + own.mean(1)).exp().mean())


class BadName(Loss):
    companions = {"hard-neg": 1}


class Teachers(Loss):
    companions = {"teacher_neg": 1}


class Anchors(Loss):
    companions = {"anchor_base": 1}


class NoCount(Loss):
    companions = {"neg": -1}


class Unequal(Loss):
    companions = {"phrase": 2, "foil": 1}
    aligned = (("phrase", "foil"),)


class Unknown(Loss):
    companions = {"phrase": 2}
    aligned = (("phrase", "foil"),)


class Alone(Loss):
    companions = {"phrase": 2}
    aligned = (("phrase",),)


class NotNested(Loss):
    companions = {"phrase": 2, "foil": 2}
    aligned = ("phrase", "foil")


@pytest.fixture(autouse=True)
def install(monkeypatch):
    """Register the good losses; what it gives registers another one."""

    def register(*losses):
        known = registry.entries()
        theirs = {loss: registry.EntryPoint(loss, f"{__name__}:{loss}", registry.GROUP) for loss in losses}
        monkeypatch.setattr(registry, "entries", lambda: {**known, **theirs})

    register("Units", "Positives")
    return register


@pytest.fixture
def stop(tmp_path, model, capsys):
    """Run a call that must stop; its sentence."""

    def run(*flags) -> str:
        with pytest.raises(SystemExit) as stopped:
            train_here(tmp_path, "--model", model, *flags)
        assert stopped.value.code == 2
        return capsys.readouterr().err.strip().splitlines()[-1].removeprefix("open_clip_ext: ")

    return run


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A CSV with a column for each kind, and what is in it."""
    made = photos(16)
    return made, write_csv(tmp_path_factory.mktemp("csv"), made, kinds=(*KINDS, "Own_2"))


def csv_flags(path) -> tuple[object, ...]:
    return ("--train-data", path, "--csv-separator", ",")


def write_store(path, made, foils=True):
    """Negatives, phrases and foils of each caption, one of each of two types; not in order."""
    with Writer(path, "drawn", "1", {}, ("first", "second"), ("neg", "phrase", "foil", "pos")) as writer:
        for photo in made:
            if writer.finished(photo.caption):
                continue
            pairs = list(zip(("first", "second"), *map(photo.companions, ("phrase", "foil")), strict=True))
            texts = [Candidate("first", photo.negatives[0])]
            texts += [Candidate(type, phrase, "phrase") for type, phrase, _ in pairs[::-1]]
            texts += [Candidate(type, foil, "foil", of=phrase) for type, phrase, foil in pairs if foils]
            writer.add(photo.caption, texts)
    return path


# --- from each source ---


def test_columns_and_a_store_give_the_same_run(tmp_path, model, table):
    made, path = table
    for photo in made:
        photo.negatives = photo.negatives[:1]
    path = write_csv(tmp_path / "csv", made, kinds=("phrase", "foil"))
    store = write_store(tmp_path / "store", made)
    flags = ["--model", model, *csv_flags(path), "--loss", "Units"]
    by_column = train_here(tmp_path, *flags, name="column")
    by_store = train_here(tmp_path, *flags, "--negatives", store, name="store")
    assert by_column.values("loss") == by_store.values("loss")
    assert by_column.values("unit_loss")[0] > 0
    for run in (by_column, by_store):
        assert "loss=Units options: same=keep companions: neg=1 phrase=2 foil=2" in run.output
        for kind, count in Units.companions.items():
            assert f"{count}.00 of {count} on average" in run.output.partition(f"{kind}: ")[2]
    assert "foil: 16 of 16 captions have some, 2.00 of 2 on average" in by_column.output
    assert f"foil: from {store}, for 16 of 16 captions looked up, 2.00 of 2 on average" in by_store.output


@pytest.mark.parametrize("inside_json", [False, True], ids=["fields", "keys in json"])
def test_shards_bring_each_kind(tmp_path, model, inside_json):
    url = write_shards(tmp_path / "shards", photos(16), inside_json=inside_json, kinds=("pos", "mine"))
    run = train_here(
        tmp_path, "--model", model, "--train-data", url, "--dataset-type", "webdataset",
        "--train-num-samples", 16, "--loss", "Positives", "--companion-keys", "Own_2=mine",
        "--companions", "pos=2",
    )  # fmt: skip
    for kind, count in (("neg", 2), ("pos", 2), ("Own_2", 1)):
        summary = f"{kind}: 16 of 16 captions looked at have some, {count}.00 of {count} on average"
        assert summary in run.output
    assert all(0 < value < 10 for value in run.values("pull_loss"))
    assert run.checkpoint()["optimizer"]["open_clip_ext"]["companions"] == {"neg": 2, "pos": 2, "Own_2": 1}


def test_shards_and_a_store_of_kinds_that_go_together(tmp_path, model):
    made = photos(16)
    store = write_store(tmp_path / "store", made)
    flags = ["--dataset-type", "webdataset", "--train-num-samples", 16, "--loss", "Units", "--model", model]
    url = write_shards(tmp_path / "shards", made)
    run = train_here(tmp_path, *flags, "--train-data", url, "--negatives", store)
    assert "phrase: from" in run.output
    assert run.values("unit_loss")[0] > 0


def test_synthetic_data_bring_every_kind(tmp_path, model):
    flags = ["--dataset-type", "synthetic", "--train-num-samples", 16, "--loss", "Units"]
    assert train_here(tmp_path, "--model", model, *flags).values("unit_loss")


def test_companions_that_single_captions_lack_are_masked(tmp_path, model, monkeypatch):
    made = photos(16)
    texts = type(made[0]).companions
    rest = {id(photo) for photo in made[::2]}
    monkeypatch.setattr(
        type(made[0]),
        "companions",
        lambda self, kind: [] if kind == "foil" and id(self) in rest else texts(self, kind),
    )
    run = train_here(
        tmp_path,
        "--model",
        model,
        *csv_flags(write_csv(tmp_path / "csv", made, kinds=KINDS)),
        "--loss",
        "Units",
    )
    for kind in ("phrase", "foil"):  # a phrase without its foil is missing, too
        assert f"{kind}: 8 of 16 captions have some, 1.00 of 2 on average" in run.output
    assert run.values("unit_loss")[0] > 0


# --- what is refused ---

UNITS, POSITIVES = ("--loss", "Units"), ("--loss", "Positives")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            [*UNITS, "--companions", "pos=1"],
            "--companions pos=1: --loss Units uses no companion texts of kind pos; its kinds: neg, phrase, "
            "foil",
        ),
        (
            [*UNITS, "--companion-keys", "pos=x"],
            "--companion-keys pos=x: --loss Units uses no companion texts of kind pos; its kinds: neg, "
            "phrase, foil",
        ),
        (
            ["--loss", "clip", "--companions", "pos=1"],
            "--companions has no effect with --loss clip, which uses no companion texts; leave it out",
        ),
        (["--companions", "neg=1"], "--companions has no effect without --loss; add --loss NAME"),
        ([*UNITS, "--companions", "neg"], "--companions neg: expected KIND=COUNT"),
        ([*UNITS, "--companion-keys", "foil="], "--companion-keys foil=: expected KIND=NAME"),
        ([*UNITS, "--companions", "neg=1", "neg=2"], "--companions neg: given twice"),
        *(
            (
                [*UNITS, "--companions", f"neg={count}"],
                f"--companions neg={count}: give a number of texts per caption, at least 1",
            )
            for count in ("0", "-1", "x", "1.5")
        ),
        (
            [*UNITS, "--companions", "neg=2", "--num-negatives", 3],
            "--num-negatives 3 and --companions neg=2: both say how many negatives a caption gets; leave one "
            "of the two out",
        ),
        (
            [*UNITS, "--companion-keys", "neg=a", "--negatives-key", "b"],
            "--negatives-key b and --companion-keys neg=a: both name the source of the negatives; leave one "
            "of the two out",
        ),
        (
            [*UNITS, "--companion-keys", "neg=a", "--negatives", "store"],
            "--negatives store and --companion-keys neg=a: the companion texts come from a store or from the "
            "training data, not from both; leave one of the two out",
        ),
        (
            [*UNITS, "--companions", "foil=1"],
            "--companions phrase=2 foil=1: --loss Units draws phrase and foil together, place by place; give "
            "--companions phrase=2 foil=2",
        ),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_flags(stop, table, arguments, sentence):
    assert stop(*csv_flags(table[1]), *arguments) == sentence


@pytest.mark.parametrize(
    ("loss", "lacks"),
    [
        (
            "BadName",
            "the kind 'hard-neg' in `companions` must be a name of letters, digits and underscores that does "
            "not begin with teacher or anchor or end in _image, as tensors are named after it",
        ),
        (
            "Teachers",
            "the kind 'teacher_neg' in `companions` must be a name of letters, digits and underscores that "
            "does not begin with teacher or anchor or end in _image, as tensors are named after it",
        ),
        (
            "Anchors",
            "the kind 'anchor_base' in `companions` must be a name of letters, digits and underscores that "
            "does not begin with teacher or anchor or end in _image, as tensors are named after it",
        ),
        (
            "NoCount",
            "the count of kind 'neg' in `companions` must be a whole number: at least 1, or 0 for companions "
            "that are there where they are asked for",
        ),
        ("Unequal", "kinds in a group of `aligned` must have the same count in `companions`"),
        ("Unknown", "`aligned` names phrase, foil, and `companions` must have each of these kinds"),
        ("Alone", "`aligned` must have at least two kinds in a group, and each kind in one place"),
        ("NotNested", "`aligned` must be a tuple of tuples of kinds, such as (('phrase', 'foil'),)"),
    ],
)
def test_declarations(stop, table, install, loss, lacks):
    install(loss)
    sentence = stop(*csv_flags(table[1]), "--loss", loss)
    assert sentence == f"--loss {loss}: {__name__}:{loss} lacks the contract of a loss: {lacks}"


def test_a_csv_without_a_kind(stop, tmp_path, table):
    made = photos(8)
    path = write_csv(tmp_path, made, kinds=("phrase",))
    assert stop(*csv_flags(path), *UNITS) == (
        f"{path} has no column 'foil'; its columns: filepath, title, negatives, phrase; name one with "
        "--companion-keys foil=NAME"
    )
    assert stop(*csv_flags(path), *UNITS, "--companion-keys", "foil=phrase", "phrase=x") == (
        f"{path} has no column 'x'; its columns: filepath, title, negatives, phrase; name one with "
        "--companion-keys phrase=NAME"
    )


def changed(path, column, change):
    """A CSV in which `change` gives each cell of a column, from its row's number and its texts."""
    import pandas as pd

    rows = pd.read_csv(path)
    rows[column] = [json.dumps(change(i, json.loads(cell))) for i, cell in enumerate(rows[column])]
    rows.to_csv(path, index=False)
    return path


@pytest.mark.parametrize(
    ("column", "change", "sentence"),
    [
        (
            "foil",
            lambda i, texts: [],
            "column 'foil': there is no foil text in any row; make some, or train with --loss clip",
        ),
        (
            "foil",
            lambda i, texts: texts[:1],
            "columns 'phrase' and 'foil': --companions phrase=2 foil=2 is more than any row has (1 at most); "
            "give --companions phrase=1 foil=1",
        ),
        (
            "phrase",
            lambda i, texts: ["", "", *texts] if i % 2 else [],
            "columns 'phrase' and 'foil': there is no phrase text with its foil text in any row; make some, "
            "or train with --loss clip",
        ),
    ],
    ids=["empty", "too few", "none together"],
)
def test_a_csv_s_companions(stop, tmp_path, column, change, sentence):
    path = changed(write_csv(tmp_path, photos(8), kinds=("phrase", "foil")), column, change)
    assert stop(*csv_flags(path), *UNITS) == f"{path}, {sentence}"


def test_shards_without_a_kind(stop, tmp_path):
    url = write_shards(tmp_path, photos(8), shards=1, kinds=("phrase",))
    flags = ["--train-data", url, "--dataset-type", "webdataset", "--train-num-samples", 8, *UNITS]
    assert stop(*flags) == (
        f"{tmp_path}/0.tar: none of its first 8 samples has a field foil.json or a key foil in its json; "
        "their fields: negatives.json, phrase.json, png, txt; name one with --companion-keys foil=NAME"
    )
    more = ["--companion-keys", "foil=phrase", "--companions", "phrase=3", "foil=3", "--name", "more"]
    assert stop(*flags, *more) == (
        f"{tmp_path}/0.tar, fields 'phrase' and 'phrase': --companions phrase=3 foil=3 is more than any of "
        "its first 8 samples has (2 at most); give --companions phrase=2 foil=2"
    )


@pytest.mark.parametrize(
    ("loss", "foils", "what"),
    [
        (UNITS, False, "foil text"),
        (POSITIVES, True, "pos text"),
    ],
)
def test_a_store_without_a_kind(stop, tmp_path, table, loss, foils, what):
    made, path = table
    store = write_store(tmp_path / "store", made, foils)
    flags = (*csv_flags(path), *loss, "--num-negatives", 1, "--negatives", store)
    assert stop(*flags) == (
        f"--negatives {store}, looked up for {path}: there is no {what} in any caption; make some, or train "
        "with --loss clip"
    )


def test_a_store_whose_kinds_do_not_belong_together(stop, tmp_path, table):
    made, path = table
    with Writer(tmp_path / "store", "drawn", "1", {}, ("any",), ("neg", "phrase", "foil")) as writer:
        for photo in made:
            texts = [Candidate("any", f"{kind} of it", kind) for kind in ("neg", "phrase", "foil")]
            if not writer.finished(photo.caption):
                writer.add(photo.caption, texts)
    sentence = stop(*csv_flags(path), *UNITS, "--negatives", tmp_path / "store")
    assert sentence.endswith(
        "there is no phrase text with its foil text in any caption; make some, or train with --loss clip"
    )


def test_texts_of_a_kind_that_are_cut(tmp_path, model, stop):
    made = photos(8)
    path = changed(
        write_csv(tmp_path, made, kinds=("pos", "Own_2")),
        "pos",
        lambda i, texts: [f"{texts[0]} {'and so on ' * 5}"] if i else ["a dog", *texts],
    )
    run = train_here(tmp_path, "--model", model, *csv_flags(path), *POSITIVES)
    assert "7 of 10 pos texts looked at are cut after 16 tokens; the longest has 29: " in run.output
    path = changed(path, "pos", lambda i, texts: [made[i].caption.upper()])
    assert "8 of 8 pos texts looked at are to the tokenizer the same as their caption" in stop(
        *csv_flags(path), *POSITIVES, "--name", "same"
    )


@pytest.mark.parametrize("shards", [False, True])
def test_doctor_looks_for_each_kind(tmp_path, model, capsys, shards):
    made, flags = photos(8), ["--workers", 1, "--dataset-type", "webdataset", "--train-num-samples", 8]
    if shards:
        flags = ["--train-data", write_shards(tmp_path, made, shards=1, kinds=("phrase",)), *flags]
    else:
        flags = csv_flags(write_csv(tmp_path, made, kinds=("phrase",)))
    _startup.arm()  # once more, after a run in this process
    flags = ["--model", model, "--device", "cpu", "--logs", tmp_path / "logs", *flags, *UNITS]
    assert cli.main(["doctor", "--quiet", "--", *map(str, flags)]) == 1
    assert capsys.readouterr().err.strip().endswith("name one with --companion-keys foil=NAME")


# --- resume, ranks ---


def test_a_resumed_run_has_the_companions_of_before(tmp_path, model, table, stop):
    flags = ["--model", model, *csv_flags(table[1]), *POSITIVES]
    whole = train_here(tmp_path, *flags, "--epochs", 2, "--companions", "pos=2", name="whole")
    path = whole.folder / "checkpoints" / "epoch_1.pt"
    resume = ["--epochs", 2, "--resume", path]
    assert stop(*flags, *resume, "--name", "other") == (
        f"{path}: a run with companions {{'neg': 2, 'pos': 2, 'Own_2': 1}}, resumed with {{'neg': 2, 'pos': "
        "1, 'Own_2': 1}; give the same --companions pos=2"
    )
    resumed = train_here(tmp_path, *flags, *resume, "--companions", "pos=2", name="resumed")
    assert resumed.values("loss") == whole.values("loss")[2:]


@pytest.mark.trainer
def test_two_processes_equal_one(tmp_path, model, table):
    site = tmp_path / "site"
    (site / "theirs-1.0.dist-info").mkdir(parents=True)
    (site / "theirs-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n"
    )
    (site / "theirs-1.0.dist-info" / "entry_points.txt").write_text(
        f"[{registry.GROUP}]\nUnits = {__name__}:Units\n"
    )
    (site / f"{__name__}.py").write_text(Path(__file__).read_text())
    flags = ["--model", model, *csv_flags(table[1]), *UNITS, "--epochs", 2, "--aug-cfg", "scale=(1.0,1.0)"]
    flags += ["--opt", "timm/momentum", "--momentum", 0, "--wd", 0, "--lr", 0.1]
    one = train_here(tmp_path, *flags, "--batch-size", 16, name="one")
    two = train(
        tmp_path, *flags, "--local-loss", "--gather-with-grad", name="two", processes=2,
        env={"PYTHONPATH": str(site)},
    )  # fmt: skip
    assert two.status == 0, two.output
    theirs = {k.removeprefix("module."): v for k, v in two.checkpoint("epoch_2.pt")["state_dict"].items()}
    for name, tensor in one.checkpoint("epoch_2.pt")["state_dict"].items():
        torch.testing.assert_close(theirs[name], tensor, rtol=1e-4, atol=2e-6)


# --- the draw ---


def numbers(texts: list[str]) -> torch.Tensor:
    """A tokenizer of numbers: each is its own token."""
    return torch.tensor([[int(text)] for text in texts])


def random_places(rng: random.Random, of: str = "text {}") -> list[str | list[str]]:
    places: list[str | list[str]] = []
    for _ in range(rng.randrange(7)):

        def text() -> str:
            return rng.choice(["", " ", *(of.format(i) for i in range(9))])

        places.append([text() for _ in range(rng.randrange(4))] if rng.random() < 0.4 else text())
    return places


def test_kinds_by_themselves_are_drawn_as_they_always_were():
    """The digest is that of the draws before there were groups."""
    rng, rows = random.Random(0), []
    for i in range(2000):
        count, places = rng.randrange(1, 5), random_places(rng)
        collate = CompanionCollate(lambda texts: None, {"pos": count}, seed=i % 3)
        collate.set_epoch(i % 5)
        rows.append(collate.choose(f"caption {i}", {"pos": places}))
    assert hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16] == "19cfc40b12854668"


def test_another_kind_s_group_changes_no_draw():
    many = [f"text {i}" for i in range(9)]
    counts = {"neg": 3, "phrase": 2, "foil": 2}
    texts = {"neg": many, "phrase": many, "foil": many}
    alone = CompanionCollate(numbers, counts).choose("a", texts)
    together = CompanionCollate(numbers, counts, aligned=[("phrase", "foil")]).choose("a", texts)
    assert alone[:3] == together[:3]


def test_aligned_kinds_keep_their_partners_whatever_the_places():
    """Partner of 1xx is 2xx, of that 3xx; a caption is 9."""
    rng = random.Random(0)
    kinds = ("first", "second", "third")
    full = missing = drawn = 0
    for i in range(500):
        size, count = rng.randrange(8), rng.randrange(1, 5)
        names = [[f"{j:02}{a}" for a in range(rng.randrange(1, 4))] for j in range(size)]
        lists = {
            kind: [
                [rng.choice([f"{k}{name}"] * 4 + [""]) for name in place]
                if len(place) > 1
                else rng.choice([f"{k}{place[0]}"] * 4 + [""])
                for place in names
            ][: rng.choice([size, size, size - 1])]
            for k, kind in enumerate(kinds, start=1)
        }
        collate = CompanionCollate(numbers, dict.fromkeys(kinds, count), seed=i, aligned=[kinds])
        ids = collate.texts(["9"], [lists])[0, 1:, 0].view(3, count)
        there = ids > 0
        assert torch.equal(there[0], there[1])
        assert torch.equal(there[0], there[2])
        assert torch.equal(ids[1][there[1]] - ids[0][there[0]], torch.full([int(there[0].sum())], 1000))
        assert torch.equal(ids[2][there[2]] - ids[1][there[1]], torch.full([int(there[0].sum())], 1000))
        whole = sum(
            all(unit)
            for place in zip(*lists.values(), strict=False)
            for unit in ([place] if isinstance(place[0], str) else zip(*place, strict=True))
        )
        assert len(set(ids[0][there[0]].tolist())) == there[0].sum() <= min(whole, count)
        full += int(there[0].all())
        missing += int(not there[0].any())
        drawn += whole > count
    assert min(full, missing, drawn) > 20


def test_partners_go_where_the_tokenizer_leaves_nothing_of_one():
    collate = CompanionCollate(numbers, {"neg": 1, "phrase": 3, "foil": 3}, aligned=[("phrase", "foil")])
    ids = collate.texts(["9"], [{"neg": ["8"], "phrase": ["9", "2", "3"], "foil": ["4", "2", "5"]}])
    # The first phrase is the caption, the second is its foil.
    assert ids[0, :, 0].tolist() == [9, 8, 0, 0, 3, 0, 0, 5]


def test_alternatives_of_a_place_are_drawn_together():
    collate = CompanionCollate(numbers, {"phrase": 1, "foil": 1}, aligned=[("phrase", "foil")])
    found = set()
    for epoch in range(20):
        collate.set_epoch(epoch)
        ids = collate.texts(["9"], [{"phrase": [["1", "1", "2"]], "foil": [["11", "21", "12"]]}])
        found.add(tuple(ids[0, 1:, 0].tolist()))
    assert found == {(1, 11), (1, 21), (2, 12)}


def test_aligned_kinds_need_equal_counts():
    with pytest.raises(ValueError, match="aligned kinds phrase, foil need equal counts"):
        CompanionCollate(numbers, {"phrase": 1, "foil": 2}, aligned=[("phrase", "foil")])


def test_a_store_brings_foils_to_their_phrases(tmp_path):
    from open_clip_ext.host.loaders.companions import StoreLookup
    from open_clip_ext.negatives.store import Store

    texts = [
        Candidate("b", "p2", "phrase"),
        Candidate("a", "p1", "phrase"),
        Candidate("a", "p3", "phrase"),
        Candidate("a", "gone", "phrase", reason="length"),
        Candidate("b", "f2", "foil", of="p2"),
        Candidate("b", "f2'", "foil", of="p2"),
        Candidate("b", "f1", "foil", of="p1"),
        Candidate("b", "bad", "foil", "length", of="p1"),
        Candidate("b", "of gone", "foil", of="gone"),
    ]
    with Writer(tmp_path / "store", "drawn", "1", {}, ("a", "b"), ("phrase", "foil")) as writer:
        writer.add("c", texts)
    lookup = StoreLookup(Store.open(tmp_path / "store"), [("phrase", "foil")])
    assert lookup("c")[1] == {"phrase": [["p1"], ["p2", "p2"]], "foil": [["f1"], ["f2", "f2'"]]}
    assert lookup("unknown") == ("unknown", {})
    assert math.isclose(lookup.missing.take() / lookup.seen.take(), 0.5)
