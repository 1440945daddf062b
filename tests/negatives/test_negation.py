"""The recipe `negation`: what it denies, what it never denies, and what it learns from the data."""

from __future__ import annotations

import subprocess
import sys

import pytest
from test_make import make, write
from test_recipes import proposed

from open_clip_ext.language.company import Company
from open_clip_ext.language.denial import denied, names
from open_clip_ext.language.lexicon import Lexicon
from open_clip_ext.language.taggers import tagger
from open_clip_ext.negatives.make import Source
from open_clip_ext.negatives.recipes.negation import Negation
from open_clip_ext.negatives.store import Store

# Pictures of a park: a frisbee comes with a dog in two of three.
PARK = [
    ["a dog with a frisbee", "a brown dog on grass"],
    ["a dog and a frisbee", "a man with his pet"],
    ["a dog near a bicycle"],
    ["a cat on a sofa", "a kitten in a room"],
]


@pytest.fixture(scope="module")
def negation():
    return Negation(tagger="textblob", wordnet=False)


@pytest.fixture(scope="module")
def lexicon():
    return Lexicon(wordnet=False)


@pytest.mark.parametrize(
    ("caption", "type", "expected"),
    [
        ("a cat on a sofa", "no_subject", {"there is no cat on a sofa", "a photo with no cat on a sofa"}),
        ("Two big dogs in a park", "no_subject",
         {"There are no big dogs in a park", "A photo with no big dogs in a park"}),
        ("A cat sits on a sofa.", "no_subject", {"No cat sits on a sofa."}),
        ("A man in a hat rides a horse", "no_subject", {"No man in a hat rides a horse"}),
        ("Dog on a mat", "no_subject", {"There is no dog on a mat", "A photo with no dog on a mat"}),
        ("There is a cat on a sofa", "no_subject", {"There is no cat on a sofa"}),
        ("A picture of a cat on a sofa", "no_subject", {"A picture with no cat on a sofa"}),
        ("a man with a red hat", "no_object", {"a man with no red hat"}),
        ("a man wearing two hats", "no_object", {"a man wearing no hats"}),
        ("a cat and a dog", "no_object", {"a cat and no dog"}),
        ("a dog running on a beach", "not_verb", {"a dog not running on a beach"}),
        ("a dog is running", "not_verb", {"a dog is not running"}),
        ("a dog is on a mat", "not_verb", {"a dog is not on a mat"}),
        ("A dog runs on a beach", "not_verb", {"A dog does not run on a beach"}),
        ("Two women sit on a bench", "not_verb", {"Two women do not sit on a bench"}),
        # What must not come of it.
        ("a cat and a dog", "no_subject", set()),  # "there is no cat and a dog"
        ("a cat, a dog and a bird", "no_subject", set()),
        ("London in the rain", "no_subject", set()),
        ("his dog on a mat", "no_subject", set()),
        ("a picture of a cat and a dog", "no_subject", set()),
        ("a man jumps from a rock", "no_subject", set()),  # "a man jumps" is taken for a noun phrase
        ("a man with his hat", "no_object", set()),
        ("a pool with a lot of balls", "no_object", set()),
        ("a man on a bench", "no_object", set()),  # "on no bench"
        ("a wall covered in ivy", "not_verb", set()),
        ("a good way of eating", "not_verb", set()),
    ],
)  # fmt: skip
def test_what_is_denied(negation, caption, type, expected):
    assert proposed(negation, caption, type) == expected


@pytest.mark.parametrize(
    "caption",
    ["a man with no hat and a dog", "a dog without a leash", "a dog that is not running", "no cats"],
)
def test_what_denies_something_is_left_alone(negation, caption):
    assert proposed(negation, caption) == set()


def surveyed(pictures=PARK) -> Negation:
    made = Negation(tagger="textblob", wordnet=False)
    made.survey(pictures)
    return made


def test_what_is_absent_comes_with_what_is_there_in_other_pictures():
    found = proposed(surveyed(), "a dog on a mat", "absent")
    assert found == {
        f"a dog on a mat{frame.format(thing)}"
        for thing in ("frisbee", "bicycle")
        for frame in (", but there is no {}", ", with no {} in sight")
    }


def test_the_more_often_the_sooner():
    made, first = surveyed([*PARK, *(10 * [["a dog with a ball"]])]), []
    for seed in range(40):
        made.seed = seed
        ((_, candidates),) = made.generate(["a dog on a mat"])
        first.append(next(c.text for c in candidates if c.type == "absent"))
    assert sum("ball" in text for text in first) > 20


def test_without_company_it_is_of_the_same_sort(negation):
    found = proposed(negation, "a spoon on a plate", "absent")
    assert any("fork" in text for text in found)
    assert not any("spoon," not in text and "no spoon" in text for text in found)


@pytest.mark.parametrize(
    ("caption", "unsaid"),
    [
        ("a poodle on a mat", "dog"),  # it is one
        ("an animal on a mat", "dog"),  # it may be one
        ("a puppy on a mat", "dog"),
        ("a skateboarder on a ramp", "skateboard"),  # has one
        ("a boat on the water", "boat"),
    ],
)
def test_nothing_is_absent_that_the_caption_may_name(caption, unsaid):
    things = ("a dog", "a skateboard", "a boat", "a ball")
    made = surveyed([[f"{caption} and {thing}"] for thing in things])
    found = proposed(made, caption, "absent")
    assert any("no ball" in text for text in found)
    assert not any(f"no {unsaid}" in text for text in found)


