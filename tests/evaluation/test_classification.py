"""Zero-shot classification: folders, torchvision's data sets, clip-benchmark's webdatasets."""

from __future__ import annotations

import io
import json
import struct
import sys
from pathlib import Path

import open_clip
import pytest
import torch
from drawn import png, write_folders, write_wds
from fakes import ConstantEncoder, FakeEncoder
from open_clip import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES
from PIL import Image
from support import COLOURS

from open_clip_ext.errors import InputError
from open_clip_ext.evaluation.encode import Encoder
from open_clip_ext.evaluation.readers import classnames, folders, torchvision_sets
from open_clip_ext.evaluation.readers.wds import wds
from open_clip_ext.evaluation.scoring import aggregate
from open_clip_ext.evaluation.scoring.classification import Classes


class ColourEncoder(FakeEncoder):
    """Knows the colours: of a picture by looking, of a text by its words."""

    def _one(self, thing):
        if isinstance(thing, str):
            return torch.tensor([float(colour in thing) for colour in COLOURS] + [0.01])
        pixel = Image.open(io.BytesIO(thing.read())).convert("RGB").getpixel((0, 0))
        return torch.tensor([float(pixel == rgb) for rgb in COLOURS.values()] + [0.01])


def score(benchmark, encoder, name="top1 micro"):
    return aggregate.score(name, benchmark.score(encoder, benchmark.items))


@pytest.fixture
def coloured(tmp_path):
    return write_folders(tmp_path / "colours", {f"{colour}_things": colour for colour in COLOURS})


def test_a_model_that_sees_gets_every_picture(coloured):
    benchmark = folders.image_folder(images=coloured)
    assert benchmark.name == "image-folder-colours"
    assert [item.group for item in benchmark.items[:3]] == ["blue things", "blue things", "green things"]
    assert score(benchmark, ColourEncoder()) == {"value": 1.0, "n": 8, "ties": 0, "half": 1.0}
    assert "top5 micro" not in benchmark.aggregations  # of four classes


def test_a_constant_model_gets_none_and_chance_if_lots_were_drawn(coloured):
    benchmark = folders.image_folder(images=coloured)
    assert score(benchmark, ConstantEncoder()) == {"value": 0.0, "n": 8, "ties": 8, "half": 0.25}


def test_rows_name_the_right_class_and_the_nearest_wrong_one(coloured):
    benchmark = folders.image_folder(images=coloured)
    rows = benchmark.score(ColourEncoder(), benchmark.items)
    assert rows[0]["captions"][0] == "blue things"
    assert rows[0]["captions"][1] != "blue things"
    assert rows[0]["pictures"] == [str(coloured / "blue_things" / "0.png")]
    assert rows[0]["margin"] > 0.9


class ByName(FakeEncoder):
    """Draws that do not depend on the folder of a test."""

    def _one(self, thing):
        return super()._one(repr(thing).rpartition("/many/")[2])


def test_top1_and_top5_are_those_of_a_loop(tmp_path):
    names = [f"class {i}" for i in range(12)]
    root = write_folders(tmp_path / "many", {f"{i:02d}": "red" for i in range(12)}, each=3)
    (tmp_path / "names.txt").write_text("\n".join(names))
    (tmp_path / "templates.txt").write_text("a photo of {c}\na drawing of {}\n")
    benchmark = folders.image_folder(
        images=root, classnames=tmp_path / "names.txt",
        templates=tmp_path / "templates.txt",
    )  # fmt: skip
    assert len(benchmark.files) == 2
    encoder = ByName()
    hits = {1: 0, 5: 0}
    for item in benchmark.items:
        seen = encoder.pictures(item.pictures)[0]
        scores = []
        for name in names:
            features = encoder.texts([f"a photo of {name}", f"a drawing of {name}"])
            mean = features.mean(0)
            scores.append(float(seen @ (mean / mean.norm())))
        order = sorted(range(12), key=lambda label: -scores[label])
        for k in hits:
            hits[k] += item.truth[0] in order[:k]
    assert score(benchmark, encoder)["value"] == hits[1] / 36
    assert score(benchmark, encoder, "top5 micro")["value"] == hits[5] / 36
    assert 0 < hits[1] < hits[5] < 36


def test_the_classifier_is_open_clip_s(model):
    clip = open_clip.create_model(model).eval()
    tokenizer = open_clip.get_tokenizer(model)
    names, templates = IMAGENET_CLASSNAMES[:7], OPENAI_IMAGENET_TEMPLATES[:5]
    theirs = open_clip.build_zero_shot_classifier(clip, tokenizer, names, templates)
    classes = Classes(tuple(names), tuple(template("{c}") for template in templates))
    ours = classes.weights(Encoder(clip, lambda image: image, tokenizer))
    torch.testing.assert_close(ours, theirs.T, atol=1e-6, rtol=0)


