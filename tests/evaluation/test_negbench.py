"""NegBench: multiple choice with four captions or two, retrieval, and each way to be wrong."""

from __future__ import annotations

import csv

import pytest
from fakes import FakeEncoder
from PIL import Image

from open_clip_ext.errors import InputError
from open_clip_ext.evaluation.evaluate import evaluate
from open_clip_ext.evaluation.readers import negbench

CAPTIONS = {f"caption_{i}": text for i, text in enumerate(("a cat", "a cat, no dog", "a dog", "no cat"))}
QUESTION = {"correct_answer": 1, **CAPTIONS, "correct_answer_template": "hybrid",
            "image_path": "data/coco/images/val2017/000000000007.jpg"}  # fmt: skip
BINARY = {"image_path": "CheXpert/valid/patient1/study1/view1.jpg", "caption_0": "fluid",
          "caption_1": "no fluid", "correct_answer": 0}  # fmt: skip
CAPTIONED = {"filepath": "/data/coco/val2017/7.jpg", "captions": "['a cat', \"the cat's bed, no dog\"]"}


@pytest.fixture
def put(tmp_path):
    def put(name, *rows):
        path = tmp_path / name
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return path

    return put


def photo(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path)


@pytest.mark.parametrize(
    ("subset", "file"),
    [
        ("coco", "COCO_val_mcq_llama3.1_rephrased.csv"),
        ("voc2007", "VOC2007_mcq_llama3.1_rephrased.csv"),
        ("synthetic", "synthetic_mcq_llama3.1_rephrased.csv"),
    ],
)
def test_four_captions_grouped_by_the_kind_of_the_true_one(tmp_path, put, subset, file):
    rows = [QUESTION | {"correct_answer_template": kind} for kind in ("hybrid", "positive", "negative")]
    put(file, *rows)
    photo(tmp_path / "val2017/000000000007.jpg")
    found = negbench.mcq(annotations=tmp_path, images=tmp_path, subset=subset)
    assert found.name == f"negbench-mcq-{subset}"
    item = found.items[0]
    assert (item.kind, item.captions, item.truth, item.group) == (
        "i2t", tuple(CAPTIONS.values()), (1,), "hybrid",
    )  # fmt: skip
    assert item.pictures[0].path == str(tmp_path / "val2017/000000000007.jpg")
    scores = evaluate(FakeEncoder(), [found], intervals=False)[found.name]["scores"]
    assert list(scores) == ["micro", "macro"]


@pytest.mark.parametrize("subset", ["chexpert", "chexpert-control"])
def test_two_captions(tmp_path, put, subset):
    put(negbench.QUESTIONS[subset], BINARY)
    photo(tmp_path / "valid/patient1/study1/view1.jpg")
    found = negbench.mcq(annotations=tmp_path, images=tmp_path, subset=subset)
    assert found.items[0].captions == ("fluid", "no fluid")
    assert found.items[0].pictures[0].exists()
    assert found.aggregations == ("micro",)


def test_a_file_of_its_own_gives_the_name(tmp_path, put):
    known, other = put(negbench.QUESTIONS["voc2007"], QUESTION), put("COCO_val_mcq.csv", QUESTION)
    assert negbench.mcq(annotations=known, images=tmp_path).name == "negbench-mcq-voc2007"
    assert negbench.mcq(annotations=other, images=tmp_path).name == "negbench-mcq-COCO_val_mcq"


def test_retrieval(tmp_path, put):
    put(negbench.CAPTIONED["coco-negated"], CAPTIONED, CAPTIONED | {"filepath": "val2017/8.jpg"})
    for name in ("7", "8"):
        photo(tmp_path / f"val2017/{name}.jpg")
    found = negbench.retrieval(annotations=tmp_path, images=tmp_path)
    assert (found.name, found.family) == ("negbench-retrieval-coco-negated", "retrieval")
    assert found.items[0].captions == ("a cat", "the cat's bed, no dog")
    assert [item.pictures[0].exists() for item in found.items] == [True, True]
    assert "t2i R@5 micro" in found.aggregations


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (
            {key: value for key, value in QUESTION.items() if key != "caption_3"},
            "its captions are caption_0, caption_1, caption_2; a question of NegBench has caption_0 to "
            "caption_3, or caption_0 and caption_1",
        ),
        (
            {"image_path": "1.jpg", "correct_answer": 0},
            "its captions are missing; a question of NegBench has",
        ),
        (QUESTION | {"correct_answer": 4}, "correct_answer must be 0 to 3, not '4'"),
        (QUESTION | {"correct_answer": "1.0"}, "correct_answer must be 0 to 3, not '1.0'"),
        (BINARY | {"correct_answer": 2}, "correct_answer must be 0 to 1, not '2'"),
        (
            QUESTION | {"correct_answer_template": "double"},
            "correct_answer_template must be positive, negative, hybrid, not 'double'",
        ),
        (QUESTION | {"caption_2": " "}, "caption_2 must be a text, not ' '"),
        (
            {k: v for k, v in QUESTION.items() if k != "image_path"},
            "it has no field 'image_path' (its fields: ",
        ),
    ],
)
def test_a_question_that_is_wrong(tmp_path, put, row, sentence):
    file = put("mcq.csv", row)
    with pytest.raises(InputError) as error:
        negbench.mcq(annotations=file, images=tmp_path)
    assert str(error.value).startswith(f"{file}, row 1: {sentence}")


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([CAPTIONED | {"captions": "a cat"}], "row 1: captions: expected a list of strings, got 'a cat'"),
        ([CAPTIONED | {"captions": "__import__('os')"}], "row 1: captions: expected a list of strings"),
        ([CAPTIONED] * 2, "row 2: /data/coco/val2017/7.jpg has a row already"),
        ([{"image_path": "7.jpg"}], "row 1: it has no field 'filepath' (its fields: image_path)"),
    ],
)
def test_captions_that_are_wrong(tmp_path, put, rows, sentence):
    file = put("retrieval.csv", *rows)
    with pytest.raises(InputError) as error:
        negbench.retrieval(annotations=file, images=tmp_path)
    assert f"{file}, {sentence}" in str(error.value)


def test_a_folder_without_the_file(tmp_path):
    with pytest.raises(InputError, match=r"no VOC2007_mcq_llama3.1_rephrased.csv there"):
        negbench.mcq(annotations=tmp_path, images=tmp_path, subset="voc2007")
