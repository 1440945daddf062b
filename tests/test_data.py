"""From a data file's value to `[B, 1+K, L]`."""

from __future__ import annotations

import ast
import csv
import json
import os
import pickle
import random
import string
from pathlib import Path

import open_clip
import pytest
import torch
from torch.utils.data import DataLoader

from open_clip_ext.data import (
    CompanionCollate,
    HardNegativeCollate,
    WordTokenizer,
    by_word,
    split_texts,
)

TOKENIZE = open_clip.get_tokenizer("ViT-B-32", context_length=16)


def sample(caption: str, negatives: list[str]):
    return torch.rand(3, 8, 8), caption, negatives


def test_the_caption_comes_first_and_each_negative_keeps_its_place():
    images, texts = HardNegativeCollate(TOKENIZE, 2)([sample("a b", ["b a", "c a"]), sample("d", ["e", "f"])])
    assert images.shape == (2, 3, 8, 8)
    expected = TOKENIZE(["a b", "b a", "c a", "d", "e", "f"]).view(2, 3, 16)
    assert torch.equal(texts, expected)
    assert texts.dtype == torch.int64


def test_missing_negatives_are_rows_of_zeros():
    _, texts = HardNegativeCollate(TOKENIZE, 3)([sample("a", ["b"]), sample("c", ["", "d"]), sample("e", [])])
    captions, negatives, valid = split_texts(texts)
    assert torch.equal(captions, TOKENIZE(["a", "c", "e"]))
    assert valid.tolist() == [[True, False, False], [False, True, False], [False, False, False]]
    assert negatives[~valid].eq(0).all()


def test_a_negative_that_the_tokenizer_makes_the_caption_is_missing():
    long = "a dog " * 7
    samples = [sample(f"{long} sleeps", [f"{long} runs", "a cat"]), sample("a dog", ["A DOG", "a cat"])]
    texts = HardNegativeCollate(TOKENIZE, 2)(samples)[1]
    assert split_texts(texts)[2].tolist() == [[False, True], [False, True]]
    assert texts[:, 1].eq(0).all()


@pytest.mark.parametrize("blank", ["", " ", "\t\n", "\u3000"])
def test_a_blank_negative_is_a_missing_one(blank):
    collate = HardNegativeCollate(TOKENIZE, 2)
    _, texts = collate([sample("a", [blank, "b"]), sample(blank, ["c", blank]), sample("d", [blank])])
    _, negatives, valid = split_texts(texts)
    assert valid.tolist() == [[False, True], [True, False], [False, False]]
    assert negatives[~valid].eq(0).all()
    # Nor does it take the place of another one.
    assert collate.choose("a", {"neg": [blank, "x", "y"]}) == ["x", "y"]
    assert {collate.choose(caption, {"neg": [[blank, "x"]]})[0] for caption in "abcdefgh"} == {"x"}
    assert collate.choose("a", {"neg": [[blank, "x"], [blank]]}) == ["x", ""]


def test_a_string_is_not_taken_for_the_list_of_its_letters():
    with pytest.raises(TypeError, match="expected a list of strings, got 'a cat'"):
        HardNegativeCollate(TOKENIZE, 2)([sample("a dog", "a cat")])


def test_of_more_than_k_a_sample_is_drawn_in_order_by_seed_epoch_and_caption():
    many = [f"text {i}" for i in range(9)]

    def draw(seed=0, epoch=0, caption="a"):
        collate = HardNegativeCollate(TOKENIZE, 4, seed=seed)
        collate.set_epoch(epoch)
        return collate.choose(caption, {"neg": many})

    assert draw() == draw() == sorted(draw())
    assert len(set(draw())) == 4
    assert draw() != draw(epoch=1)
    assert draw() != draw(seed=1)
    assert {tuple(draw(caption=c)) for c in "abcdefgh"} != {tuple(draw())}


def test_empty_places_are_dropped_only_to_make_room():
    collate = HardNegativeCollate(TOKENIZE, 2)
    assert collate.choose("a", {"neg": ["", "x"]}) == ["", "x"]
    assert collate.choose("a", {"neg": ["", "x", "y"]}) == ["x", "y"]
    assert collate.choose("a", {"neg": ["", "x", ""]}) == ["x", ""]


def test_kinds_follow_each_other_in_the_order_of_their_counts():
    collate = CompanionCollate(TOKENIZE, {"neg": 1, "pos": 2})
    texts = collate.texts(["a"], [{"pos": ["p", "q"], "neg": ["n"]}])
    assert torch.equal(texts[0], TOKENIZE(["a", "n", "p", "q"]))


def test_kinds_are_drawn_independently():
    """Of equal lists, equal places would be drawn by a seed that leaves the kind out."""
    collate = CompanionCollate(TOKENIZE, {"neg": 4, "pos": 4})
    many = [f"text {i}" for i in range(9)]
    captions = [f"caption {i}" for i in range(20)]
    texts = collate.texts(captions, [{"neg": many, "pos": many}] * len(captions))
    same = (texts[:, 1:5] == texts[:, 5:]).all(-1).all(-1)
    assert same.sum() < 3  # one of 126 by chance
    assert torch.equal(texts, collate.texts(captions, [{"neg": many, "pos": many}] * len(captions)))