def test_imagenet_s_classes_are_in_open_clip_s_order(tmp_path):
    """The order of WordNet ids, which torchvision's ImageFolder and open_clip's names share."""
    root = write_folders(tmp_path / "v", {"n01440764": "red", "n15075141": "blue", "n02123045": "green"}, 1)
    benchmark = folders.imagenet(images=root)
    assert [item.group for item in benchmark.items] == ["tench", "tabby cat", "toilet paper"]
    numbered = write_folders(tmp_path / "v2", {"10": "red", "9": "blue", "0": "green"}, 1)
    benchmark = folders.imagenet(images=numbered)
    assert [item.group for item in benchmark.items] == [IMAGENET_CLASSNAMES[i] for i in (0, 9, 10)]
    assert benchmark.notes[0] == "3 classes, 80 templates"


def test_classes_of_one_name_are_one(tmp_path):
    """ImageNet has two classes called missile: no model can tell their prompts apart."""
    both = [str(i) for i, name in enumerate(IMAGENET_CLASSNAMES) if name == "missile"]
    assert len(both) == 2
    root = write_folders(tmp_path / "v2", {**dict.fromkeys(both, "red"), "0": "blue"}, 1)
    benchmark = folders.imagenet(images=root)
    assert "classes of one name (missile) are one: the name is right for each of them" in benchmark.notes

    class Blind(FakeEncoder):
        def _one(self, thing):
            return torch.tensor([1.0, float("missile" in str(thing))])

    rows = benchmark.score(Blind(), [item for item in benchmark.items if item.group == "missile"])
    assert [row["captions"] for row in rows] == [["missile", "tench"]] * 2


# torchvision's formats


def write_mnist(root: Path, labels: list[int]) -> Path:
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for split in ("train", "t10k"):
        images = b"".join(bytes([25 * label]) * 784 for label in labels)
        header = struct.pack(">IIII", 0x803, len(labels), 28, 28)
        (folder / f"{split}-images-idx3-ubyte").write_bytes(header + images)
        header = struct.pack(">II", 0x801, len(labels))
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(header + bytes(labels))
    return root


def write_food(root: Path) -> Path:
    names = {"apple_pie": "red", "beet_salad": "blue"}
    write_folders(root / "food-101" / "images", names)
    (root / "food-101" / "meta").mkdir()
    listed = {name: [f"{name}/0", f"{name}/1"] for name in names}
    for colour_folder in (root / "food-101" / "images").iterdir():
        for path in colour_folder.iterdir():
            path.rename(path.with_suffix(".jpg"))
    for split in ("train", "test"):
        (root / "food-101" / "meta" / f"{split}.json").write_text(json.dumps(listed))
    return root


@pytest.fixture
def templates(tmp_path):
    (tmp_path / "templates.txt").write_text("the digit {c}\n")
    return tmp_path / "templates.txt"


def test_a_torchvision_data_set_of_arrays(tmp_path, templates):
    root = write_mnist(tmp_path, [3, 7, 3])
    (tmp_path / "digits.txt").write_text("\n".join("abcdefghij"))
    benchmark = torchvision_sets.mnist(images=root, classnames=tmp_path / "digits.txt", templates=templates)
    assert [item.group for item in benchmark.items] == ["d", "h", "d"]
    stored = Image.open(io.BytesIO(benchmark.items[1].pictures[0].read()))
    assert (stored.size, stored.getpixel((0, 0))) == ((28, 28), (175, 175, 175))
    assert "torchvision.datasets.MNIST(train=False)" in benchmark.notes


def test_a_torchvision_data_set_of_files_with_clip_benchmark_s_words(tmp_path):
    pytest.importorskip("clip_benchmark", reason="needs the extra `retained`")
    benchmark = torchvision_sets.food101(images=write_food(tmp_path))
    assert [item.group for item in benchmark.items] == ["apple pie"] * 2 + ["beet salad"] * 2
    assert benchmark.items[0].pictures[0].path == str(tmp_path / "food-101/images/apple_pie/0.jpg")
    assert benchmark.notes[0] == "2 classes, 1 templates"
    assert classnames.of_clip_benchmark("zeroshot_classification_templates", "food101") == (
        "a photo of {c}, a type of food.",
    )


def test_without_clip_benchmark_one_is_told_of_the_extra(tmp_path, monkeypatch, templates):
    monkeypatch.setitem(sys.modules, "clip_benchmark", None)
    with pytest.raises(InputError, match=r"pip install 'open_clip_ext\[retained\]'"):
        torchvision_sets.mnist(images=write_mnist(tmp_path, [1]))


@pytest.mark.parametrize("name", ["cifar10", "mnist", "dtd", "eurosat", "pets", "rendered_sst2", "sun397"])
def test_a_data_set_that_is_not_there_is_one_sentence(tmp_path, name):
    with pytest.raises(InputError, match=r"download=True\)$") as raised:
        getattr(torchvision_sets, name)(images=tmp_path)
    assert f"below {tmp_path}" in str(raised.value)
    assert not list(tmp_path.iterdir())  # nothing was downloaded


