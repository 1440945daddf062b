"""Texts as data files hold them: one, a list of them, or the text of a list that a program printed."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from typing import Any

# A string as Python prints it, and with it numpy and pandas. A printed list is looked at with HELD in
# the place of each string, so that nothing inside a string can be taken for a part of the list.
STRING = re.compile(r"""u?(?:'[^'\\\r\n]*(?:\\.[^'\\\r\n]*)*'|"[^"\\\r\n]*(?:\\.[^"\\\r\n]*)*")""")
HELD = "\0"
NUMPY = r"(?:np\.|numpy\.)?"
ITEM = rf"(?:{HELD}|{NUMPY}str_\({HELD}\)|None)"
# Commas are Python's, blanks alone are numpy's. With both, two strings without a comma may be one, as
# they are in Python's source.
LIST = rf"\[ ?(?:{ITEM}(?: {ITEM})+|(?:{ITEM} ?, ?)*{ITEM}?) ?\]"
TUPLE = rf"\( ?(?:{ITEM} ?, ?)+{ITEM}? ?\)"
ARRAY = rf"{NUMPY}array\( ?{LIST} ?(?:, ?dtype=(?:{HELD}|[\w.]+) ?)?\)"
PRINTED = re.compile(f"{LIST}|{TUPLE}|{ARRAY}")
# Strings in brackets in any other way; `...` is what was left out of a long list. A single string in round
# brackets is no list.
PARTS = rf"(?:{ITEM}|b{HELD}|\.\.\.|nan|<NA>|[\[\](), ])+"
UNCLEAR = re.compile(rf"(?!\({HELD}\)$)[\[(]{PARTS}[\])]|{NUMPY}array\({PARTS}(?:(?:shape|dtype)=.*)?\)")
# How a list or another structure may begin.
BEGINNINGS = ("[", "(", "{", "array(", "np.array(", "numpy.array(")


def parse_texts(value: Any) -> list[str]:
    """The list of strings that a data file's value stands for.

    A list, a JSON list, or a list as Python, numpy or pandas prints it. None and empty strings in it
    keep their place as texts that do not exist. Raises ValueError for anything else.
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
    """The captions that a data file's value stands for: a string is one, a list as many as it has.

    The text of a list, as `parse_texts` reads it, is that list. A missing caption, None or an empty
    list, is an empty string. Raises ValueError for anything else.
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
    """Whether a text that stands for one caption is that of a list, so that `captions` would not keep it."""
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
    """A value in Python's own types: an array is a list, bytes are text."""
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"expected {wanted}, got bytes that are not UTF-8: {_shorten(value)}") from error
    return value.tolist() if hasattr(value, "tolist") else value


def _listed(text: str, wanted: str) -> list[str | None] | None:
    """The list that a text is; None if it is none.

    Raises ValueError for a list whose strings are not certain, and for other structures of strings.
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
    """What `json.loads` or `ast.literal_eval` makes of a text; None if nothing."""
    try:
        return read(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
