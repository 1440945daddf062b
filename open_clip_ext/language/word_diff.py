"""The words in which a text differs from its caption, to count and to mark.

Edits are those of the least number of words put in, left out or exchanged (Levenshtein). Upper and
lower case make no difference.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

from open_clip_ext.language import words


class Piece(NamedTuple):
    """A stretch of a text.

    Attributes:
        text: it, with the white space before it.
        change: "same", "new" (not in the caption there), or "gone" (the caption has it, the text not).
        was: for a "new" one that stands in the place of something, what.
    """

    text: str
    change: str
    was: str = ""


def spoken(text: str) -> list[str]:
    """The words and signs of a text, as they are compared."""
    return words.WORD.findall(text.casefold())


def distance(one: list[str], other: list[str]) -> int:
    """How many words two texts differ in, given their words."""
    return int(_levenshtein().distance(one, other))


def pieces(caption: str, text: str) -> list[Piece]:
    """The text in stretches; those that are not "gone" make it up, white space at its ends aside."""
    old, new = words.split(caption), words.split(text)
    found, at = [], 0
    codes = _levenshtein().opcodes([w.casefold() for *_, w in old], [w.casefold() for *_, w in new])
    # What lies between two stretches that are the same is one change.
    for same, group in itertools.groupby(codes, key=lambda code: code.tag == "equal"):
        first, *_, last = [*group] * 2
        was = _stretch(caption, old, first.src_start, last.src_end)
        if first.dest_start == last.dest_end:
            found.append(Piece(f" {was}", "gone"))
            continue
        end = new[last.dest_end - 1][1]
        found.append(Piece(text[at:end], "same") if same else Piece(text[at:end], "new", was))
        at = end
    return found


def _stretch(text: str, tokens: list[tuple[int, int, str]], first: int, last: int) -> str:
    return text[tokens[first][0] : tokens[last - 1][1]] if first < last else ""


def _levenshtein() -> Any:
    from rapidfuzz.distance import Levenshtein

    return Levenshtein
