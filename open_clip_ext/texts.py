"""Texts in data files: a single text, a list of texts, or one that a program has printed; names of kinds."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from typing import Any

# A string as Python, numpy and pandas print it. A printed list is parsed with HELD in place of each string,
# so that no part of a string can be taken for a part of the list.
STRING = re.compile(r"""u?(?:'[^'\\\r\n]*(?:\\.[^'\\\r\n]*)*'|"[^"\\\r\n]*(?:\\.[^"\\\r\n]*)*")""")
HELD = "\0"
NUMPY = r"(?:np\.|numpy\.)?"
ITEM = rf"(?:{HELD}|{NUMPY}str_\({HELD}\)|None)"
# Python separates items by commas, numpy by spaces. If both occur, two strings without a comma between them
# may be one, as in Python source.
LIST = rf"\[ ?(?:{ITEM}(?: {ITEM})+|(?:{ITEM} ?, ?)*{ITEM}?) ?\]"
TUPLE = rf"\( ?(?:{ITEM} ?, ?)+{ITEM}? ?\)"
ARRAY = rf"{NUMPY}array\( ?{LIST} ?(?:, ?dtype=(?:{HELD}|[\w.]+) ?)?\)"
PRINTED = re.compile(f"{LIST}|{TUPLE}|{ARRAY}")
# Strings in brackets in any other form; `...` stands for the omitted part of a long list. A single string in
# round brackets is not a list.
PARTS = rf"(?:{ITEM}|b{HELD}|\.\.\.|nan|<NA>|[\[\](), ])+"
UNCLEAR = re.compile(rf"(?!\({HELD}\)$)[\[(]{PARTS}[\])]|{NUMPY}array\({PARTS}(?:(?:shape|dtype)=.*)?\)")
# What follows the kind in the name of a kind of images; no name of a kind of texts has a blank.
IMAGE = " image"
# How a list or another structure may begin.
BEGINNINGS = ("[", "(", "{", "array(", "np.array(", "numpy.array(")


def parse_texts(value: Any) -> list[str]:
    """The list of strings in a value of a data file.

    The value is a list, a JSON list, or a list as Python, numpy or pandas prints it. None and empty
    strings keep their place, as missing texts. Raises ValueError for anything else.
    """
    wanted = "a list of strings"
    value = _plain(value, wanted)
    if isinstance(value, str):
        listed = _listed(value, wanted) if value.strip() else []
        if listed is None:
            raise ValueError(f"expected {wanted}, got {_shorten(_evaluated(json.loads, value) or value)}")
        value = listed
    return [text.strip() for text in _strings(value, wanted)]


def captions(value: Any) -> list[str]:
    """The captions in a value of a data file: one for a string, several for a list.

    A string that `parse_texts` reads as a list counts as that list. A missing caption (None or an empty
    list) becomes an empty string. Raises ValueError for anything else.
    """
    wanted = "a text or a list of texts"
    value = _plain(value, wanted)
    if value is None:
        return [""]
    if isinstance(value, str):
        listed = _listed(value, wanted)
        if listed is None:
            return [value]
        value = listed
    return _strings(value, wanted) or [""]


def is_list(text: str) -> bool:
    """Whether `captions` would read this text as a list, or refuse it, instead of keeping it as a caption."""
    try:
        return captions(text) != [text]
    except ValueError:
        return True


def _strings(value: Any, wanted: str) -> list[str]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"expected {wanted}, got {type(value).__name__} {_shorten(value)}")
    texts = [_plain(text, wanted) for text in value]
    if wrong := [text for text in texts if not (text is None or isinstance(text, str))]:
        raise ValueError(f"expected {wanted}, got {type(wrong[0]).__name__} in a list: {_shorten(value)}")
    if any(text and _listed(text, wanted) is not None for text in texts):
        raise ValueError(f"expected {wanted}, got a list in a list: {_shorten(value)}")
    return [text or "" for text in texts]


def _plain(value: Any, wanted: str) -> Any:
    """A value in Python's own types: arrays become lists, bytes become text."""
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"expected {wanted}, got bytes that are not UTF-8: {_shorten(value)}") from error
    return value.tolist() if hasattr(value, "tolist") else value


def _listed(text: str, wanted: str) -> list[str | None] | None:
    """The list that a text represents, or None if it does not represent a list.

    Raises ValueError for a list whose strings are ambiguous, and for other structures of strings.
    """
    text = text.strip()
    if not text.startswith(BEGINNINGS) or text[-1] not in "])}" or HELD in text:
        return None
    found = _evaluated(json.loads, text)
    if isinstance(found, list) and all(item is None or isinstance(item, str) for item in found):
        return found
    held = " ".join(STRING.sub(HELD, text).split())
    if PRINTED.fullmatch(held):
        strings = map(_unquoted, STRING.findall(text))
        items = re.findall(ITEM, held.partition("dtype=")[0])
        return [None if item == "None" else next(strings) for item in items]
    if HELD not in held:
        return None
    if UNCLEAR.fullmatch(held):
        cause = "was shortened when it was printed" if "..." in held else "does not tell its strings apart"
        raise ValueError(f"expected {wanted}, got {_shorten(text)}, which {cause}; write it as JSON")
    if isinstance(found or _evaluated(ast.literal_eval, text), list | tuple | dict | set):
        raise ValueError(f"expected {wanted}, got {_shorten(text)}")
    return None


def _unquoted(string: str) -> str:
    if "\\" not in string:
        return string.removeprefix("u")[1:-1]
    text = _evaluated(ast.literal_eval, string)
    if not isinstance(text, str):
        raise ValueError(f"expected a string, got {_shorten(string)}")
    return text


def _evaluated(read: Callable[[str], Any], text: str) -> Any:
    """The result of `json.loads` or `ast.literal_eval` for a text; None if it fails."""
    try:
        return read(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def image_kind(kind: str) -> str:
    """What the companion images of a kind are called among the kinds of texts."""
    return f"{kind}{IMAGE}"
