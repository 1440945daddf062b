"""The drawn world as benchmarks: the items of `world.evaluation`, scored by the evaluator."""

from __future__ import annotations

import argparse
import json
from collections import Counter

import pytest
import torch

from open_clip_ext.demo import benchmarks, models, recipe, vocabulary, world
from open_clip_ext.errors import InputError
from open_clip_ext.evaluation import catalogue, run
from open_clip_ext.evaluation.encode import Encoder
from open_clip_ext.evaluation.evaluate import evaluate
from open_clip_ext.evaluation.models import load
from open_clip_ext.evaluation.wiseft import apart

NAMES = ("composition", "relations", "unmentioned", "shape", "full", "web")
SEEDS, SIZE = (11, 12), 40


def every(seeds="11,12", size=SIZE):
    return [getattr(benchmarks, name)(seeds=seeds, size=size) for name in NAMES]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A demo's folder with one model."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / vocabulary.FILE).write_bytes(vocabulary.content())
    models.untrained(folder / "model", recipe.MODEL, 3)
    return folder


@pytest.fixture
def model(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return load("local-dir:model", device="cpu")


@torch.inference_mode()
def counted(model, seed, size):
    """Right answers, one question after another, by the definitions of `world.Evaluation`."""
    items = world.evaluation(seed, size)

    def image(scene):
        return model.model.encode_image(model.preprocess(world.draw(scene))[None], normalize=True)[0]

    def text(caption):
        return model.model.encode_text(model.tokenizer([caption]), normalize=True)[0]

    def wins(true, false):
        return int(true > false)  # a tie is wrong

    right = Counter()
    pictures, captions = list(map(image, items.pairs)), list(map(text, items.captions))
    for kind, false in items.false.items():
        for picture, caption, other in zip(pictures, captions, false, strict=True):
            right[kind] += wins(picture @ caption, picture @ text(other))
    for name, labelled in items.zero_shot.items():
        classes = [sum(map(text, prompts)) for prompts in labelled.prompts]
        for scene, label in zip(labelled.scenes, labelled.labels, strict=True):
            similar = [float(image(scene) @ one / one.norm()) for one in classes]
            right[name] += similar.index(max(similar)) == label
    for name, words in (("full", items.captions), ("web", items.web)):
        texts = list(map(text, words))
        for place, word in enumerate(words):
            same = [k for k in range(size) if words[k] == word]
            rest = [k for k in range(size) if words[k] != word]
            own = pictures[place] @ texts[place]
            right[name, "i2t"] += wins(own, max(pictures[place] @ texts[k] for k in rest))
            best = max(pictures[k] @ texts[place] for k in same)
            right[name, "t2i"] += wins(best, max(pictures[k] @ texts[place] for k in rest))
    return right


def test_scores_are_those_of_one_question_after_another(model):
    encoder = Encoder(model.model, model.preprocess, model.tokenizer)
    found = evaluate(encoder, every(), intervals=False)
    wanted = sum((counted(model, seed, SIZE) for seed in SEEDS), Counter())
    right = Counter()
    for name, result in found.items():
        for group, metrics in result["subsets"].items():
            one = metrics.get("R@1") or metrics.get("top1") or metrics["accuracy"]
            assert one["n"] == len(SEEDS) * SIZE
            key = (name.removeprefix("drawn-"), group) if "R@1" in metrics else group
            right[key] = round(one["value"] * one["n"])
    assert right == wanted

    def mean(*keys):
        return sum(wanted[key] for key in keys) / len(keys) / len(SEEDS) / SIZE

    primary = {name: result["scores"][result["primary"]]["value"] for name, result in found.items()}
    assert primary == pytest.approx(
        {
            "drawn-composition": mean("swap_obj", "swap_att"),
            "drawn-relations": mean("swap_order", "replace_rel"),
            "drawn-unmentioned": mean(*world.UNMENTIONED),
            "drawn-shape": mean("shape"),
            "drawn-full": mean(("full", "i2t"), ("full", "t2i")),
            "drawn-web": mean(("web", "i2t"), ("web", "t2i")),
        }
    )


def test_they_have_all_kinds_and_sets_and_a_column_each():
    found = every("1")
    groups = {item.group for benchmark in found for item in benchmark.items}
    assert groups == {*world.KINDS, *world.CLASSES, ""}
    assert [benchmark.family for benchmark in found] == [
        "composition", "relations", "zero-shot", "shape", "R@1 full", "R@1 web",
    ]  # fmt: skip


def test_other_seeds_share_nothing_and_benchmarks_of_one_seed_their_pictures():
    one, other = every("1"), every("11")
    assert apart(one, other) == []
    pictures = [{picture for item in b.items for picture in item.pictures} for b in one]
    assert pictures[0] == pictures[1] == pictures[4] == pictures[5]
    assert len(pictures[0]) == SIZE
    assert pictures[0] & pictures[2]  # the sets of background, texture and style have every other pair
    with pytest.raises(InputError, match="items are in both"):
        apart(one, every("1,11"))


def test_through_the_command(folder, monkeypatch, tmp_path):
    monkeypatch.chdir(folder)
    chosen = [["drawn-composition", "seeds=11,12", "size=10"], ["drawn-unmentioned", "seeds=11", "size=10"]]
    words = [word for one in chosen for word in ("--benchmark", *one)]
    parser = argparse.ArgumentParser()
    run.add_arguments(parser)
    out = tmp_path / "out"
    args = parser.parse_args(
        ["--model", "local-dir:model", *words, "--cache", "none", "--device", "cpu", "--out", str(out)]
    )
    assert run.main(args) == 0
    result = json.loads((out / "result.json").read_text())["benchmarks"]
    assert result["drawn-composition"]["n"] == 2 * 6 * 10
    assert result["drawn-composition"]["primary"] == "swap"
    assert result["drawn-unmentioned"]["primary"] == "top1 macro"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["seeds=one"], "drawn-shape seeds=one: must be whole numbers"),
        (["seeds=1,1"], "give each once"),
        (["seeds=1", "size=1"], "size=1: give at least 2"),
        ([], "needs seeds=SEEDS"),
    ],
)
def test_wrong_options(options, sentence):
    with pytest.raises(InputError, match=sentence):
        catalogue.read(catalogue.sources([["drawn-shape", *options]]))
