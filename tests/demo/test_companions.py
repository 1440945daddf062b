from __future__ import annotations

import io
import json
import random
import tarfile
from collections.abc import Mapping
from itertools import product
from types import SimpleNamespace
from typing import ClassVar

import pytest
import small_vocabulary
from our_losses import CLASSES, WITH_IMAGES
from PIL import Image
from torch import nn

from open_clip_ext import registry
from open_clip_ext.data import CompanionCollate, present
from open_clip_ext.demo import companions, methods, recipe, run, shards, world
from open_clip_ext.errors import InputError

LENGTH = recipe.MODEL["model_cfg"]["text_cfg"]["context_length"]
EVERYTHING = [kind for kind in (*companions.TEXTS, *companions.IMAGES) if kind != companions.NEGATIVES]
# Every sentence of fine-tuning about two objects, and what it says.
NOUNS = companions.NOUNS
SENTENCES = {
    said.text(): said
    for first, second in product(NOUNS, NOUNS)
    if first[0] != second[0] and first[1] != second[1]
    for relation, frame, wording in product(world.RELATIONS, world.TRAIN_FRAMES, range(2))
    for said in [world.Statement(first, relation, second, frame, wording)]
}


def pairs(n=100):
    rng = random.Random(3)
    return [world.fine_tuning_sample(rng) for _ in range(n)]


def nouns(scene):
    return {world.noun_phrase((thing.colour, thing.shape)) for thing in scene.things}


def test_positives_are_true_in_other_words():
    for pair in pairs():
        texts = companions.positives(pair)
        assert len({*texts, pair.true.text()}) == 1 + len(texts) == 12
        assert all(world.holds(SENTENCES[text], pair.scene) for text in texts)


def test_an_absence_is_the_caption_and_something_that_is_not_there():
    for pair in pairs():
        texts = companions.absences(pair)
        assert len(set(texts)) == companions.ABSENT
        for text in texts:
            caption, noun = text.split(", no ")
            assert caption == pair.true.text()
            assert tuple(noun.split()) in NOUNS
            assert f"a {noun}" not in nouns(pair.scene)


def test_a_foil_changes_one_word_of_its_phrase_and_is_not_there():
    for pair in pairs():
        phrases, foils = companions.phrases(pair), companions.foils(pair)
        assert set(phrases) == nouns(pair.scene)
        for phrase, foil in zip(phrases, foils, strict=True):
            assert phrase in pair.true.text()
            assert tuple(foil.split()[1:]) in NOUNS
            assert foil not in nouns(pair.scene)
            assert [a == b for a, b in zip(phrase.split(), foil.split(), strict=True)].count(False) == 1


def test_a_masked_caption_lacks_one_colour_or_the_relation():
    for pair in pairs():
        words = pair.true.text().split()
        texts = [text.split() for text in companions.masked(pair)]
        gone = [[w for w, m in zip(words, text, strict=True) if w != m] for text in texts]
        relation = world.RELATIONS[pair.true.relation][pair.true.wording].split()[0]
        assert sorted(gone) == sorted([[pair.true.first[0]], [pair.true.second[0]], [relation]])
        assert all(text.count(companions.MASK) == 1 for text in texts)


def test_a_negative_is_true_of_its_picture():
    drawn = 0
    for pair in pairs():
        for negative, scene in zip(pair.negatives, companions.negative_scenes(pair), strict=True):
            described = companions.described(negative, pair.scene)
            assert world.holds(negative, described)
            assert not world.holds(pair.true, described)
            held_out = world.held_out(negative.first, negative.second)
            assert scene == (None if held_out else described)
            drawn += scene is not None
    assert 300 < drawn < 400


def test_a_hard_picture_is_another_with_its_own_caption_and_negatives():
    for pair in pairs():
        (picture,) = companions.IMAGES["hard_image"](pair)
        (caption,) = companions.TEXTS["hard"](pair)
        assert not world.holds(pair.true, picture)
        assert world.holds(SENTENCES[caption], picture)
        assert not world.held_out(*((thing.colour, thing.shape) for thing in picture.things))
        false = companions.TEXTS["hard_neg"](pair)
        for scene in (picture, pair.scene):
            assert not any(world.holds(SENTENCES[text], scene) for text in false)
            assert not any(world.holds(said, scene) for said in pair.negatives)


