"""ELEVATER's sets that are read from folders, VOC's devkit and Hateful Memes."""

from __future__ import annotations

import json

import pytest
from drawn import write_folders
from fakes import ConstantEncoder, FakeEncoder
from PIL import Image

from open_clip_ext.errors import InputError
from open_clip_ext.evaluation.evaluate import evaluate
from open_clip_ext.evaluation.readers import classnames, hateful_memes, named_folders, voc2007
from open_clip_ext.evaluation.scoring import aggregate

words = pytest.importorskip("clip_benchmark", reason="needs the extra `retained`")

FER = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")


def refused(reader, sentence, **options):
    with pytest.raises(InputError) as error:
        reader(**options)
    assert sentence in str(error.value)


# --- a folder per class ---------------------------------------------------------------------------


@pytest.mark.parametrize("inside", ["", "test"])
def test_fer2013(tmp_path, inside):
    write_folders(tmp_path / inside, dict.fromkeys(FER, "red"))
    found = named_folders.fer2013(images=tmp_path)
    assert found.name == "fer2013"
    assert [item.group for item in found.items[::2]] == [
        "angry", "disgusted", "fearful", "happy", "neutral", "sad", "surprised",
    ]  # fmt: skip
    assert found.notes[0] == "7 classes, 6 templates"
    scores = evaluate(FakeEncoder(), [found], intervals=False)["fer2013"]["scores"]
    assert list(scores) == ["top1 micro", "top1 macro", "top5 micro"]


def test_caltech101_has_the_names_in_the_order_of_its_folders(tmp_path):
    """Folders with capitals come first, and so do their names in clip-benchmark's list."""
    names = classnames.of_clip_benchmark("classnames", "caltech101")
    upper = ["BACKGROUND_Google", "Faces", "Faces_easy", "Leopards", "Motorbikes"]
    made = [*upper, *(f"{i:03d}".translate(str.maketrans("0123456789", "abcdefghij")) for i in range(97))]
    write_folders(tmp_path / "101_ObjectCategories", dict.fromkeys(made, "red"), each=1)
    found = named_folders.caltech101(images=tmp_path)
    assert [item.group for item in found.items] == list(names)
    assert [item.group for item in found.items[:5]] == [
        "background", "off-center face", "centered face", "leopard", "motorbike",
    ]  # fmt: skip


def test_resisc45_is_named_by_its_folders(tmp_path):
    write_folders(tmp_path / "NWPU-RESISC45", {f"kind_{i:02d}": "red" for i in range(45)}, each=1)
    found = named_folders.resisc45(images=tmp_path)
    assert found.items[0].group == "kind 00"
    assert found.notes == ("45 classes, 4 templates", "all of NWPU-RESISC45")


def test_folders_and_names_that_do_not_fit(tmp_path):
    write_folders(tmp_path / "test", dict.fromkeys(FER[1:], "red"))
    refused(named_folders.fer2013, "test: 6 folders, but fer2013 has 7 classes", images=tmp_path)
    write_folders(tmp_path / "test", {FER[0]: "red"})
    (tmp_path / "names.txt").write_text("a\nb\n")
    refused(
        named_folders.fer2013, "names.txt: 2 class names for the 7 classes of fer2013",
        images=tmp_path, classnames=tmp_path / "names.txt",
    )  # fmt: skip
    refused(named_folders.fer2013, "no such folder", images=tmp_path / "nowhere")


# --- VOC ------------------------------------------------------------------------------------------

OBJECT = """<object><name>{}</name><part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>
<bndbox><xmin>10</xmin><ymin>5</ymin><xmax>30</xmax><ymax>25</ymax></bndbox></object>"""


def write_voc(root, objects=("dog", "tvmonitor")):
    for folder in ("ImageSets/Main", "Annotations", "JPEGImages"):
        (root / folder).mkdir(parents=True)
    (root / "ImageSets/Main/test.txt").write_text("000001\n")
    made = "".join(OBJECT.format(name) for name in objects)
    (root / "Annotations/000001.xml").write_text(f"<annotation>{made}</annotation>")
    Image.new("RGB", (40, 30)).save(root / "JPEGImages/000001.jpg")
    return root


