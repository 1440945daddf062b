"""`negatives mine`: hard images and blind pairs as training data, and upstream's trainer on them."""

from __future__ import annotations

import csv
import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from PIL import Image
from support import photos, train_here

from open_clip_ext.cli import main
from open_clip_ext.evaluation import models
from open_clip_ext.mining import vision
from open_clip_ext.negatives.store import Store

PAGE = (Path(__file__).parents[2] / "docs" / "mining.md").read_text()


def mine(table, out, *options) -> list[dict[str, object]]:
    """The rows of the file that was written, their lists read."""
    assert main(["negatives", "mine", str(table), "--out", str(out), *map(str, options)]) == 0
    with open(out, newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v if k in ("filepath", "title") else json.loads(v) for k, v in row.items()} for row in rows]


@torch.no_grad()
def cosines(name, file, paths):
    """By open_clip alone: of all pairs of pictures."""
    model = models.load(name, file, activation="gelu", device="cpu")
    images = torch.stack([model.preprocess(Image.open(path).convert("RGB")) for path in paths])
    features = model.model.encode_image(images, normalize=True)
    return features @ features.T


def test_hard_images_are_the_nearest_ones(data, flags, weights, tmp_path, capsys):
    table, store = data
    rows = mine(table, tmp_path / "hard.csv", "--count", 2, "--same", 1, "--negatives", store, *flags)
    assert list(rows[0]) == ["filepath", "title", "hard", "negatives", "hard_neg", "hard_image"]
    paths = [row["filepath"] for row in rows]
    titles = {row["filepath"]: row["title"] for row in rows}
    near = cosines(*weights[:2], paths).fill_diagonal_(-2)
    negatives = Store.open(store)
    for i, row in enumerate(rows):
        assert row["hard_image"] == [paths[j] for j in near[i].topk(2).indices]
        assert row["hard"] == [titles[path] for path in row["hard_image"]]
        by_type = negatives.texts_by_type(row["title"], negatives.types())
        assert row["negatives"] == [texts[0] if texts else "" for texts in by_type]
        for text, negative in zip(row["hard"], row["hard_neg"], strict=True):
            assert negative in [x.text for x in negatives.texts(text, "neg")]
    assert "12 pictures, 12 captions; 12 pictures have a partner" in capsys.readouterr().out


def test_blind_pairs_are_alike_to_one_model_alone(data, flags, weights, tmp_path):
    name, a, b = weights
    paths = [f"{i}.png" for i in range(12)]
    one, other = (cosines(name, file, paths).fill_diagonal_(0) for file in (a, b))
    above, below = float(one.quantile(0.5)), float(other.quantile(0.6))
    rows = mine(
        data[0], tmp_path / "blind.csv", "--kind", "neg", "--count", 12, "--seen-by", name,
        "--seen-by-pretrained", b, "--seen-by-activation", "gelu", "--above", above, "--below", below, *flags,
    )  # fmt: skip
    assert list(rows[0]) == ["filepath", "title", "negatives", "neg_image"]
    pairs = {(row["filepath"], image) for row in rows for image in row["neg_image"]}
    expected = {
        (paths[i], paths[j])
        for i in range(12)
        for j in range(12)
        if i != j and one[i, j] > above and other[i, j] < below
    }
    assert pairs == expected
    assert 4 < len(pairs) < 100


def test_captions_of_one_picture_are_not_negatives_of_each_other(data, flags, tmp_path):
    """Equal files under two names, equal captions but for case, and a picture of another file format."""
    table, _ = data
    (tmp_path / "copy.png").write_bytes((tmp_path / "0.png").read_bytes())
    Image.open("1.png").save("same.bmp")
    with table.open(newline="") as file:
        titles = {row["filepath"]: row["title"] for row in csv.DictReader(file)}
    with table.open("a", newline="") as file:
        csv.writer(file).writerows(
            [["copy.png", "a copy"], ["same.bmp", "another format"], ["3.png", titles["2.png"].upper()],
             ["4.png", "second of four"], ["4.png", "third of four"]]
        )  # fmt: skip
    rows = mine(table, tmp_path / "hard.csv", "--count", 20, "--same", 0.999999, *flags)
    partners = {row["filepath"]: set(row["hard_image"]) for row in rows}
    for one, other in (("0.png", "copy.png"), ("1.png", "same.bmp"), ("2.png", "3.png")):
        assert other not in partners[one]
        assert one not in partners[other]
        assert one in partners["5.png"]
    its = {row["title"] for row in rows if row["filepath"] == "4.png"}
    assert len(its) == 3
    for row in rows:
        assert row["filepath"] not in row["hard_image"]
        if row["title"] in its:
            assert its.isdisjoint(row["hard"])


