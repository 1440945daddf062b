"""What a data file's value stands for: lists of strings, also as numpy and pandas print them; captions."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from open_clip_ext.texts import captions, is_list, parse_texts

# What could be taken for a part of the list when it is printed.
STRINGS = ["a b", "it's", 'a "big" dog', 'it\'s "both"', "two\nlines", "", "c ... d', 'e", "caf\u00e9 \\"]
READ = [text.strip() for text in STRINGS]
OBJECTS = np.array(STRINGS, dtype=object)


@pytest.mark.parametrize(
    "value",
    [
        STRINGS,
        tuple(STRINGS),
        np.array(STRINGS),
        OBJECTS,
        json.dumps(STRINGS),
        json.dumps(STRINGS).encode(),
        str(STRINGS),
        str(tuple(STRINGS)),
        str(np.array(STRINGS)),
        str(OBJECTS),
        repr(np.array(STRINGS)),
        repr(OBJECTS),
        "np." + repr(OBJECTS),
        str([np.str_(text) for text in STRINGS]),
        str(pd.Series([STRINGS]).tolist()[0]),
        str(pd.Series(STRINGS, dtype=object).to_numpy()),
    ],
    ids=lambda value: f"{type(value).__name__}-{value!r:.12}",
)
def test_a_list_is_read_however_it_was_printed(value):
    assert parse_texts(value) == READ


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        ("['a b' 'c d']", ["a b", "c d"]),
        ("['a b'\n 'c d']", ["a b", "c d"]),
        ("['a']", ["a"]),
        ("('a', 'b')", ["a", "b"]),
        ("('a',)", ["a"]),
        ("[np.str_('a'), numpy.str_('b'), str_('c')]", ["a", "b", "c"]),
        ("array(['a', 'b'], dtype='<U1')", ["a", "b"]),
        ("[u'a', u'b']", ["a", "b"]),
        ("['a', \"it's\"]", ["a", "it's"]),
        ('["a", null, " "]', ["a", "", ""]),
        ("['a' None 'b']", ["a", "", "b"]),
        ("", []),
        ("[]", []),
    ],
)
def test_a_list_as_a_cell_may_have_it(value, texts):
    assert parse_texts(value) == texts


@pytest.mark.parametrize(
    "value",
    [
        "['a' 'b', 'c']",  # Python would join the first two
        "['a', 'b'\n 'c']",
        "['a''b']",
        "['''a''']",
        "['it''s']",
        "[r'a' 'b']",
        "('a' 'b')",
        "('a')",
        "['a', 'b",
        "['a' b]",
        "['\\x']",
        "[nan, 'a']",
        "[b'a' b'b']",
        "[['a' 'b'] ['c' 'd']]",
        '[["a"], ["b"]]',
        ["a", ["b"]],
        ["a", "['b' 'c']"],
        "{'a', 'b'}",
        '{"a": 1}',
        "[1, 2]",
        ["a", 1],
        [float("nan")],
        np.array([["a"], ["b"]]),
        "a b c",
        "3",
        3,
        {"a": 1},
        b"\xff",
        "__import__('os')",
        json.dumps("a"),
        None,
    ],
    ids=repr,
)
def test_what_is_not_certainly_a_list_of_strings_is_refused(value):
    with pytest.raises(ValueError, match=r"^expected a (list of strings|string), got "):
        parse_texts(value)


@pytest.mark.parametrize("show", [str, repr])
def test_a_list_that_numpy_shortened_is_refused(show):
    printed = show(np.array([f"text {i}" for i in range(2000)]))
    for read in (parse_texts, captions):
        with pytest.raises(ValueError, match="which was shortened when it was printed; write it as JSON"):
            read(printed)


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        ("A dog.", ["A dog."]),
        (b"A dog.", ["A dog."]),
        (["A dog.", "A cat."], ["A dog.", "A cat."]),
        (np.array(["A dog.", "A cat."], dtype=object), ["A dog.", "A cat."]),
        ("['A dog.' 'A cat.']", ["A dog.", "A cat."]),
        ('["A dog.", "A cat."]', ["A dog.", "A cat."]),
        (None, [""]),
        ([], [""]),
        (["A dog.", None], ["A dog.", ""]),
        ("", [""]),
        # Captions that begin or end with a bracket, as the web has them.
        ("[...]", ["[...]"]),
        ("[2]", ["[2]"]),
        ('("Hello")', ['("Hello")']),
        ('["Hello" she said]', ['["Hello" she said]']),
        ("[photo] a dog (brown)", ["[photo] a dog (brown)"]),
    ],
)
def test_a_caption_is_a_string_and_a_list_is_several(value, texts):
    assert captions(value) == texts
    if isinstance(value, str):
        assert is_list(value) == (texts != [value])


@pytest.mark.parametrize(
    ("value", "got"),
    [
        (7, "int 7"),
        (float("nan"), "float nan"),
        (True, "bool True"),
        ({"raw": "A dog."}, "dict {'raw': 'A dog.'}"),
        ([7], r"int in a list: \[7\]"),
        ([["A dog."]], r"list in a list: \[\['A dog.'\]\]"),
        (b"\xff", r"bytes that are not UTF-8: b'\\xff'"),
        ("[{'raw': 'A dog.'}]", r"\"\[\{'raw': 'A dog.'\}\]\""),
        (
            "['A dog.' 'A cat.', 'A cow.']",
            r"\"\['A dog.' 'A cat.', 'A cow.'\]\", which does not tell its strings apart; write it as JSON",
        ),
        (["['A dog.' 'A cat.']"], "a list in a list: "),
    ],
)
def test_anything_else_is_no_caption(value, got):
    with pytest.raises(ValueError, match=f"^expected a text or a list of texts, got {got}"):
        captions(value)
    if isinstance(value, str):
        assert is_list(value)


def test_no_text_takes_long_to_look_at():
    for text in ("[" + "'a' " * 20_000 + "x]", "[" + " " * 20_000 + "x]", "(" + "'a' , " * 20_000 + "x)"):
        assert captions(text) == [text]