@pytest.mark.parametrize("inside", ["", "VOC2007", "VOCdevkit/VOC2007"])
def test_voc_cuts_out_every_object(tmp_path, inside):
    write_voc(tmp_path / inside)
    found = voc2007.read(images=tmp_path)
    assert [item.group for item in found.items] == ["dog", "tvmonitor"]
    assert found.items[0].pictures[0].box == (10, 5, 20, 20)
    assert found.notes[0] == "20 classes, 1 templates"
    assert evaluate(FakeEncoder(), [found], intervals=False)["voc2007"]["n"] == 2


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (
            lambda r: (r / "Annotations/000001.xml").write_text("<a>"),
            "000001.xml: broken XML (no element found",
        ),
        (lambda r: (r / "Annotations/000001.xml").unlink(), "000001.xml: cannot be read (No such file"),
        (
            lambda r: (r / "Annotations/000001.xml").write_text(f"<a>{OBJECT.format('unicorn')}</a>"),
            "000001.xml, object 0: 'unicorn' is none of VOC's classes",
        ),
        (
            lambda r: (r / "Annotations/000001.xml").write_text("<a><object><name>dog</name></object></a>"),
            "000001.xml, object 0: its bndbox lacks a number",
        ),
        (
            lambda r: (r / "Annotations/000001.xml").write_text(
                f"<a>{OBJECT.format('dog')}</a>".replace(">30<", ">nan<")
            ),
            "000001.xml, object 0: its bndbox lacks a number, or has no area",
        ),
        (
            lambda r: (r / "Annotations/000001.xml").write_text(
                f"<a>{OBJECT.format('dog')}</a>".replace(">30<", ">9<")
            ),
            "000001.xml, object 0: its bndbox lacks a number, or has no area",
        ),
        (lambda r: (r / "Annotations/000001.xml").write_text("<a/>"), "no object in the annotations of test"),
        (lambda r: (r / "ImageSets/Main/test.txt").unlink(), "test.txt: cannot be read (No such file"),
    ],
)
def test_voc_files_that_are_wrong(tmp_path, spoil, sentence):
    spoil(write_voc(tmp_path))
    refused(voc2007.read, sentence, images=tmp_path)


def test_voc_with_other_names(tmp_path):
    (tmp_path / "names.txt").write_text("dog\n")
    sentence = "names.txt: 1 class names for VOC's 20 classes"
    refused(voc2007.read, sentence, images=write_voc(tmp_path / "voc"), classnames=tmp_path / "names.txt")


# --- Hateful Memes --------------------------------------------------------------------------------


def write_memes(root, labels, split="dev_seen"):
    (root / "img").mkdir(parents=True)
    rows = [{"id": n, "img": f"img/{n}.png", "label": y, "text": "words"} for n, y in enumerate(labels)]
    (root / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for n in range(len(labels)):
        Image.new("RGB", (8, 8), (n, n, n)).save(root / f"img/{n}.png")
    return root


def test_the_area_under_the_roc_curve_is_that_of_all_pairs(tmp_path):
    labels = [0, 1, 1, 0, 1, 0, 0]
    found = hateful_memes.read(annotations=write_memes(tmp_path, labels), images=tmp_path)
    encoder = FakeEncoder()
    seen = encoder.pictures([item.pictures[0] for item in found.items])
    harmless, hateful = encoder.texts(["a harmless meme.", "a hateful meme."])
    leaning = [float(one @ hateful - one @ harmless) for one in seen]
    pairs = [leaning[i] > leaning[j] for i, y in enumerate(labels) for j, z in enumerate(labels) if y > z]
    rows = found.score(encoder, found.items)
    assert aggregate.score("auc micro", rows) == {
        "value": pytest.approx(sum(pairs) / 12), "n": 12, "ties": 0, "half": pytest.approx(sum(pairs) / 12),
    }  # fmt: skip
    right = [(leaning[i] > 0) == bool(y) for i, y in enumerate(labels)]
    assert aggregate.score("top1 micro", rows)["value"] == pytest.approx(sum(right) / 7)
    assert 0 < sum(pairs) < 12
    result = evaluate(encoder, [found])["hateful-memes"]
    assert result["primary"] == "auc micro"
    assert result["n"] == 7


def test_a_collapsed_model_has_an_area_of_a_half(tmp_path):
    found = hateful_memes.read(annotations=write_memes(tmp_path, [0, 1, 1]), images=tmp_path / "img")
    rows = found.score(ConstantEncoder(), found.items)
    assert aggregate.score("auc micro", rows) == {"value": 0.0, "n": 2, "ties": 2, "half": 0.5}
    assert all(item.pictures[0].exists() for item in found.items)


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([{"img": "1.png", "label": 2}], "dev_seen.jsonl, line 1: label must be 0 or 1, not 2"),
        ([{"img": "1.png"}], "dev_seen.jsonl, line 1: it has no field 'label' (its fields: img)"),
        ([{"img": "1.png", "label": 1}], "dev_seen.jsonl: it needs hateful and harmless memes"),
    ],
)
def test_memes_that_are_wrong(tmp_path, rows, sentence):
    (tmp_path / "dev_seen.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    refused(hateful_memes.read, sentence, annotations=tmp_path, images=tmp_path)


def test_memes_have_two_classes(tmp_path):
    (tmp_path / "names.txt").write_text("meme\n")
    write_memes(tmp_path, [0, 1])
    sentence = "names.txt: 1 class names, but the set has two: harmless, hateful"
    names = tmp_path / "names.txt"
    refused(hateful_memes.read, sentence, annotations=tmp_path, images=tmp_path, classnames=names)