@pytest.mark.parametrize("workers", [0, 2])
def test_any_dataloader_can_use_it(workers):
    data = [sample(f"caption {i}", [f"negative {i} {k}" for k in range(6)]) for i in range(8)]
    collate = HardNegativeCollate(TOKENIZE, 4)
    loader = DataLoader(
        data, batch_size=4, collate_fn=collate, num_workers=workers, persistent_workers=workers > 0
    )
    first = [texts for _, texts in loader]
    again = [texts for _, texts in loader]
    collate.set_epoch(1)  # reaches workers that already run
    other = [texts for _, texts in loader]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_it_can_be_pickled():
    copy = pickle.loads(pickle.dumps(HardNegativeCollate(TOKENIZE, 2, seed=3)))
    assert (copy.counts, copy.seed) == ({"neg": 2}, 3)


NASTY = [
    "",
    " ",
    "A  Black Cat\ton a\nwhite sofa. ",
    "it's the cat's, they'll've 'S 't",
    "fish &amp; chips &lt;b&gt; &amp;amp; &eacute; & a",
    "caf\u00e9 na\u00efve \u00fcber \u4e00\u53ea\u732b \U0001f408",
    "\u00e2\u20ac\u0153mojibake\u00e2\u20ac\u009d caf\u00c3\u00a9",
    "\u201cquotes\u201d \ufb01ne \uff21 \u3000 \u200b",
    "\x00a\x07b\x0bc\x1cd\x1be\x7ff\x85g",
    "\x1b[31mred\x1b[0m",
    "a\r\nb\rc",
    "<start_of_text> a <end_of_text><END_OF_TEXT>b",
    'snake_case 123 4.5e6 #!$%^*()_+-=[]{};:,./<>?\\|`~"',
    "word " * 200,
    "x" * 500,
    "1" * 200,
]


@pytest.fixture(params=["lower", "whitespace", "canonicalize"])
def stock(request):
    return open_clip.SimpleTokenizer(clean=request.param, context_length=77)


def test_words_give_the_ids_of_upstream(stock):
    ours = by_word(stock)
    assert isinstance(ours, WordTokenizer)
    rng = random.Random(0)
    alphabets = [
        string.printable + "\u00e9\u00df\u201c\u2019\ufb01\u3000\x7f\x00\x1b",
        "abAB '<>_of0.!end_tstart",
    ]
    drawn = ["".join(rng.choices(a, k=rng.randrange(40))) for a in alphabets for _ in range(2000)]
    for _ in range(2):  # words are known by the second time
        assert torch.equal(ours(NASTY + drawn), stock(NASTY + drawn))
    assert torch.equal(ours(NASTY, context_length=9), stock(NASTY, context_length=9))
    assert torch.equal(pickle.loads(pickle.dumps(ours))(NASTY), stock(NASTY))


def test_known_words_have_a_bound(monkeypatch):
    monkeypatch.setattr("open_clip_ext.data.KNOWN_WORDS", 2)
    ours = by_word(TOKENIZE)
    assert torch.equal(ours(["a b c d a d"]), TOKENIZE(["a b c d a d"]))
    assert len(ours.words) == 2


def test_other_tokenizers_are_left_alone():
    class Mine(open_clip.SimpleTokenizer):
        pass

    spaced = open_clip.SimpleTokenizer(additional_special_tokens=["<a b>"])
    for tokenizer in (Mine(), spaced, lambda texts: torch.ones(len(texts), 4, dtype=torch.long)):
        assert by_word(tokenizer) is tokenizer


ANNOTATIONS = os.environ.get("OPEN_CLIP_EXT_ANNOTATIONS")


def strings(value) -> set[str]:
    if isinstance(value, str):
        nested = ast.literal_eval(value) if value.startswith("['") else []
        return {value} | strings(nested)
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return set().union(*map(strings, inside))


@pytest.mark.skipif(not ANNOTATIONS, reason="OPEN_CLIP_EXT_ANNOTATIONS names no folder of captions")
def test_words_give_the_ids_of_upstream_on_real_captions():
    texts = set()
    csv.field_size_limit(10**9)
    for path in Path(ANNOTATIONS).rglob("*.*"):
        if path.suffix == ".json":
            texts |= strings(json.loads(path.read_text()))
        elif path.suffix in (".csv", ".tsv"):
            with path.open(newline="") as file:
                for row in csv.reader(file, delimiter="\t" if path.suffix == ".tsv" else ","):
                    texts |= strings(row)
    assert len(texts) > 1000
    ours = by_word(open_clip.get_tokenizer("ViT-B-32"))
    ordered = sorted(texts)
    for start in range(0, len(ordered), 1000):
        batch = ordered[start : start + 1000]
        assert torch.equal(ours(batch), open_clip.tokenize(batch))


def test_split_texts_wants_three_axes():
    with pytest.raises(ValueError, match=r"texts must be \[B, 1\+K, L\], got \[2, 16\]"):
        split_texts(torch.zeros(2, 16))
