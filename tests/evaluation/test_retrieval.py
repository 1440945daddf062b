"""Retrieval with several captions per picture, against loops over every pair."""

from __future__ import annotations

import json

import pytest
from drawn import png, write_wds
from fakes import ConstantEncoder, FakeEncoder

from open_clip_ext.errors import InputError
from open_clip_ext.evaluation.items import Picture
from open_clip_ext.evaluation.readers.captions import coco, karpathy
from open_clip_ext.evaluation.readers.wds import wds
from open_clip_ext.evaluation.scoring import aggregate, ranking, retrieval


def captioned(pictures: int = 30) -> dict[Picture, list[str]]:
    """Three to five captions each; two pairs of pictures share one."""
    made = {Picture(f"{i}.png"): [f"caption {j} of {i}" for j in range(3 + i % 3)] for i in range(pictures)}
    for a, b in ((0, 1), (5, 20)):
        shared = f"{a} or {b}"
        made[Picture(f"{a}.png")][0] = made[Picture(f"{b}.png")][1] = shared
    return made


def recalls(rows, names=("i2t R@1", "i2t R@5", "i2t R@10", "t2i R@1", "t2i R@5", "t2i R@10")):
    return {name: aggregate.score(f"{name} micro", rows)["value"] for name in names}


def recalls_of_loops(encoder, made) -> dict[str, float]:
    """Every pair on its own; a caption with the same words is as true as one's own."""
    pictures = list(made)
    seen = encoder.pictures(pictures)
    captions = [(caption, i) for i, picture in enumerate(pictures) for caption in made[picture]]
    read = encoder.texts([caption for caption, _ in captions])
    hits = {f"{d} R@{k}": 0 for d in ("i2t", "t2i") for k in (1, 5, 10)}
    for i, picture in enumerate(pictures):
        scores = [float(seen[i].double() @ text.double()) for text in read]
        order = sorted(range(len(captions)), key=lambda j: -scores[j])
        for k in (1, 5, 10):
            hits[f"i2t R@{k}"] += any(captions[j][0] in made[picture] for j in order[:k])
    for j, (caption, _) in enumerate(captions):
        scores = [float(read[j].double() @ image.double()) for image in seen]
        order = sorted(range(len(pictures)), key=lambda i: -scores[i])
        for k in (1, 5, 10):
            hits[f"t2i R@{k}"] += any(caption in made[pictures[i]] for i in order[:k])
    return {name: n / len(pictures if name[0] == "i" else captions) for name, n in hits.items()}


@pytest.mark.parametrize("at_once", [1, 500, 2**25])
def test_recall_is_that_of_loops(monkeypatch, at_once):
    monkeypatch.setattr(ranking, "AT_ONCE", at_once)
    benchmark = retrieval.benchmark("r", captioned(), {})
    rows = benchmark.score(FakeEncoder(), benchmark.items)
    expected = recalls_of_loops(FakeEncoder(), captioned())
    assert recalls(rows) == pytest.approx(expected, abs=1e-12)
    assert 0 < expected["t2i R@1"] < expected["t2i R@5"] < expected["t2i R@10"] < 1


def test_there_is_a_row_per_query():
    benchmark = retrieval.benchmark("r", captioned(), {})
    rows = benchmark.score(FakeEncoder(), benchmark.items)
    captions = sum(map(len, captioned().values()))
    assert [row["group"] for row in rows] == ["i2t"] * 30 + ["t2i"] * captions
    assert len({row["id"] for row in rows}) == len(rows)
    for row in rows:
        true, false = row["captions"] if row["group"] == "i2t" else (row["captions"][0], "")
        made = captioned()[Picture(row["pictures"][0])]
        assert true in made
        assert false not in made
    assert benchmark.notes == (f"30 pictures, {captions} captions; R@k macro is the mean of both directions",)


def test_the_mean_of_both_directions_is_the_primary_score():
    benchmark = retrieval.benchmark("r", captioned(), {})
    rows = benchmark.score(FakeEncoder(), benchmark.items)
    one = recalls(rows)
    assert benchmark.aggregations[0] == "R@1 macro"
    both = (one["i2t R@1"] + one["t2i R@1"]) / 2
    assert aggregate.score("R@1 macro", rows)["value"] == pytest.approx(both)


