"""The scoring core against its definition, spelt out item by item; models that see nothing do not score."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from fakes import ConstantEncoder, FakeEncoder, NaNEncoder, pair

from open_clip_ext.errors import InputError
from open_clip_ext.evaluation.items import Item, Picture
from open_clip_ext.evaluation.scoring import aggregate, composition


def above(s, truth):
    """Every row of `s [P, C]` has its highest value in its column `truth [P]`, and only there."""
    return all(s[p][t] > max(v for c, v in enumerate(s[p]) if c != t) for p, t in enumerate(truth))


def turned(s):
    return [list(column) for column in zip(*s, strict=True)]


def beats(s, true, all_of=True):
    false = max(v for c, v in enumerate(s[0]) if c not in true)
    return (min if all_of else max)(s[0][c] for c in true) > false


# What each metric says of one item's similarities `[P][C]`, as the papers define it.
DEFINITIONS = {
    ("i2t", "accuracy"): above,
    ("t2i", "accuracy"): lambda s, truth: above(turned(s), truth),
    ("2x2", "text"): lambda s, truth: s[0][0] > s[0][1] and s[1][1] > s[1][0],
    ("2x2", "image"): lambda s, truth: s[0][0] > s[1][0] and s[1][1] > s[0][1],
    ("2x2", "group"): lambda s, truth: min(s[0][0], s[1][1]) > max(s[0][1], s[1][0]),
    ("multi-pos", "accuracy"): lambda s, truth: beats(s, truth),
    ("multi-pos", "original"): lambda s, truth: (
        s[0][truth[0]] > max(v for c, v in enumerate(s[0]) if c not in truth)
    ),
    ("multi-pos", "brittleness"): lambda s, truth: beats(s, truth, False) and not beats(s, truth),
}
# Kind, pictures, captions, truth.
CASES = [
    ("i2t", 1, 2, (1,)),
    ("i2t", 1, 4, (0,)),
    ("i2t", 2, 3, (2, 0)),
    ("t2i", 3, 1, (1,)),
    ("t2i", 2, 2, (0, 1)),
    ("2x2", 2, 2, ()),
    ("multi-pos", 1, 3, (0, 1)),
    ("multi-pos", 1, 4, (0, 2)),
    ("multi-pos", 1, 5, (1, 2)),
]


def by_lot(definition, s, truth):
    """The share of all orders of the cells in which the item is won when lots decide ties."""
    cells = [(p, c) for p in range(len(s)) for c in range(len(s[0]))]
    won = []
    for order in permutations(range(len(cells))):
        broken = [row[:] for row in s]
        for lot, (p, c) in zip(order, cells, strict=True):
            broken[p][c] += lot * 1e-6
        won.append(definition(broken, truth))
    return sum(won) / len(won)


@pytest.mark.parametrize(("kind", "pictures", "captions", "truth"), CASES)
def test_strict_and_half_credit_are_the_definition_with_ties_and_with_lots(kind, pictures, captions, truth):
    rng = np.random.default_rng(0)
    for _ in range(12):
        s = rng.integers(0, 3, (pictures, captions)) / 2  # few values, many ties
        outcomes = composition.KINDS[kind](s[None], np.array([truth], int), "strict")
        for metric, outcome in outcomes.items():
            definition = DEFINITIONS[kind, metric]
            assert float(outcome.half[0]) == pytest.approx(by_lot(definition, s.tolist(), truth))
            if metric != "brittleness":
                assert bool(outcome.correct[0]) == definition(s.tolist(), truth)


def test_an_item_is_brittle_unless_its_true_captions_are_all_above_or_all_below():
    for first in (0, 1, 2):
        for second in (0, 1, 2):
            s = np.array([[[first, second, 1]]], float)
            outcome = composition.KINDS["multi-pos"](s, np.array([[0, 1]]), "strict")["brittleness"]
            assert outcome.correct[0] == (not (first > 1 < second or first < 1 > second))


def test_text_only_items_compare_the_two_captions_with_both_pairs_of_the_third():
    captions = ("a", "b", "c")
    features = {"a": [1.0, 0, 0], "b": [0.8, 0.6, 0], "c": [0, 0.8, 0.6]}

    class Encoder(FakeEncoder):
        def texts(self, texts, unit=True):
            return torch.tensor([features[text] for text in texts])

    (won,) = composition.rows(Encoder(), [Item("1", (), captions, "text")])
    assert won["correct"] == {"text-only": 1}
    assert won["margin"] == pytest.approx(0.8 - 0.48)  # a.b against b.c
    (lost,) = composition.rows(Encoder(), [Item("1", (), ("b", "c", "a"), "text")])
    assert lost["correct"] == {"text-only": 0}


EVERY_KIND = [
    (pair("1"), {"accuracy": 1 / 2}),
    (Item("2", (Picture("a"),), ("x", "y", "z", "u", "v"), "i2t", (0,)), {"accuracy": 1 / 5}),
    (Item("3", (Picture("a"), Picture("b")), ("x",), "t2i", (0,)), {"accuracy": 1 / 2}),
    (
        Item("4", (Picture("a"), Picture("b")), ("x", "y"), "2x2"),
        {"text": 1 / 4, "image": 1 / 4, "group": 1 / 6},
    ),
    (
        Item("5", (Picture("a"),), ("x", "y", "z"), "multi-pos", (0, 1)),
        {"accuracy": 1 / 3, "original": 1 / 2},
    ),
    (Item("6", (), ("x", "y", "z"), "text"), {"text-only": 1 / 3}),
    (
        Item("7", tuple(Picture(p) for p in "abcd"), tuple("wxyz"), "i2t", (0, 1, 2, 3)),
        {"accuracy": 1 / 4**4},
    ),
]


@pytest.mark.parametrize(("item", "chance"), EVERY_KIND, ids=lambda x: getattr(x, "id", ""))
def test_a_constant_model_scores_nothing_and_lots_give_it_exactly_chance(item, chance):
    (row,) = composition.rows(ConstantEncoder(), [item])
    assert {name: row["correct"][name] for name in chance} == dict.fromkeys(chance, 0)
    assert {name: row["half"][name] for name in chance} == pytest.approx(chance)
    assert row["tied"]
    assert row["margin"] == 0
    assert row["correct"].get("brittleness", 1) == 1  # lower is better


@pytest.mark.parametrize("item", [item for item, _ in EVERY_KIND], ids=lambda item: item.id)
def test_a_nan_model_raises(item):
    with pytest.raises(InputError, match="similarities are not finite"):
        composition.rows(NaNEncoder(), [item])


def test_a_model_that_draws_lots_scores_chance():
    items = [
        Item(str(n), (Picture(f"{n}a"), Picture(f"{n}b")), (f"{n}x", f"{n}y"), "2x2") for n in range(3000)
    ]
    made = composition.rows(FakeEncoder(), items)
    for metric, chance in {"group": 1 / 6, "text": 1 / 4, "image": 1 / 4}.items():
        score = aggregate.score(f"{metric} micro", made)
        assert score["value"] == score["half"]
        assert abs(score["value"] - chance) < 4 * math.sqrt(chance * (1 - chance) / len(items))


def test_equal_captions_tie_wherever_they_stand():
    same = pair("1", captions=("a dog", "a dog"))
    (row,) = composition.rows(FakeEncoder(), [same])
    assert (row["correct"], row["half"], row["tied"]) == ({"accuracy": 0}, {"accuracy": 0.5}, True)


@pytest.mark.parametrize(
    ("kind", "pictures", "captions", "truth"),
    [
        ("i2t", "a", "x", (0,)),  # nothing to be mistaken for
        ("i2t", "a", "xy", (2,)),
        ("i2t", "a", "xy", (-1,)),
        ("i2t", "ab", "xy", (0,)),
        ("i2t", "", "xy", ()),
        ("t2i", "a", "x", (0,)),
        ("t2i", "ab", "x", (2,)),
        ("2x2", "ab", "x", ()),
        ("multi-pos", "a", "xy", (0, 1)),
        ("multi-pos", "a", "xyz", (0, 0)),
        ("multi-pos", "a", "xyz", ()),
        ("text", "", "xy", ()),
        ("other", "a", "xy", (0,)),
    ],
)
def test_an_item_that_asks_nothing_is_refused(kind, pictures, captions, truth):
    item = Item("7", tuple(map(Picture, pictures)), tuple(captions), kind, truth)
    with pytest.raises(InputError, match=f"item 7: nothing to score for kind {kind} with"):
        composition.rows(FakeEncoder(), [item])


def test_argmax_lets_the_first_of_equals_win():
    def won(*captions, truth):
        item = Item("1", (Picture("a"),), captions, "i2t", (truth,))
        return [
            composition.rows(ConstantEncoder(), [item], ties)[0]["correct"] for ties in ("strict", "argmax")
        ]

    assert won("x", "y", truth=0) == [{"accuracy": 0}, {"accuracy": 1}]  # COCO-Order
    assert won("x", "y", truth=1) == [{"accuracy": 0}, {"accuracy": 0}]  # VG-Relation


def test_each_picture_and_caption_is_asked_for_once():
    encoder = FakeEncoder()
    items = [pair(str(n), picture=f"{n % 3}.png", captions=("one", f"other {n % 2}")) for n in range(12)]
    composition.rows(encoder, items)
    assert sorted(map(str, encoder.encoded)) == sorted(
        map(str, [*(Picture(f"{n}.png") for n in range(3)), "one", "other 0", "other 1"])
    )


def test_rows_keep_the_order_of_items_and_do_not_depend_on_it():
    items = [item for item, _ in EVERY_KIND] + [pair(f"more {n}", picture=str(n)) for n in range(5)]
    made = composition.rows(FakeEncoder(), items)
    assert [row["id"] for row in made] == [item.id for item in items]
    assert composition.rows(FakeEncoder(), items[::-1]) == made[::-1]


def test_a_chunk_ends_nowhere_that_shows(monkeypatch):
    items = [pair(str(n), picture=str(n)) for n in range(10)]
    made = composition.rows(FakeEncoder(), items)
    monkeypatch.setattr(composition, "CHUNK", 3)
    assert composition.rows(FakeEncoder(), items) == made
