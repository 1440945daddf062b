"""The companions of fine-tuning captions, of every kind that a loss of this package wants.

The scene of a caption is known, so that each text is true or false by construction. All sentences are those
of fine-tuning (`TRAIN_FRAMES`), and no picture shows a pair of objects that is held out.

What is drawn depends on the pair and the kind alone: other kinds beside it change nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import product

from open_clip_ext.demo import world
from open_clip_ext.demo.world import Pair, Scene, Statement

Noun = tuple[str, str]  # colour, shape

# Its token is in the small vocabulary, and no caption has it. CLIP has no token for a masked word.
MASK = "_"
NOUNS: tuple[Noun, ...] = tuple(product(world.COLOURS, world.SHAPES))
MASKED = {*world.COLOURS, *(wording.split()[0] for both in world.RELATIONS.values() for wording in both)}
ABSENT = 4


def negatives(pair: Pair) -> list[str]:
    """One false caption for each of `world.SLOTS`."""
    return [negative.text() for negative in pair.negatives]


def positives(pair: Pair) -> list[str]:
    """Every other sentence that says the same, also with the objects exchanged and the inverse relation."""
    true = pair.true
    (inverse,) = (relation for relation in world.RELATIONS if relation != true.relation)
    turned = replace(true, first=true.second, second=true.first, relation=inverse)
    sentences = product((true, turned), world.TRAIN_FRAMES, range(2))
    same = [replace(said, frame=frame, wording=wording) for said, frame, wording in sentences]
    return [sentence.text() for sentence in same if sentence != true]


def absences(pair: Pair) -> list[str]:
    """The caption and, truly, that something is not there."""
    absent = [noun for noun in NOUNS if noun not in _nouns(pair.scene)]
    drawn = _draw("absence", pair).sample(absent, ABSENT)
    return [f"{pair.true.text()}, no {' '.join(noun)}" for noun in drawn]


def phrases(pair: Pair) -> list[str]:
    """The two objects that the caption names."""
    return [world.noun_phrase(noun) for noun in (pair.true.first, pair.true.second)]


def foils(pair: Pair) -> list[str]:
    """For each of `phrases`, one with another colour or another shape that is not there."""
    rng, there = _draw("foil", pair), _nouns(pair.scene)

    def foil(noun: Noun) -> Noun:
        near = [n for n in NOUNS if (n[0] == noun[0]) != (n[1] == noun[1]) and n not in there]
        return rng.choice(near)

    return [world.noun_phrase(foil(noun)) for noun in (pair.true.first, pair.true.second)]


def masked(pair: Pair) -> list[str]:
    """The caption with a colour or the relation masked, for each of these words."""
    words = pair.true.text().split()
    places = [place for place, word in enumerate(words) if word in MASKED]
    return [" ".join([*words[:place], MASK, *words[place + 1 :]]) for place in places]


def negative_scenes(pair: Pair) -> list[Scene | None]:
    """For each of `negatives` the scene that it describes; None if that shows a held-out pair."""
    scenes = [described(negative, pair.scene) for negative in pair.negatives]
    return [None if world.held_out(*_nouns(scene)) else scene for scene in scenes]


def near(pair: Pair) -> Pair:
    """A picture with another colour or shape in one place, with a caption and negatives of its own.

    In a batch, all captions and negatives of both pictures are contrasted with both. So the negatives of
    neither are true of the other.
    """
    rng = _draw("near", pair)
    while True:
        kind = rng.choice(("replace_obj", "replace_att"))
        scene = described(world.edit(kind, pair.true, pair.scene, rng), pair.scene)
        found = world.captioned(scene, rng)
        crossed = ((pair.negatives, scene), (found.negatives, pair.scene))
        untrue = not any(world.holds(said, other) for false, other in crossed for said in false)
        if untrue and not world.held_out(*_nouns(scene)):
            return found


def described(said: Statement, scene: Scene) -> Scene:
    """The scene, changed as little as makes the statement true.

    Where the larger object is and everything beside the two objects stay.
    """
    larger, smaller = (said.first, said.second)[:: 1 if said.relation == "larger" else -1]
    nouns = dict(zip(world.SIZES, (smaller, larger), strict=True))
    changed = [replace(t, colour=nouns[t.size][0], shape=nouns[t.size][1]) for t in scene.things]
    return replace(scene, things=tuple(changed))


def _nouns(scene: Scene) -> list[Noun]:
    return [(thing.colour, thing.shape) for thing in scene.things]


def _draw(what: str, pair: Pair) -> random.Random:
    return random.Random(f"{what} {pair}")


NEGATIVES = "neg"
TEXTS: Mapping[str, Callable[[Pair], list[str]]] = {
    NEGATIVES: negatives,
    "pos": positives,
    "absence": absences,
    "phrase": phrases,
    "foil": foils,
    "masked": masked,
    "hard": lambda pair: [near(pair).true.text()],
    "hard_neg": lambda pair: negatives(near(pair)),
}
# Named as their fields in shards, by place; None is a picture that is missing.
IMAGES: Mapping[str, Callable[[Pair], list[Scene | None]]] = {
    "neg_image": negative_scenes,
    "hard_image": lambda pair: [near(pair).scene],
}