def test_a_model_of_timm_that_sees_pictures_only(tmp_path):
    import timm

    torch.manual_seed(0)
    made = timm.create_model("test_vit", num_classes=0).eval()
    torch.save(made.state_dict(), tmp_path / "w.pt")
    loaded = vision.load("timm:test_vit", str(tmp_path / "w.pt"), None, "fp32", "cpu")
    image = loaded.preprocess(photos(1)[0].image)[None]
    with torch.no_grad():
        torch.testing.assert_close(loaded.model.encode_image(image), made(image))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--same", "1.5"], "--same 1.5: give a cosine, from -1 to 1"),
        (["--above", "nan"], "--above nan: give a cosine, from -1 to 1"),
        (["--below", "-2"], "--below -2.0: give a cosine, from -1 to 1"),
        (["--count", "0"], "--count 0: give at least 1"),
        (["--kind", "neg", "--negatives", "n.store"],
         "--negatives: goes with --kind hard; the negatives of --kind neg are captions"),
        (["--seen-by-pretrained", "x"],
         "--seen-by-pretrained, --seen-by-activation: name the model with --seen-by"),
        (["--below", "0.5"], "--above, --below: without effect, since --seen-by is missing"),
        (["--seen-by", "timm:test_vit", "--same", "0.9"],
         "--same: without effect with --seen-by, by which pictures are told apart"),
        (["--same", "-1"], "captions.csv: no picture has a partner; raise --same"),
        (["--seen-by", "timm:test_nonsense"],
         "timm:test_nonsense: timm has no such model; `timm.list_models('*dino*')` lists some"),
        (["--seen-by", "timm:test_vit", "--seen-by-pretrained", "gone.pt"],
         "timm:test_vit: there is no file gone.pt; give its weights, or nothing for timm's own"),
        (["--seen-by", "timm:test_vit", "--seen-by-pretrained", "captions.csv"],
         "timm:test_vit: its weights cannot be loaded"),
        (["--images", "elsewhere"],
         "12 of 12 pictures are not there, such as elsewhere/0.png; name their folder with --images"),
    ],
)  # fmt: skip
def test_options_that_are_wrong(data, flags, stop, options, sentence):
    assert stop("mine", "captions.csv", "--out", "o.csv", *flags, *options).startswith(sentence)
    assert not Path("o.csv").exists()


def test_what_is_refused(data, flags, tmp_path, stop):
    table, _ = data
    assert "it is there already" in stop("mine", table, "--out", table, *flags)
    assert stop("mine", table, "--out", "o.store", *flags) == "--out o.store: give the name of a .csv file"
    assert "there is no folder gone" in stop("mine", table, "--out", "gone/o.csv", *flags)
    other = tmp_path / "other.csv"
    other.write_text("title\na dog\n")
    assert stop("mine", other, "--out", "o.csv", *flags) == (
        f"{other}: its captions come without pictures; name their column or key with --image-key"
    )
    other.write_text("filepath,title\n0.png,a dog\n0.png,a cat\n")
    assert stop("mine", other, "--out", "o.csv", *flags) == (
        f"{other}: it has 1 picture; there is nothing to compare it with"
    )
    other.write_text("filepath,title\n0.png,a dog\n1.png,a cat\n")
    assert stop("mine", other, "--out", "o.csv", "--negatives", "n.store", *flags) == (
        f"--negatives n.store: it has none of the captions of {other}"
    )


@pytest.mark.trainer
def test_the_lines_of_the_page_mine_and_train(data, flags, weights, model, tmp_path):
    """From captions to upstream's trainer, for negclip, triplet-clip and con-clip."""
    lines = next(b for b in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)).replace("\\\n", " ").splitlines()
    Path("captions.store").write_bytes(data[1].read_bytes())
    name, _, other = weights
    ours = {"ViT-B-32-quickgelu": [], "timm:vit_small_patch14_dinov2.lvd142m": []}
    losses = []
    for line in filter(None, lines):
        words = shlex.split(line, comments=True)
        if words[0] == "open-clip-ext":
            seen = ["--seen-by", name, "--seen-by-pretrained", other, "--seen-by-activation", "gelu"]
            more = [*seen, "--above", "0.5", "--below", "0.999"] if "--seen-by" in words else ["--same", "1"]
            call = [
                word
                for word in words[1:]
                if word not in ("--seen-by", *ours, "--model", "--pretrained", "openai")
            ]
            assert main([*call, *flags, *more]) == 0
        else:
            losses.append(words[words.index("--loss") + 1])
            run = train_here(tmp_path, "--model", model, *words[3:], name=losses[-1])
            image = re.search(r"(hard|neg) image: (\d+) of 12 captions have some", run.output)
            assert image, run.output
            assert int(image[2]) > 4
    assert losses == ["negclip", "triplet-clip", "con-clip"]