# clip-benchmark's webdatasets


def write_colours_wds(root: Path, **changes) -> Path:
    samples = [{"png": png(c), "cls": str(i).encode()} for i, c in enumerate(COLOURS)]
    texts = {"classnames": "\n".join(COLOURS), "zeroshot_classification_templates": "something {c}\n"}
    return write_wds(root, samples, **{**texts, **changes})


def test_a_webdataset(tmp_path):
    benchmark = wds(images=write_colours_wds(tmp_path / "four"))
    assert benchmark.name == "wds-four"
    assert [item.group for item in benchmark.items] == ["red", "blue", "green", "yellow"]  # by shard
    assert benchmark.items[1].pictures[0].read() == png("blue")
    assert score(benchmark, ColourEncoder())["value"] == 1.0
    assert [Path(path).name for path in benchmark.files] == [
        "nshards.txt", "classnames.txt", "zeroshot_classification_templates.txt",
    ]  # fmt: skip


def test_the_same_pictures_score_the_same_from_a_webdataset_and_from_folders(tmp_path, coloured, model):
    clip, _, preprocess = open_clip.create_model_and_transforms(model)
    encoder = Encoder(clip.eval(), preprocess, open_clip.get_tokenizer(model))
    (tmp_path / "t.txt").write_text("something {c}\n")
    (tmp_path / "n.txt").write_text("\n".join(sorted(COLOURS)))
    from_folders = folders.image_folder(
        images=coloured, classnames=tmp_path / "n.txt",
        templates=tmp_path / "t.txt",
    )  # fmt: skip
    from_tar = wds(images=write_colours_wds(tmp_path / "four"))
    margins = [
        {row["group"]: round(row["margin"], 5) for row in b.score(encoder, b.items)}
        for b in (from_folders, from_tar)
    ]
    assert margins[0] == margins[1]


# Bad input


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "classnames.txt").unlink(), "classnames.txt: cannot be read (No such file"),
        (lambda root: (root / "classnames.txt").write_text("\n"), "classnames.txt: no line in it"),
        (lambda root: (root / "classnames.txt").write_text("a\nb"), "there is a label 3, but 2 class names"),
        (
            lambda root: (root / "zeroshot_classification_templates.txt").write_text("a photo"),
            "the template 'a photo' has no {c} where the class name goes",
        ),
        (lambda root: (root / "test" / "nshards.txt").write_text("two"), "'two' is not a number of shards"),
        (lambda root: (root / "test" / "1.tar").unlink(), "1.tar: not a readable tar file"),
        (lambda root: (root / "test" / "1.tar").write_bytes(b"x" * 2000), "1.tar: not a readable tar file"),
        (lambda root: (root / "dataset_type.txt").write_text("multilabel"), "multilabel data sets cannot"),
        (lambda root: (root / "dataset_type.txt").write_text("retrieval"), "a .txt; it has .png, .cls"),
    ],
)
def test_a_broken_webdataset(tmp_path, spoil, message):
    root = write_colours_wds(tmp_path / "four")
    spoil(root)
    with pytest.raises(InputError) as raised:
        wds(images=root)
    assert message in str(raised.value)


def test_a_label_that_is_none(tmp_path):
    texts = {"classnames": "a\nb", "zeroshot_classification_templates": "{c}"}
    root = write_wds(tmp_path / "x", [{"png": png("red"), "cls": b"cat"}], shards=1, **texts)
    with pytest.raises(InputError, match=r"s0000000.png: its label is 'cat', not a number from 0"):
        wds(images=root)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "no such folder"),
        (lambda root: root.mkdir(), "no folder in it"),
        (lambda root: (root / "n01440764").mkdir(parents=True), "no picture in its folders"),
        (lambda root: (root / "cats").mkdir(parents=True), "the folder cats is not named after a class"),
    ],
)
def test_folders_that_are_not_imagenet(tmp_path, make, message):
    make(tmp_path / "val")
    with pytest.raises(InputError, match=message):
        folders.imagenet(images=tmp_path / "val")


def test_hidden_folders_are_no_classes(coloured):
    """A folder like .ipynb_checkpoints would be one more class that every picture could get."""
    before = folders.image_folder(images=coloured)
    (coloured / ".thumbnails").mkdir()
    assert folders.image_folder(images=coloured).notes == before.notes


def test_class_names_for_other_folders(tmp_path, coloured):
    (tmp_path / "names.txt").write_text("red\nblue\n")
    with pytest.raises(InputError, match="2 class names for the 4 folders"):
        folders.image_folder(images=coloured, classnames=tmp_path / "names.txt")


def test_a_webdataset_whose_text_is_none(tmp_path):
    root = write_wds(tmp_path / "one", [{"png": png("red"), "cls": b"\xff"}], shards=1)
    with pytest.raises(InputError, match=r"0.tar, sample \w+: its .cls is not UTF-8 text"):
        wds(images=root)
