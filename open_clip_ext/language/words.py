"""Words of a caption by their offsets, and edits that touch nothing else of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

# A word with its hyphens, the tail of a contraction ("'s"), or any other visible character.
# The first alternative is for speed alone: the second would find the same plain words.
WORD = re.compile(r"[a-zA-Z]+(?![-\w])|[^\W_]+(?:-[^\W_]+)*|['\u2019][^\W_]+|\S")
# Spelt with a vowel but spoken with a consonant, and the other way round.
SPOKEN_CONSONANT = re.compile(r"(uni(?!n|m)|us[eu]|eu|ewe|one(?![a-z])|once|u(?![a-z]))", re.IGNORECASE)
SPOKEN_VOWEL = re.compile(r"(hour|honest|honor|honour|heir|[fhlmnrsx](?![a-z]))", re.IGNORECASE)


@dataclass(slots=True)  # the fastest to make and to read of what Python has
class Token:
    """A word or sign of a caption.

    Attributes:
        start: where it begins in the caption.
        end: where it ends.
        text: `caption[start:end]`.
        pos: its coarse class as in Universal Dependencies: NOUN, ADJ, VERB, ADP, ...
        tag: its Penn Treebank tag: NN, NNS, VBG, ...
        lemma: its dictionary form in lower case.
    """

    start: int
    end: int
    text: str
    pos: str
    tag: str
    lemma: str

    @property
    def plural(self) -> bool:
        """Whether it is a noun in the plural."""
        return self.tag in ("NNS", "NNPS")


Span = tuple[int, int]  # tokens [first, last)


def split(caption: str) -> list[tuple[int, int, str]]:
    """Start, end and text of each word and sign."""
    found, end = [], 0
    for word in WORD.findall(caption):  # to look each up again is quicker than to ask a match for its place
        start = caption.index(word, end)
        end = start + len(word)
        found.append((start, end, word))
    return found


def edit(caption: str, tokens: Sequence[Token], changes: Mapping[Span, str]) -> str:
    """The caption with the tokens of each span exchanged for a text.

    Whatever lies between is kept to the character, except "a" and "an" before a changed word, and the
    capital that begins the caption.
    """
    parts, at = [], 0
    for (first, last), text in sorted(changes.items()):
        head = caption[at : tokens[first].start]
        before = tokens[first - 1] if first else None
        if before and before.lemma in ("a", "an") and before.start >= at:
            gap = caption[before.end : tokens[first].start]
            head = caption[at : before.start] + _cased(article(text), before.text) + gap
        if tokens[first].text[:1].isupper() and begins(tokens, first):
            text = text[:1].upper() + text[1:]
        parts += [head, text]
        at = tokens[last - 1].end
    return "".join([*parts, caption[at:]])


def swap(caption: str, tokens: Sequence[Token], one: Span, other: Span) -> str:
    """The caption with two spans exchanged, each in the case of its new place."""
    changes = {one: lowered(caption, tokens, other), other: lowered(caption, tokens, one)}
    return edit(caption, tokens, changes)


def lowered(caption: str, tokens: Sequence[Token], span: Span) -> str:
    """The text of a span, without the capital that it has only because it begins a sentence."""
    text = caption[tokens[span[0]].start : tokens[span[1] - 1].end]
    if text[:1].islower() or not begins(tokens, span[0]):
        return text
    if tokens[span[0]].pos == "PROPN" or text[1:2].isupper():
        return text
    return text[:1].lower() + text[1:]


def part(caption: str, tokens: Sequence[Token], span: Span) -> tuple[str, list[Token]]:
    """The text of a span, as `lowered` gives it, and its tokens by their places in it."""
    text, start = lowered(caption, tokens, span), tokens[span[0]].start
    found = [replace(t, start=t.start - start, end=t.end - start) for t in tokens[slice(*span)]]
    found[0] = replace(found[0], text=text[: found[0].end])
    return text, found


def begins(tokens: Sequence[Token], at: int) -> bool:
    """Whether a token begins a sentence."""
    return not at or tokens[at - 1].text in (".", "!", "?")


def article(text: str) -> str:
    """The indefinite article that goes before a text: "a" or "an"."""
    if SPOKEN_CONSONANT.match(text):
        return "a"
    return "an" if text[:1].lower() in "aeiou" or SPOKEN_VOWEL.match(text) else "a"


def _cased(text: str, like: str) -> str:
    return text.capitalize() if like[:1].isupper() else text
