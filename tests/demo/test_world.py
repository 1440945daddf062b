from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile

import numpy as np
import pytest
import small_vocabulary
from PIL import Image

from open_clip_ext.demo import recipe, shards, world


def pairs(n, test=False):
    rng = random.Random(5)
    for _ in range(n):
        scene = world.pair_scene(rng, test=test)
        yield scene, world.statement(scene, rng, world.TRAIN_FRAMES + world.TEST_FRAMES), rng


def texts_of(pair):
    return [said.text() for said in (pair.true, *pair.negatives)]


def test_pairs_are_distinct_and_related():
    for scene, true, _ in pairs(300):
        first, second = scene.things
        assert first.colour != second.colour
        assert first.shape != second.shape
        assert (first.row, first.column) != (second.row, second.column)
        assert first.size != second.size
        assert world.holds(true, scene)


@pytest.mark.parametrize("kind", world.KINDS)
def test_edits_make_a_caption_false(kind):
    for scene, true, rng in pairs(300):
        false = world.edit(kind, true, scene, rng)
        assert not world.holds(false, scene)
        assert false.text() != true.text()


def test_exchanged_phrases_with_the_inverse_relation_are_true():
    inverse = {"larger": "smaller", "smaller": "larger"}
    for scene, true, _ in pairs(50):
        turned = world.replace(true, first=true.second, second=true.first, relation=inverse[true.relation])
        assert world.holds(turned, scene)


def test_swaps_keep_the_words():
    for scene, true, rng in pairs(50):
        for kind in ("swap_obj", "swap_att", "swap_order"):
            words = world.edit(kind, true, scene, rng).text().split()
            plain = sorted("a" if word == "an" else word for word in words)
            assert plain == sorted("a" if w == "an" else w for w in true.text().split())


def test_unknown_edit():
    scene, true, rng = next(pairs(1))
    with pytest.raises(ValueError, match="no_such"):
        world.edit("no_such", true, scene, rng)


def test_held_out_pairs_are_never_trained_on():
    def nouns(scene):
        return [(thing.colour, thing.shape) for thing in scene.things]

    rng = random.Random(0)
    for sampler in (world.pretraining_sample, world.fine_tuning_sample):
        for _ in range(500):
            scene, *_ = sampler(rng)
            if len(set(nouns(scene))) == 2:
                assert not world.held_out(*nouns(scene))
    assert all(world.held_out(*nouns(scene)) for scene in world.evaluation(3, 50).pairs)


def test_fine_tuning_captions_never_mention_the_zero_shot_words():
    rng = random.Random(0)
    hidden = {*world.BACKGROUNDS, *world.TEXTURES, *world.STYLES, *world.SIZES, *world.NUMBERS}
    for _ in range(500):
        caption, *negatives = texts_of(world.fine_tuning_sample(rng))
        assert len(negatives) == len(world.SLOTS)
        assert len({caption, *negatives}) == 1 + len(negatives)
        for text in (caption, *negatives):
            assert not hidden & set(text.split())


def test_pretraining_names_everything():
    rng = random.Random(0)
    said = {word for _ in range(3000) for word in world.pretraining_sample(rng)[1].split()}
    for words in (
        *(world.BACKGROUNDS, world.TEXTURES, world.STYLES, world.SIZES, world.NUMBERS),
        *(world.COLOURS, world.SHAPES, ("larger", "bigger", "smaller", "tinier")),
    ):
        assert set(words) <= said
    assert "crosses" in said


def test_the_vocabulary_gives_the_stock_tokens_of_every_word():
    from open_clip.tokenizer import SimpleTokenizer

    stock, ours = SimpleTokenizer(), small_vocabulary.tokenizer(20)
    for word in world.words():
        theirs = [stock.decoder[token] for token in stock.encode(word)]
        assert [ours.decoder[token] for token in ours.encode(word)] == theirs
    assert ours.vocab_size == recipe.MODEL["model_cfg"]["text_cfg"]["vocab_size"]