def test_the_stop_stays_at_the_end():
    found = proposed(surveyed(), "A dog on a mat .", "absent")
    assert found
    assert all(text.endswith(" .") and text.startswith("A dog on a mat, ") for text in found)


def test_neither_persons_nor_clothes_nor_places_are_absent(lexicon):
    """They are named by other words, or are there without being named."""
    things = Company(lexicon).things
    assert things.isdisjoint({"man", "surfer", "shirt", "shoe", "tree", "water", "beach", "street", "wheel"})
    assert {"dog", "bicycle", "chair", "skateboard", "laptop", "pizza"} <= things


def test_things_are_counted_by_pictures(lexicon):
    company = Company(lexicon)
    company.learn(PARK)
    assert company.likely("two hounds") == {"bicycle": 1, "frisbee": 2}
    assert company.named(["Kittens and DOGS", "a pooch"]) == ["dog", "kitten"]


def test_what_was_learned_is_part_of_its_identity(negation):
    assert surveyed().identity() == surveyed().identity()
    assert surveyed().identity() != surveyed(PARK[:2]).identity() != negation.identity()


@pytest.mark.parametrize(
    ("text", "lemmas"),
    [
        ("a man with no hat or scarf", ["hat", "scarf"]),
        ("a dog without a leash", ["leash"]),
        ("there are no big dogs", ["dog"]),
        ("a dog isn't running", ["run"]),
        ("a dog is not on a mat", ["on"]),
        ("a dog on a mat", []),
        ("a cat but no dog, and a bird", ["dog"]),
    ],
)
def test_what_a_text_denies(text, lemmas):
    (tokens,) = tagger("textblob").tag([text])
    assert [token.lemma for token in denied(tokens)] == lemmas


@pytest.mark.parametrize(
    ("caption", "noun", "strictly", "loosely"),
    [
        ("a hound", "dog", True, True),
        ("a poodle", "dog", True, True),
        ("an animal", "dog", False, True),
        ("a skateboarder", "skateboard", False, True),
        ("a catalogue", "cat", False, False),
        ("a cat", "dog", False, False),
    ],
)
def test_whether_a_caption_names_a_thing(lexicon, caption, noun, strictly, loosely):
    (tokens,) = tagger("textblob").tag([caption])
    assert names(lexicon, tokens, noun) == strictly
    assert names(lexicon, tokens, noun, loosely=True) == loosely


# --- by the command


def test_other_captions_of_the_picture_forbid_an_absence(tmp_path, capsys):
    """A frisbee comes with every dog, and with every other caption of the first picture."""
    texts = ["a dog on a mat", "a dog and a frisbee", "a dog with a frisbee", "a dog catches a frisbee"]
    source = write(tmp_path / "c.csv", texts, images=["1", "1", "2", "3"])
    printed = make(capsys, source, tmp_path / "s", recipe="negation")
    assert "said_elsewhere" in printed
    absent = Store.open(tmp_path / "s").texts("a dog on a mat", "absence", rejected=True)
    assert {t.reason for t in absent if "frisbee" in t.text} == {"said_elsewhere"}
    assert not any("frisbee" in t.text for t in absent if t.valid)


def test_a_picture_counts_once_whatever_the_file():
    """By the name of the picture, by a list of captions, or one caption each."""
    source = Source()
    source.add("a dog", "1.jpg")
    source.add("a ball", "1.jpg")
    source.add("a cat", "", ["a sofa"])
    source.add("a sofa", "", ["a cat"])
    source.add("a bird", "")
    assert sorted(map(sorted, source.pictures())) == [["a ball", "a dog"], ["a bird"], ["a cat", "a sofa"]]


def test_shards_learn_from_the_whole_file(tmp_path, capsys):
    texts = [text for picture in PARK for text in picture]
    source = write(tmp_path / "c.csv", texts, images=[str(i) for i, p in enumerate(PARK) for _ in p])
    make(capsys, source, tmp_path / "whole", recipe="negation")
    whole, parted = Store.open(tmp_path / "whole"), {}
    for i in (1, 2):
        make(capsys, source, tmp_path / "part", "--shard", f"{i}/2", recipe="negation")
        part = Store.open(tmp_path / f"part.{i}-of-2")
        assert part.generators() == whole.generators()
        parted |= {caption: found for caption, _, found in part.entries()}
    assert parted == {caption: found for caption, _, found in whole.entries()}


def test_a_changed_file_is_not_mixed_in(tmp_path, capsys):
    make(capsys, write(tmp_path / "c.csv", PARK[0]), tmp_path / "s", recipe="negation")
    with pytest.raises(SystemExit) as stopped:
        make(capsys, write(tmp_path / "c.csv", PARK[1]), tmp_path / "s", recipe="negation")
    assert stopped.value.code == 2
    assert "made in another way (company: " in capsys.readouterr().err


def test_the_hash_seed_of_python_changes_nothing():
    code = (
        "import sys; from open_clip_ext.negatives.recipes.negation import Negation\n"
        "from open_clip_ext.negatives.recipes.phrases import Phrases\n"
        "pictures = [['a dog with a frisbee and a ball', 'a red dog'], ['a cat near a dog']]\n"
        "texts = [text for picture in pictures for text in picture]\n"
        "made = Negation(tagger='textblob'); made.survey(pictures)\n"
        "print(made.identity(), list(made.generate(texts)), list(Phrases(tagger='textblob').generate(texts)))"
    )
    one, other = (
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PATH": ""},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    )
    assert one == other != b""
