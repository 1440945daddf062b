"""What the gate asks of phrases, foils, absences, denials and positives."""

from __future__ import annotations

import pytest
from test_gate import blob, gate, lexicon  # noqa: F401

from open_clip_ext.negatives.gate import REASONS
from open_clip_ext.negatives.records import Candidate

CAPTION = "A black dog on a mat"


@pytest.mark.parametrize(
    ("text", "others", "reason"),
    [
        ("A black dog on a mat, but there is no cat", (), ""),
        ("A black dog on a mat with no cat in sight", (), ""),
        ("A black dog on a mat, but there is no cat", ("a kitten near a dog",), "said_elsewhere"),
        ("A black dog on a mat, but there is no cat", ("two animals",), "said_elsewhere"),
        ("A black dog on a mat, but there is no cat or bird", ("a bird",), "said_elsewhere"),
        ("A black dog on a mat, but there is no skateboard", ("a skateboarder",), "said_elsewhere"),
        ("A black dog on a mat, but there is no hound", (), "said_in_caption"),
        ("A black dog on a mat, but there is no animal", (), "said_in_caption"),
        ("A black dog on a mat, but there is no poodle", (), "said_in_caption"),
        ("A dog on a mat, but there is no cat", (), "incomplete"),
        ("There is no cat", (), "incomplete"),
        ("A black dog on a mat and a cat", (), "denies_nothing"),
        ("A black dog on a mat and no dog", (), "denies_nothing"),
        ("A black dog on a mat and a bird, but there is no cat", (), "invented"),
        ("A black dog on a mat", (), "denies_nothing"),
        ("", (), "empty"),
    ],
)
def test_an_absence(gate, text, others, reason):  # noqa: F811
    (checked,) = gate(CAPTION, Candidate("absent", text, "absence"), others=others)
    assert (checked.kind, checked.reason) == ("absence", reason)
    assert not reason or reason in REASONS


def test_an_absence_that_the_tower_does_not_read(gate):  # noqa: F811
    long = Candidate("absent", f"{CAPTION}, but there is no cat", "absence")
    assert [c.reason for c in gate(CAPTION, long, context=8)] == ["beyond_context"]


@pytest.mark.parametrize(
    ("caption", "text", "reason"),
    [
        (CAPTION, "There is no black dog on a mat", ""),
        (CAPTION, "There is no animal on a mat", ""),
        (CAPTION, "A black dog not on a mat", ""),
        ("A dog running", "A dog not running", ""),
        (CAPTION, "A black dog on a mat with no cat", "may_be_absent"),
        ("An animal on a mat", "There is no dog on a mat", "may_be_absent"),
        ("A dog running", "A dog not swimming", "may_be_absent"),
        ("A man without a hat", "A man without a dog", ""),  # who can tell
    ],
)
def test_a_denial(gate, caption, text, reason):  # noqa: F811
    (checked,) = gate(caption, Candidate("any", text))
    assert (checked.kind, checked.reason) == ("neg", reason)


@pytest.mark.parametrize(
    ("text", "others", "reason"),
    [
        ("a white dog", (), ""),
        ("a black hound", (), "same_meaning"),
        ("a black animal", (), "implied"),
        ("a black poodle", (), "narrower"),
        ("a black mat", (), "said_in_caption"),
        ("a brown dog", ("a brown puppy",), "said_elsewhere"),
        ("a brown cat", ("a brown puppy",), ""),
        ("a black dog that sleeps under a tree", (), "length"),
    ],
)
def test_a_foil(gate, text, others, reason):  # noqa: F811
    found = gate(
        CAPTION, Candidate("u", "a black dog", "phrase"), Candidate("u", text, "foil", of="a black dog"),
        others=others,
    )  # fmt: skip
    assert [(c.kind, c.reason) for c in found] == [("phrase", ""), ("foil", reason)]


@pytest.mark.parametrize(
    ("caption", "text", "reason"),
    [
        (CAPTION, "a black dog", ""),
        (CAPTION, "a white dog", "invented"),
        ("A man without a hat", "a hat", "denied"),
        ("A man without a hat", "a man without a hat", ""),
    ],
)
def test_a_phrase(gate, caption, text, reason):  # noqa: F811
    (checked,) = gate(caption, Candidate("u", text, "phrase"))
    assert checked.reason == reason


@pytest.mark.parametrize(
    ("text", "others", "reason"),
    [
        ("A black hound on a mat", (), ""),  # says the same, as it should
        ("On a mat, a black dog", (), ""),
        ("A dark pup lies on a mat", ("A dark pup lies on a mat",), ""),  # another caption is true
        ("A black cat on a mat", (), "excluded"),
        ("A white dog on a mat", (), "excluded"),
        (CAPTION, (), "identical"),
        ("A dog", (), "length"),
    ],
)
def test_a_positive(gate, text, others, reason):  # noqa: F811
    (checked,) = gate(CAPTION, Candidate("any", text, "pos"), others=others)
    assert (checked.kind, checked.reason) == ("pos", reason)


def test_a_phrase_has_one_foil_of_a_type(gate):  # noqa: F811
    found = gate(
        CAPTION,
        Candidate("u", "a black dog", "phrase"),
        Candidate("u", "a black hound", "foil", of="a black dog"),
        Candidate("u", "a white dog", "foil", of="a black dog"),
        Candidate("u", "a red dog", "foil", of="a black dog"),
        Candidate("v", "a black cat", "foil", of="a black dog"),
        enough=9,
    )
    assert [(c.text, c.reason) for c in found] == [
        ("a black dog", ""), ("a black hound", "same_meaning"), ("a white dog", ""), ("a black cat", ""),
    ]  # fmt: skip


def test_what_says_the_same_twice_is_a_positive_once(gate):  # noqa: F811
    found = gate(CAPTION, Candidate("a", "A black hound on a mat"), Candidate("b", "A black hound on a mat."))
    assert [(c.kind, c.reason) for c in found] == [("pos", ""), ("neg", "duplicate")]
