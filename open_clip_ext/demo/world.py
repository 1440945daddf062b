"""A small drawn world: scenes, pictures, captions, false captions, evaluation items.

Choices that matter, most of them found by experiment:

* One object per cell of a 2x2 grid that coincides with the patches of the image tower, and a black outline
  around each object. Otherwise a tiny tower does not learn shapes.
* The objects of a pair differ in shape and colour. Otherwise exchanging two words could give the same
  caption.
* Relations are about size. "Left of" stayed at chance in a base of this size and after every fine-tuning: its
  image tower learns what a patch contains, but not where it is. "Larger than" is visible in the patches.
* A fixed fifth of all pairs of objects is never drawn for training. Composition is measured on those.
* Every false caption is false. `holds` decides that for any statement and scene, and the tests use it.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

COLOURS = {
    "red": (215, 30, 30), "green": (30, 150, 50), "blue": (35, 70, 215), "yellow": (245, 220, 30),
    "pink": (250, 130, 190), "teal": (40, 200, 215),
}  # fmt: skip
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
BACKGROUNDS = {
    "snow": (246, 246, 250), "sand": (226, 208, 160), "sky": (178, 208, 240),
    "grass": (168, 205, 142), "stone": (150, 150, 155), "night": (52, 50, 78),
}  # fmt: skip
TEXTURES = ("solid", "striped", "dotted", "checked")
STYLES = ("clean", "grainy", "faded", "dark")
SIZES = ("small", "large")
NUMBERS = ("one", "two", "three", "four")
RELATIONS = {
    "larger": ("larger than", "bigger than"),
    "smaller": ("smaller than", "tinier than"),
}

GRID, CELL = 2, 16
PIXELS = GRID * CELL

# Fine-tuning and evaluation use different sentences for a relation; pretraining uses all of them.
TRAIN_FRAMES = ("{a} {r} {b}", "{a} is {r} {b}", "there is {a} {r} {b}")
TEST_FRAMES = ("a picture of {a} {r} {b}", "here {a} is {r} {b}")

# The kinds of false captions that the evaluation counts, in the manner of SugarCrepe. `swap_order` exchanges
# the two noun phrases around the relation, the others exchange one word of each.
KINDS = (
    "replace_obj", "replace_att", "replace_rel", "swap_obj", "swap_att", "swap_order", "add_obj", "add_att",
)  # fmt: skip
# The false captions of fine-tuning, one per slot; the last slot has one of its two kinds at random. Replaced
# relations and added words are never trained on: they show what generalises.
SLOTS = (("swap_order",), ("swap_obj",), ("swap_att",), ("replace_obj", "replace_att"))


@dataclass(frozen=True)
class Thing:
    """An object of a scene, with the row and column of its cell."""

    colour: str
    shape: str
    size: str
    row: int
    column: int


@dataclass(frozen=True)
class Scene:
    """Everything that is drawn. `texture` applies to every object, `style` to the whole picture."""

    things: tuple[Thing, ...]
    background: str
    texture: str
    style: str
    seed: int = 0  # of the grain


@dataclass(frozen=True)
class Statement:
    """A caption about a pair, in parts, so that its truth can be checked and edits are simple."""

    first: tuple[str, str]  # colour, shape
    relation: str
    second: tuple[str, str]
    frame: str
    wording: int = 0  # index into the phrases of the relation
    added_thing: tuple[str, str] | None = None
    added_texture: str | None = None

    def text(self) -> str:
        """The caption."""
        first = noun_phrase(self.first, self.added_texture)
        second = noun_phrase(self.second)
        text = self.frame.format(a=first, r=RELATIONS[self.relation][self.wording], b=second)
        return text if self.added_thing is None else f"{text} and {noun_phrase(self.added_thing)}"


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _plural(noun: str) -> str:
    return noun + ("es" if noun.endswith("s") else "s")


def noun_phrase(noun: tuple[str, str], texture: str | None = None) -> str:
    """A colour and a shape with their article, such as "a red circle"."""
    words = ([texture] if texture else []) + list(noun)
    return f"{_article(words[0])} {' '.join(words)}"


def relation_of(first: Thing, second: Thing) -> str:
    """The relation of two objects, one of them small and the other large."""
    return "larger" if SIZES.index(first.size) > SIZES.index(second.size) else "smaller"


def holds(statement: Statement, scene: Scene) -> bool:
    """Whether the statement is true of the scene."""
    there = {(thing.colour, thing.shape): thing for thing in scene.things}
    if statement.first not in there or statement.second not in there:
        return False
    if statement.added_thing is not None and statement.added_thing not in there:
        return False
    if statement.added_texture not in (None, scene.texture):
        return False
    return relation_of(there[statement.first], there[statement.second]) == statement.relation


# --- drawing ----------------------------------------------------------------------------------------------


def _outline(shape: str) -> list[tuple[float, float]]:
    """A polygon in the unit square around the origin; x to the right, y down."""
    turn = 2 * np.pi
    if shape == "square":
        return [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)]
    if shape == "triangle":
        return [(0, -1), (1, 0.85), (-1, 0.85)]
    if shape == "cross":
        arm = 0.36
        return [
            (-arm, -1), (arm, -1), (arm, -arm), (1, -arm), (1, arm), (arm, arm),
            (arm, 1), (-arm, 1), (-arm, arm), (-1, arm), (-1, -arm), (-arm, -arm),
        ]  # fmt: skip
    if shape == "star":
        return [
            (radius * np.sin(turn * k / 10), -radius * np.cos(turn * k / 10))
            for k, radius in enumerate([1.0, 0.42] * 5)
        ]
    return [(np.sin(turn * k / 40), -np.cos(turn * k / 40)) for k in range(40)]  # circle, ring


@cache
def _sprite(colour: str, shape: str, texture: str, size: str) -> Image.Image:
    """One object in RGBA, drawn eight times as large and reduced, so that its edges are smooth."""
    zoom = 8
    side = CELL * zoom
    radius = (0.34 if size == "small" else 0.47) * side
    points = [(side / 2 + radius * x, side / 2 + radius * y) for x, y in _outline(shape)]
    inside = Image.new("L", (side, side), 0)
    ImageDraw.Draw(inside).polygon(points, fill=255)
    fill = np.empty((side, side, 3), np.uint8)
    fill[:] = COLOURS[colour]
    y, x = np.mgrid[0:side, 0:side] // zoom
    light = {
        "solid": np.zeros_like(x, bool),
        "striped": y % 4 < 2,
        "dotted": (x % 4 < 2) & (y % 4 < 2),
        "checked": (x // 3 + y // 3) % 2 == 0,
    }[texture]
    fill[light] = (255, 255, 255) if texture != "checked" else (20, 20, 20)
    sprite = Image.fromarray(fill).convert("RGBA")
    pen = ImageDraw.Draw(sprite)
    pen.line([*points, points[0], points[1]], fill=(0, 0, 0, 255), width=zoom + 4, joint="curve")
    edge = Image.new("L", (side, side), 0)
    ImageDraw.Draw(edge).line([*points, points[0], points[1]], fill=255, width=zoom + 4)
    mask = np.maximum(np.asarray(inside), np.asarray(edge))
    if shape == "ring":
        hole = Image.new("L", (side, side), 0)
        box = [side / 2 - 0.45 * radius, side / 2 + 0.45 * radius]
        ImageDraw.Draw(hole).ellipse([box[0], box[0], box[1], box[1]], fill=255)
        pen.ellipse([box[0], box[0], box[1], box[1]], outline=(0, 0, 0, 255), width=zoom)
        mask = np.where(np.asarray(hole) > 0, 0, mask).astype(np.uint8)
    sprite.putalpha(Image.fromarray(mask))
    return sprite.resize((CELL, CELL), Image.Resampling.BOX)


def draw(scene: Scene) -> Image.Image:
    """The picture of a scene; deterministic."""
    picture = Image.new("RGB", (PIXELS, PIXELS), BACKGROUNDS[scene.background])
    for thing in scene.things:
        sprite = _sprite(thing.colour, thing.shape, scene.texture, thing.size)
        picture.paste(sprite, (thing.column * CELL, thing.row * CELL), sprite)
    if scene.style == "clean":
        return picture
    pixels = np.asarray(picture).astype(np.float32)
    if scene.style == "grainy":
        grain = np.random.default_rng(scene.seed).normal(0, 28, (PIXELS, PIXELS, 1))
        pixels = pixels + grain.astype(np.float32)
    elif scene.style == "faded":
        pixels = 0.5 * pixels + 0.5 * 200
    else:
        pixels = 0.5 * pixels
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


# --- scenes -----------------------------------------------------------------------------------------------


def held_out(first: tuple[str, str], second: tuple[str, str]) -> bool:
    """Whether this pair of objects, in either order, is in the fixed fifth reserved for evaluation."""
    key = "|".join(sorted([" ".join(first), " ".join(second)]))
    return hashlib.sha256(key.encode()).digest()[0] % 5 == 0


def _scene(things: Sequence[Thing], rng: random.Random) -> Scene:
    return Scene(
        things=tuple(things),
        background=rng.choice(tuple(BACKGROUNDS)),
        texture=rng.choice(TEXTURES),
        style=rng.choice(STYLES),
        seed=rng.randrange(2**31),
    )


def _cells(rng: random.Random, number: int) -> list[tuple[int, int]]:
    return rng.sample([(row, column) for row in range(GRID) for column in range(GRID)], number)


def pair_scene(rng: random.Random, test: bool) -> Scene:
    """A small and a large object, different in colour and shape."""
    while True:
        colours, shapes = rng.sample(tuple(COLOURS), 2), rng.sample(SHAPES, 2)
        if held_out((colours[0], shapes[0]), (colours[1], shapes[1])) == test:
            break
    parts = zip(colours, shapes, SIZES, _cells(rng, 2), strict=True)
    return _scene([Thing(colour, shape, size, *cell) for colour, shape, size, cell in parts], rng)


def count_scene(rng: random.Random, number: int) -> Scene:
    """A scene with one to four equal objects."""
    colour, shape, size = rng.choice(tuple(COLOURS)), rng.choice(SHAPES), rng.choice(SIZES)
    return _scene([Thing(colour, shape, size, *cell) for cell in _cells(rng, number)], rng)


# --- captions ---------------------------------------------------------------------------------------------


def statement(scene: Scene, rng: random.Random, frames: Sequence[str]) -> Statement:
    """A full, true caption of a pair. It never mentions background, texture, style, size or number."""
    first, second = rng.sample(scene.things, 2)
    return Statement(
        first=(first.colour, first.shape),
        relation=relation_of(first, second),
        second=(second.colour, second.shape),
        frame=rng.choice(frames),
        wording=rng.randrange(2),
    )


def web_caption(scene: Scene, rng: random.Random, whole: bool = False) -> str:
    """A web-like caption: words are missing, it is often a list of tags, and it seldom has a relation.

    Args:
        scene: the scene that it describes.
        rng: draws the wording.
        whole: mention every object of a pair, and no relation.
    """

    def maybe(word: str, share: float) -> list[str]:
        return [word] if rng.random() < share else []

    # If colour and shape already distinguish the captions of a batch, nothing else is learned. So they are
    # often missing, most of all if there are several equal objects. A shape is learned more slowly than a
    # colour, so it is missing less often.
    pair = len({thing.shape for thing in scene.things}) > 1
    coloured, shaped = (0.75, 0.85) if pair else (0.65, 0.75) if len(scene.things) == 1 else (0.45, 0.5)

    def described(thing: Thing, plural: bool = False) -> list[str]:
        words = maybe(thing.size, 0.35) + maybe(scene.texture, 0.45) + maybe(thing.colour, coloured)
        noun = thing.shape if rng.random() < shaped else "shape"
        return [*words, _plural(noun) if plural else noun]

    first = scene.things[0]
    style, where = maybe(scene.style, 0.5), maybe(f"on {scene.background}", 0.5)
    lead = f"a {' '.join([*style, 'picture'])} of " if style or rng.random() < 0.2 else ""

    if pair:
        lot = rng.random()
        if not whole and lot < 0.15:
            body = statement(scene, rng, TRAIN_FRAMES + TEST_FRAMES).text()
            return " ".join([body, *where])
        things = rng.sample(scene.things, 2)
        if lot < 0.6:
            tags = [word for thing in things for word in described(thing)]
            tags += style + maybe(scene.background, 0.4)
            rng.shuffle(tags)
            return " ".join(tags)
        phrases = [described(thing) for thing in things]
        body = " and ".join(f"{_article(words[0])} {' '.join(words)}" for words in phrases)
    elif len(scene.things) > 1:
        body = " ".join([*maybe(NUMBERS[len(scene.things) - 1], 0.5), *described(first, plural=True)])
    elif rng.random() < 0.2:
        body = " ".join([NUMBERS[0], *described(first)])
    else:
        words = described(first)
        body = f"{_article(words[0])} {' '.join(words)}"
    return " ".join([lead + body, *where])


def _renamed(true: Statement, which: str, noun: tuple[str, str]) -> Statement:
    return replace(true, first=noun) if which == "first" else replace(true, second=noun)


def edit(kind: str, true: Statement, scene: Scene, rng: random.Random) -> Statement:
    """The statement with one edit of this kind that makes it false."""
    colours = {thing.colour for thing in scene.things}
    shapes = {thing.shape for thing in scene.things}
    (colour_1, shape_1), (colour_2, shape_2) = true.first, true.second
    if kind == "swap_order":
        return replace(true, first=true.second, second=true.first)
    if kind == "swap_obj":
        return replace(true, first=(colour_1, shape_2), second=(colour_2, shape_1))
    if kind == "swap_att":
        return replace(true, first=(colour_2, shape_1), second=(colour_1, shape_2))
    if kind == "replace_rel":
        return replace(true, relation=rng.choice([r for r in RELATIONS if r != true.relation]))
    if kind == "add_att":
        return replace(true, added_texture=rng.choice([t for t in TEXTURES if t != scene.texture]))
    colour = rng.choice([c for c in COLOURS if c not in colours])
    shape = rng.choice([s for s in SHAPES if s not in shapes])
    if kind == "add_obj":
        return replace(true, added_thing=(colour, shape))
    which = rng.choice(("first", "second"))
    old_colour, old_shape = getattr(true, which)
    if kind == "replace_obj":
        return _renamed(true, which, (old_colour, shape))
    if kind == "replace_att":
        return _renamed(true, which, (colour, old_shape))
    raise ValueError(kind)


def words() -> list[str]:
    """Every word that can occur in a caption or a prompt."""
    phrases = (
        *RELATIONS["larger"],
        *RELATIONS["smaller"],
        *TRAIN_FRAMES,
        *TEST_FRAMES,
        "picture of and on shape",
    )
    shapes = [noun for shape in (*SHAPES, "shape") for noun in (shape, _plural(shape))]
    named = (*COLOURS, *BACKGROUNDS, *TEXTURES, *STYLES, *SIZES, *NUMBERS)
    found = {*named, *shapes, "a", "an", *re.findall("[a-z]{2,}", " ".join(phrases))}
    return sorted(found)


# --- training data ----------------------------------------------------------------------------------------


class Pair(NamedTuple):
    """A picture of two objects for fine-tuning, with its caption and one false caption per slot."""

    scene: Scene
    true: Statement
    negatives: list[Statement]


def captioned(scene: Scene, rng: random.Random) -> Pair:
    """A pair with a full caption and false captions."""
    true = statement(scene, rng, TRAIN_FRAMES)
    return Pair(scene, true, [edit(rng.choice(slot), true, scene, rng) for slot in SLOTS])


def fine_tuning_sample(rng: random.Random) -> Pair:
    """A pair that is not held out."""
    return captioned(pair_scene(rng, test=False), rng)


def pretraining_sample(rng: random.Random) -> tuple[Scene, str]:
    """A scene of any type with a web-like caption."""
    lot = rng.random()
    if lot < 0.25:
        scene = count_scene(rng, 1)
    elif lot < 0.5:
        scene = count_scene(rng, rng.randrange(2, 5))
    else:
        scene = pair_scene(rng, test=False)
    return scene, web_caption(scene, rng)


# --- evaluation data --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Labelled:
    """A zero-shot set: scenes, their labels, and the prompts of each class."""

    scenes: list[Scene]
    labels: list[int]
    prompts: list[list[str]]  # [class][template]


@dataclass(frozen=True)
class Evaluation:
    """Everything that one evaluation seed measures.

    Attributes:
        pairs: scenes with held-out pairs of objects.
        captions: their full captions, all different, in sentences that fine-tuning does not use.
        false: for each kind of edit one false caption per pair.
        web: a web-like caption for each.
        zero_shot: sets by name.
    """

    pairs: list[Scene]
    captions: list[str]
    false: dict[str, list[str]]
    web: list[str]
    zero_shot: dict[str, Labelled]


# The classes of the zero-shot sets. There are none for colour and size: every base is at its ceiling there.
CLASSES: dict[str, tuple[str, ...]] = {
    "background": tuple(BACKGROUNDS), "texture": TEXTURES, "style": STYLES, "count": NUMBERS,
    "shape": SHAPES,
}  # fmt: skip
# The prompts of each set.
TEMPLATES: dict[str, tuple[str, ...]] = {
    "background": ("a picture of a shape on {}", "shapes on {}"),
    "texture": ("a {} shape", "{} shapes"),
    "style": ("a {} picture of a shape", "a {} picture of shapes"),
    "count": ("{} shapes", "a picture of {} shapes"),
    "shape": ("a {}", "a picture of a {}"),
}
# The sets that fine-tuning captions never mention.
UNMENTIONED = ("background", "texture", "style", "count")


def evaluation(seed: int, size: int) -> Evaluation:
    """`size` pairs with their false captions, and `size` scenes in each zero-shot set."""
    rng = random.Random(f"evaluation {seed}")
    pairs: dict[str, tuple[Scene, Statement]] = {}
    while len(pairs) < size:
        scene = pair_scene(rng, test=True)
        true = statement(scene, rng, TEST_FRAMES)
        pairs.setdefault(true.text(), (scene, true))
    false = {k: [edit(k, t, s, rng).text() for s, t in pairs.values()] for k in KINDS}
    scenes = [scene for scene, _ in pairs.values()]
    singles = [count_scene(rng, 1) for _ in range(size)]
    counted = [count_scene(rng, index % 4 + 1) for index in range(size)]
    mixed = (singles + scenes)[:: 2 if size > 1 else 1]

    def labelled(name: str, among: list[Scene], label: Callable[[Scene], str]) -> Labelled:
        classes = CLASSES[name]
        prompts = [[template.format(word) for template in TEMPLATES[name]] for word in classes]
        return Labelled(among, [classes.index(label(scene)) for scene in among], prompts)

    sets = {
        "shape": labelled("shape", singles, lambda s: s.things[0].shape),
        "background": labelled("background", mixed, lambda s: s.background),
        "texture": labelled("texture", mixed, lambda s: s.texture),
        "style": labelled("style", mixed, lambda s: s.style),
        "count": labelled("count", counted, lambda s: NUMBERS[len(s.things) - 1]),
    }
    return Evaluation(
        pairs=scenes,
        captions=list(pairs),
        false=false,
        web=[web_caption(scene, rng, whole=True) for scene in scenes],
        zero_shot=sets,
    )
