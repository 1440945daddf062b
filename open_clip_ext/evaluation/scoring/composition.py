"""Score items by the similarities of their pictures and captions.

A score is strict: the true one must be greater and a tie is wrong, so that a model that sees no difference
scores 0. The additional value `half` is the expected score if ties were broken at random, which is chance
level for such a model.

Shapes: N items of one kind and size, P pictures, C captions, s `[N, P, C]` their similarities.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from open_clip_ext.errors import InputError
from open_clip_ext.evaluation.items import Encoder, Item, Row
from open_clip_ext.evaluation.scorer import COSINE, Chosen, Pair

Array = NDArray[Any]
Ties = Literal["strict", "argmax"]


class Outcome(NamedTuple):
    """Per item `[N]`: strictly right or not, expected value under random tie-breaking, margin."""

    correct: Array
    half: Array
    margin: Array


def choice(s: Array, truth: Array, ties: Ties = "strict") -> Outcome:
    """Each of the rows of `s [N, P, C]` has to find its column `truth [N, P]`.

    If m others are as high as the true one, the expected value is 1 / (1 + m).
    With `ties="argmax"` a row finds the first of the highest, as in many authors' code.
    """
    true = np.take_along_axis(s, truth[..., None], -1)
    rest = s.copy()
    np.put_along_axis(rest, truth[..., None], -np.inf, -1)
    margin = true[..., 0] - rest.max(-1)
    expected = np.where(margin < 0, 0.0, 1 / (1 + (rest == true).sum(-1)))
    found = margin > 0 if ties == "strict" else s.argmax(-1) == truth
    return Outcome(found.all(-1), expected.prod(-1), margin.min(-1))


def ranking(s: Array, truth: Array) -> dict[str, Outcome]:
    """The columns `truth [N, A]` of `s [N, C]` have to be above all others.

    `accuracy`: every true one is above every false one; `original`: the first true one is;
    `brittleness` (lower is better): some true one is, but not all (Kamath et al., "The Hard Positive
    Truth about Vision-Language Compositionality", ECCV 2024); here a tie makes an item brittle.
    If a true and b false ones share the highest false value, random order puts these a before
    the b with probability a! b! / (a + b)!, and one of the b first with b / (a + b).
    """
    true = np.take_along_axis(s, truth, -1)
    rest = s.copy()
    np.put_along_axis(rest, truth, -np.inf, -1)
    false = rest.max(-1)
    low, high = true.min(-1), true.max(-1)
    a, b = ((part == false[:, None]).sum(-1) for part in (true, rest))
    before = np.asarray([1 / math.comb(n + k, k) for n, k in zip(a.tolist(), b.tolist(), strict=True)])
    every = np.where(low == false, before, low > false)
    none = np.where(high == false, b / (a + b), high < false)
    first = np.concatenate([true[:, :1], rest], -1)
    return {
        "accuracy": Outcome(low > false, every, low - false),
        "original": choice(first[:, None], np.zeros((len(s), 1), int)),
        "brittleness": Outcome((low <= false) & (high >= false), 1 - every - none, low - false),
    }


def _i2t(s: Array, truth: Array, ties: Ties) -> dict[str, Outcome]:
    return {"accuracy": choice(s, truth, ties)}


def _t2i(s: Array, truth: Array, ties: Ties) -> dict[str, Outcome]:
    return {"accuracy": choice(s.transpose(0, 2, 1), truth, ties)}


def _2x2(s: Array, truth: Array, ties: Ties) -> dict[str, Outcome]:
    """Text, image and group score (Thrush et al., "Winoground", CVPR 2022, equations 1 to 3)."""
    own = np.broadcast_to(np.arange(2), (len(s), 2))
    group = ranking(s.reshape(len(s), 4), np.broadcast_to(np.array([0, 3]), (len(s), 2)))["accuracy"]
    return {
        "group": group,
        "text": choice(s, own, ties),
        "image": choice(s.transpose(0, 2, 1), own, ties),
    }


def _multi_pos(s: Array, truth: Array, ties: Ties) -> dict[str, Outcome]:
    return ranking(s[:, 0], truth)


def _text(s: Array, truth: Array, ties: Ties) -> dict[str, Outcome]:
    """Text-only score (Dumpala et al., "SugarCrepe++", NeurIPS 2024); `s [N, C, C]` between captions."""
    pairs = np.stack([s[:, 0, 1], s[:, 0, 2], s[:, 1, 2]], -1)
    return {"text-only": choice(pairs[:, None], np.zeros((len(s), 1), int), ties)}


# The metrics of each kind. `margin` and `tied` in a row refer to the first one.
KINDS: dict[str, Callable[[Array, Array, Ties], dict[str, Outcome]]] = {
    "i2t": _i2t,
    "t2i": _t2i,
    "2x2": _2x2,
    "multi-pos": _multi_pos,
    "text": _text,
}


def rows(
    encoder: Encoder, items: Sequence[Item], ties: Ties = "strict", scorer: Chosen = COSINE
) -> list[Row]:
    """A row per item, in order; see docs/evaluation.md for its fields.

    Each pair of a picture and a caption is scored once. Raises InputError if an item has nothing to score, or
    a similarity is not finite.
    """
    pairs: dict[Pair, int] = {}
    asked: list[list[int]] = []  # of each item the places of its pairs, the captions of a picture together
    texts: dict[str, int] = {}  # of the items that have no picture
    shapes: dict[tuple[str, int, int, int], list[int]] = {}
    for place, item in enumerate(items):
        _require_a_question(item)
        its = product(item.pictures, item.captions)
        asked.append([pairs.setdefault(pair, len(pairs)) for pair in its])
        for caption in item.captions if item.kind == "text" else ():
            texts.setdefault(caption, len(texts))
        key = (item.kind, len(item.pictures), len(item.captions), len(item.truth))
        shapes.setdefault(key, []).append(place)
    near = scorer.similarities(encoder, list(pairs)) if pairs else np.zeros(0)
    read = encoder.texts(list(texts)).numpy() if texts else np.zeros((0, 1))
    made: list[Row] = [{} for _ in items]
    for (kind, count, captions, _), places in shapes.items():
        for start in range(0, len(places), CHUNK):
            part = places[start : start + CHUNK]
            if kind == "text":
                words = read[[[texts[caption] for caption in items[i].captions] for i in part]]
                s = similarities(words, words)
            else:
                s = near[[asked[i] for i in part]].reshape(len(part), count, captions)
            if not np.isfinite(s).all():
                raise InputError(
                    f"item {items[part[0]].id}: similarities are not finite, so there is nothing to score"
                )
            outcomes = KINDS[kind](s, np.asarray([items[i].truth for i in part], int), ties)
            for n, i in enumerate(part):
                made[i] = _row(items[i], {name: (o.correct[n], o.half[n]) for name, o in outcomes.items()},
                               next(iter(outcomes.values())).margin[n])  # fmt: skip
    return made


def _require_a_question(item: Item) -> None:
    """Refuse an item without a choice, or with a truth that does not fit."""
    pictures, captions, truth = len(item.pictures), len(item.captions), item.truth
    right = {
        "i2t": captions > 1 and len(truth) == pictures > 0,
        "t2i": pictures > 1 and len(truth) == captions > 0,
        "2x2": pictures == captions == 2,
        "multi-pos": pictures == 1 and 0 < len(set(truth)) == len(truth) < captions,
        "text": captions == 3,
    }
    places = pictures if item.kind == "t2i" else captions
    if not right.get(item.kind) or not all(0 <= place < places for place in truth):
        raise InputError(
            f"item {item.id}: nothing to score for kind {item.kind} with {pictures} pictures, {captions} "
            f"captions and truth {list(truth)}"
        )


# Number of items whose features are gathered at once: 2 kB per picture and caption.
CHUNK = 8192


def similarities(left: Array, right: Array) -> Array:
    """Dot products `[N, P, C]` of unit features `[N, P, D]` and `[N, C, D]`.

    Computed in fp64 and separately for each pair, so that equal features give exactly equal products and ties
    are recognised.
    """
    products = np.empty((*left.shape[:2], right.shape[1]))
    for p in range(left.shape[1]):
        for c in range(right.shape[1]):
            products[:, p, c] = np.einsum("nd,nd->n", left[:, p], right[:, c], dtype=np.float64)
    return products


def _row(item: Item, metrics: dict[str, tuple[Any, Any]], margin: Any) -> Row:
    first, half = next(iter(metrics.values()))
    return {
        "id": item.id,
        "group": item.group,
        "pictures": [picture.path for picture in item.pictures],
        "captions": list(item.captions),
        "truth": list(item.truth),
        "correct": {name: int(value) for name, (value, _) in metrics.items()},
        "half": {name: float(value) for name, (_, value) in metrics.items()},
        "margin": float(margin),
        "tied": bool(first != half),
    }