def test_each_picture_and_each_wording_is_encoded_once():
    encoder = FakeEncoder()
    benchmark = retrieval.benchmark("r", captioned(), {})
    benchmark.score(encoder, benchmark.items)
    assert len(encoder.encoded) == len(set(encoder.encoded))


def test_a_constant_model_finds_nothing():
    benchmark = retrieval.benchmark("r", captioned(), {})
    rows = benchmark.score(ConstantEncoder(), benchmark.items)
    assert set(recalls(rows).values()) == {0.0}
    score = aggregate.score("t2i R@5 micro", rows)
    assert score["ties"] == score["n"]
    assert score["half"] == pytest.approx(5 / 30, abs=0.01)  # chance


# Files


@pytest.fixture
def karpathy_file(tmp_path):
    images = [
        {
            "filepath": "val2014",
            "filename": f"{i}.jpg",
            "split": "test" if i < 4 else "restval",
            "sentences": [{"raw": f"{i} {j}"} for j in range(5)],
        }
        for i in range(6)
    ]
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": images, "dataset": "coco"}))
    return tmp_path / "dataset_coco.json"


def test_karpathy_s_splits(karpathy_file, tmp_path):
    (tmp_path / "val2014").mkdir()
    benchmark = karpathy(annotations=karpathy_file, images=tmp_path)
    assert benchmark.name == "karpathy-coco"
    assert [len(item.captions) for item in benchmark.items] == [5] * 4
    assert benchmark.items[3].pictures == (Picture(str(tmp_path / "val2014/3.jpg")),)
    assert list(benchmark.files) == [str(karpathy_file)]
    assert len(karpathy(annotations=karpathy_file, images=tmp_path, split="restval").items) == 2
    # The pictures may also lie flat.
    flat = karpathy(annotations=karpathy_file, images=tmp_path / "flat")
    assert flat.items[0].pictures == (Picture(str(tmp_path / "flat/0.jpg")),)


def test_coco_s_captions(tmp_path):
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg"} for i in (9, 7, 1)],
        "annotations": [{"image_id": i, "caption": c} for i, c in ((7, "x"), (9, "y"), (7, "z"))],
    }
    path = tmp_path / "captions_val2017.json"
    path.write_text(json.dumps(content))
    benchmark = coco(annotations=path, images=tmp_path)
    assert [(i.pictures[0].path, i.captions) for i in benchmark.items] == [
        (str(tmp_path / "9.jpg"), ("y",)),
        (str(tmp_path / "7.jpg"), ("x", "z")),
    ]


def test_a_webdataset_for_retrieval(tmp_path):
    samples = [{"png": png(c), "txt": f"{c}\na {c} thing\n".encode()} for c in ("red", "blue")]
    root = write_wds(tmp_path / "pairs", samples, shards=1, dataset_type="retrieval")
    benchmark = wds(images=root)
    assert (benchmark.family, benchmark.name) == ("retrieval", "wds-pairs")
    assert [item.captions for item in benchmark.items] == [("red", "a red thing"), ("blue", "a blue thing")]
    rows = benchmark.score(FakeEncoder(), benchmark.items)
    assert len(rows) == 2 + 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("images"), "it has no field 'images'"),
        (lambda c: c["images"][2].pop("filename"), "image 2: it has no field 'filename'"),
        (lambda c: c["images"][1].update(sentences=7), "image 1: sentences must be a list, not 7"),
        (lambda c: c["images"][1]["sentences"][0].clear(), "image 1: it has no field 'raw'"),
    ],
)
def test_a_broken_file(karpathy_file, tmp_path, change, message):
    content = json.loads(karpathy_file.read_text())
    change(content)
    karpathy_file.write_text(json.dumps(content))
    with pytest.raises(InputError) as raised:
        karpathy(annotations=karpathy_file, images=tmp_path)
    assert message in str(raised.value)


def test_a_split_that_is_not_there(karpathy_file, tmp_path):
    with pytest.raises(InputError, match="it has no split 'dev', only test, restval"):
        karpathy(annotations=karpathy_file, images=tmp_path, split="dev")


def test_a_single_picture_cannot_be_ranked():
    benchmark = retrieval.benchmark("r", {Picture("0.png"): ["a", "b"]}, {})
    with pytest.raises(InputError, match="every candidate is a right answer"):
        benchmark.score(FakeEncoder(), benchmark.items)