def test_every_word_of_the_world_is_known():
    rng = random.Random(0)
    items = world.evaluation(1, 100)
    texts = [*items.captions, *items.web, *(t for false in items.false.values() for t in false)]
    texts += [t for z in items.zero_shot.values() for prompts in z.prompts for t in prompts]
    for _ in range(1000):
        texts += [*texts_of(world.fine_tuning_sample(rng)), world.pretraining_sample(rng)[1]]
    assert {word for text in texts for word in text.split()} <= set(world.words())


def test_every_caption_fits_the_context():
    rng = random.Random(0)
    length = recipe.MODEL["model_cfg"]["text_cfg"]["context_length"]
    items = world.evaluation(1, 100)
    texts = [*items.captions, *(t for false in items.false.values() for t in false)]
    for _ in range(300):
        texts += texts_of(world.fine_tuning_sample(rng))
    tokens = small_vocabulary.tokenizer(77)(texts)
    assert int((tokens != 0).sum(1).max()) <= length


@pytest.mark.parametrize("style", world.STYLES)
def test_pictures_depend_on_the_scene_alone(style):
    scene = world.Scene((world.Thing("red", "ring", "small", 0, 1),), "night", "striped", style, 4)
    picture = world.draw(scene)
    assert picture.size == (world.PIXELS, world.PIXELS)
    assert picture.tobytes() == world.draw(scene).tobytes()


@pytest.mark.parametrize("field", ["background", "texture", "style"])
def test_every_attribute_can_be_seen(field):
    names = {
        "background": world.BACKGROUNDS, "texture": world.TEXTURES,
        "style": world.STYLES,
    }[field]  # fmt: skip
    plain = world.Scene((world.Thing("red", "circle", "large", 1, 1),), "snow", "solid", "clean")
    pictures = {world.draw(world.replace(plain, **{field: name})).tobytes() for name in names}
    assert len(pictures) == len(names)


def test_shards(tmp_path):
    for _ in shards.write(tmp_path, shards.fine_tuning(()), 10, 4, seed=1):
        pass
    keys = []
    for path in sorted(tmp_path.iterdir()):
        with tarfile.open(path) as tar:
            files = {m.name: tar.extractfile(m).read() for m in tar.getmembers()}
        for name in files:
            if name.endswith(".png"):
                key = name.removesuffix(".png")
                keys.append(key)
                assert Image.open(io.BytesIO(files[name])).size == (world.PIXELS, world.PIXELS)
                assert files[f"{key}.txt"].decode()
                assert len(json.loads(files[f"{key}.negatives.json"])) == 4
    assert len(keys) == len(set(keys)) == 10


def test_pretraining_shards_hold_no_negatives(tmp_path):
    for _ in shards.write(tmp_path, shards.pretraining, 4, 1, seed=1):
        pass
    with tarfile.open(tmp_path / "0000.tar") as tar:
        assert {name.split(".", 1)[1] for name in tar.getnames()} == {"png", "txt"}


def test_evaluation_is_fixed_by_its_seed():
    assert world.evaluation(1, 20) == world.evaluation(1, 20)
    assert world.evaluation(1, 20) != world.evaluation(2, 20)


def test_evaluation_labels():
    items = world.evaluation(1, 200)
    assert len(set(items.captions)) == 200
    for labelled in items.zero_shot.values():
        counts = np.bincount(labelled.labels, minlength=len(labelled.prompts))
        assert counts.min() > 0.4 * counts.mean()
        assert len(labelled.labels) == len(labelled.scenes) >= 200


def test_the_default_captions_are_those_of_the_published_figures():
    rng = random.Random(0)
    texts = "\n".join(text for _ in range(200) for text in texts_of(world.fine_tuning_sample(rng)))
    assert hashlib.sha256(texts.encode()).hexdigest().startswith("96bb873c5b99e28d")