def test_every_text_fits_the_context_and_is_no_sentence_of_the_evaluation():
    texts = [text for pair in pairs() for made in companions.TEXTS.values() for text in made(pair)]
    assert int((small_vocabulary.tokenizer(77)(texts) != 0).sum(1).max()) <= LENGTH
    assert not any(text.startswith(("a picture", "here")) for text in texts)
    known = {*world.words(), companions.MASK, "no"}
    assert {word.strip(",") for text in texts for word in text.split()} <= known


def read(folder):
    files = {}
    for path in sorted(folder.iterdir()):
        with tarfile.open(path) as tar:
            files |= {member.name: tar.extractfile(member).read() for member in tar.getmembers()}
    return files


def test_other_companions_leave_a_sample_as_it_is(tmp_path):
    written = []
    for kinds in ((), ("masked",), EVERYTHING):
        folder = tmp_path / str(len(kinds))
        folder.mkdir()
        for _ in shards.write(folder, shards.fine_tuning(kinds), 10, 2, seed=1):
            pass
        written.append(read(folder))
    bare, masked, everything = written
    assert len(bare) == 30
    assert bare.items() < masked.items() < everything.items()
    assert len(masked) == 40
    pictures = [name for name in everything if "_image" in name]
    assert {Image.open(io.BytesIO(everything[name])).size for name in pictures} == {(world.PIXELS,) * 2}
    pair = world.fine_tuning_sample(random.Random(1))
    there = [place for place, scene in enumerate(companions.negative_scenes(pair)) if scene]
    assert [name for name in pictures if name.startswith("000000.neg")] == [
        f"000000.neg_image.{place}.png" for place in there
    ]
    assert json.loads(everything["000000.foil.json"]) == companions.foils(pair)


@pytest.mark.parametrize("name", [*CLASSES, *(name.replace(" with ", "+") for name in WITH_IMAGES)])
def test_every_loss_of_ours_finds_what_it_wants(name):
    (method,) = methods.methods([name])
    loss = WITH_IMAGES.get(name.replace("+", " with "), CLASSES[method.loss])
    if loss.pairs:
        assert (method.kinds, method.flags) == ((), {})
        return
    kinds = {*method.kinds, companions.NEGATIVES} & companions.TEXTS.keys()
    assert {kind for kind, n in loss.companions.items() if n} | {companions.NEGATIVES} == kinds
    assert {f"{kind}_image" for kind, n in loss.companion_images.items() if n} == {*method.kinds} - kinds
    collate = CompanionCollate(small_vocabulary.tokenizer(LENGTH), loss.companions, aligned=loss.aligned)
    made = [
        (pair.true.text(), {kind: companions.TEXTS[kind](pair) for kind in loss.companions})
        for pair in pairs(20)
    ]
    assert present(collate.texts(*zip(*made, strict=True))).all()


def test_all_are_the_losses_of_this_package(monkeypatch):
    theirs = SimpleNamespace(dist=SimpleNamespace(name="theirs"))
    known = registry.entries()
    monkeypatch.setattr(registry, "entries", lambda: {**known, "theirs": theirs})
    found = methods.methods(["negclip", "all", "con-clip+images"])
    assert [method.name for method in found] == [
        "negclip", *(name for name in CLASSES if name != "negclip"), "con-clip+images",
    ]  # fmt: skip
    assert {method.data for method in found if not method.kinds} == {"fine-tuning"}


def test_images_that_a_loss_takes_only_if_asked_are_asked_for():
    (method,) = methods.methods(["negclip+images"])
    assert method.loss == "negclip"
    assert method.data == "fine-tuning-hard-hard_neg-hard_image"
    assert method.flags == {"companions": ["hard=1", "hard_neg=1"], "companion-images": ["hard=1"]}


class Sound(nn.Module):
    companions: ClassVar[Mapping[str, int]] = {"neg": 1, "sound": 1}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sound", "wants companions of kind sound, which the demo does not draw; it draws neg, pos, "),
        (
            "clip+images",
            "--losses clip.images: it takes no companions beside those that it always has; name clip",
        ),
    ],
)
def test_what_cannot_be_drawn_is_one_sentence(tmp_path, monkeypatch, name, words):
    load = registry.load
    monkeypatch.setattr(registry, "load", lambda name: Sound if name == "sound" else load(name))
    with pytest.raises(InputError, match=words) as error:
        run.run(tmp_path / "out", losses=["clip", name])
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()
