"""What captions mention: things with their attributes, and what they do."""

from __future__ import annotations

import pytest

from open_clip_ext.language.mentions import Finder, Mention


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        (
            "A man is riding a brown horse next to a tree.",
            [
                Mention("a man", "man"), Mention("a brown horse", "horse"), Mention("a tree", "tree"),
                Mention("riding", sides=(0, 1)),
            ],
        ),
        ("a photo of two black cats", [Mention("two black cats", "cat")]),
        ("a group of people", [Mention("a group of people", "person")]),
        ("a dog runs", [Mention("a dog", "dog"), Mention("runs", sides=(0,))]),
        ("sitting on a bench", [Mention("a bench", "bench"), Mention("sitting on", sides=(0,))]),
        ("a room without a window", [Mention("a room", "room")]),  # no window is there
        ("green", []),
    ],
)  # fmt: skip
def test_things_come_first_then_verbs_with_what_they_relate(caption, expected):
    found = Finder("textblob").of([caption])[caption]
    assert found == expected


def test_every_caption_is_there_once_asked_for():
    finder = Finder("textblob")
    assert list(finder.of(["a cat", "a dog", "a cat"])) == ["a cat", "a dog"]
    assert finder.of(["a dog"]) == {"a dog": [Mention("a dog", "dog")]}
