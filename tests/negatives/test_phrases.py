"""The recipe `phrases`: units that are true, foils that are not, and which belongs to which."""

from __future__ import annotations

import pytest
from test_make import captions, make, write
from test_recipes import passed

from open_clip_ext.language.words import WORD, begins, part
from open_clip_ext.negatives.recipes.phrases import Phrases
from open_clip_ext.negatives.store import Store


@pytest.fixture(scope="module")
def phrases():
    return Phrases(tagger="textblob", wordnet=False)


def units(made, caption: str) -> dict[str, set[str]]:
    """All phrases of a caption, each with all its foils."""
    found: dict[str, set[str]] = {}
    for seed in range(30):
        made.seed = seed
        ((_, candidates),) = made.generate([caption])
        for candidate in candidates:
            if candidate.kind == "phrase":
                found.setdefault(candidate.text, set())
            else:
                found[candidate.of].add(candidate.text)
    return found


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A black dog on a wooden bench", {"a black dog", "a wooden bench", "a black dog on a wooden bench"}),
        ("a group of people on a beach", {"a group of people", "a beach", "a group of people on a beach"}),
        ("A picture of a cat on a sofa", {"a cat", "a sofa"}),
        ("a man and a woman on a sofa", {"a man", "a woman", "a sofa", "a man and a woman on a sofa"}),
        ("There is a cat under a car", {"a cat", "a car", "a cat under a car"}),
        # No shirt is on a horse.
        ("a man in a shirt on a horse", {"a man", "a shirt", "a horse", "a man in a shirt"}),
        # What is denied is not there, and what is no thing is not seen.
        ("a man without a hat", {"a man"}),
        ("a man with no hat", {"a man"}),
        ("a cat on the side of a bus", {"a cat", "the side of a bus", "a cat on the side of a bus"}),
        ("a cat in the background", {"a cat"}),
        ("a clock of gold", {"a clock of gold"}),
        ("Mary in London", set()),
    ],
)
def test_units(phrases, caption, expected):
    assert set(units(phrases, caption)) == expected


@pytest.mark.parametrize(
    ("caption", "phrase", "contains", "lacks"),
    [
        ("a black dog on a mat", "a black dog", {"a white dog"}, "a black animal"),
        ("a dog on a mat", "a dog on a mat", {"a mat on a dog", "a dog off a mat"}, "a dog upon a mat"),
        ("a dog next to a cat", "a dog next to a cat", {"a dog far from a cat"}, "a dog beside a cat"),
        ("dogs sit on a mat", "dogs sit on a mat", {"dogs stand on a mat"}, "mats sit on a dog"),
        # The other dog is white: a white dog is no foil of the black one.
        ("a black dog and a white dog", "a black dog", {"a red dog"}, "a white dog"),
        # Half of a name is another thing.
        ("a park bench", "a park bench", set(), "a park table"),
        ("a man with a hat", "a man with a hat", {"a hat with a man"}, "a man without a hat"),
    ],
)  # fmt: skip
def test_foils(phrases, caption, phrase, contains, lacks):
    foils = units(phrases, caption)[phrase]
    assert contains <= foils
    assert lacks not in foils


def test_what_says_the_same_is_no_foil(phrases):
    """Both sides of "next to" are exchanged, and the gate finds it out."""
    assert "a cat next to a dog" in units(phrases, "a dog next to a cat")["a dog next to a cat"]
    for seed in range(10):
        phrases.seed = seed
        assert "a cat next to a dog" not in dict(passed(phrases, "a dog next to a cat"))


def test_every_phrase_is_a_stretch_of_the_caption_and_its_foil_differs(phrases):
    texts = captions(100)
    for index, candidates in phrases.generate(texts):
        said = texts[index].lower()
        assert any(c.kind == "foil" for c in candidates)
        for c in candidates:
            if c.kind == "phrase":
                assert c.text.lower() in said
                assert not c.of
            else:
                assert c.of in [other.text for other in candidates if other.kind == "phrase"]
                assert WORD.findall(c.text) != WORD.findall(c.of)


def test_phrases_with_foils_come_first(phrases):
    """A single text of each type must not be one without a foil."""
    for seed in range(10):
        phrases.seed = seed
        ((_, candidates),) = phrases.generate(["a park bench and a red car"])
        entities = [c for c in candidates if c.type == "entity"]
        assert [c.text for c in entities if c.kind == "phrase"] == ["a red car", "a park bench"]


@pytest.mark.parametrize("per_type", [1, 2])
def test_each_phrase_has_one_foil_in_the_store(tmp_path, capsys, per_type):
    source = write(tmp_path / "c.csv", captions(20))
    make(capsys, source, tmp_path / "s", "--per-type", per_type, recipe="phrases")
    store = Store.open(tmp_path / "s")
    for caption in captions(20):
        found = store.together_by_type(caption, ("entity",), ("phrase", "foil"))
        assert found is not None
        texts = [phrase for phrase, _ in found[0]]
        assert len(texts) == len(set(texts)) == per_type


def test_a_part_of_a_caption_is_a_caption_of_its_own(phrases):
    caption = "A black dog on a Red mat. The cat sleeps"
    (tokens,) = phrases.tagger.tag([caption])
    for span in ((0, 3), (4, 7), (8, 10)):
        text, its = part(caption, tokens, span)
        assert [text[t.start : t.end] for t in its] == [t.text for t in its]
        assert text[0].islower() or not begins(tokens, span[0])
