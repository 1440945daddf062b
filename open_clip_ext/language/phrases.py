"""The phrases of a tagged caption: noun phrases, relations, verbs and what joins them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from open_clip_ext.language.lexicon import relations
from open_clip_ext.language.words import Span, Token

NOUN_PHRASE, RELATION, VERB, ADJECTIVE, AND, COMMA, OTHER = (
    "noun phrase",
    "relation",
    "verb",
    "adjective",
    "and",
    "comma",
    "other",
)
# One letter for each token, so that a regular expression finds the phrases.
LETTERS = {
    "NOUN": "N", "PROPN": "N", "DET": "D", "NUM": "D", "ADJ": "J", "VERB": "V", "AUX": "V", "ADP": "R",
}  # fmt: skip
# Articles, numbers and adjectives ("black and white", "tall, thin"), then nouns; "the man's" before it.
DESCRIBED = "(?:[DJ]|(?<=J)[AK](?=J))*N+"
PHRASES = re.compile(f"({DESCRIBED}(?:S{DESCRIBED})*)|(Rr*)|(V)|(J)|(A)|(K)|.")
CATEGORIES = (OTHER, NOUN_PHRASE, RELATION, VERB, ADJECTIVE, AND, COMMA)


@dataclass(slots=True)
class Phrase:
    """A stretch of tokens.

    Attributes:
        category: NOUN_PHRASE, RELATION or another of CATEGORIES.
        first: its first token.
        last: one past its last token.
        words: the words of a relation; the lemma of any other phrase of one word.
    """

    category: str
    first: int
    last: int
    words: str

    @property
    def span(self) -> Span:
        """Its tokens as a span."""
        return self.first, self.last


# The tokens asked for last and their phrases: a generator and the judge ask for the same ones.
# One pair, so that threads cannot mix two.
_last: tuple[Sequence[Token], Sequence[Phrase]] = ((), ())


def phrases(tokens: Sequence[Token]) -> Sequence[Phrase]:
    """The caption as a sequence of phrases; every token is in one. The tokens must not be changed later."""
    global _last
    last = _last
    if tokens is not last[0]:
        last = _last = (tokens, _phrases(tokens))
    return last[1]


def _phrases(tokens: Sequence[Token]) -> list[Phrase]:
    letters = [LETTERS.get(token.pos) or _rare(token) for token in tokens]
    long = _long_relations()
    lower = [token.text.lower() for token in tokens]
    for at, begun in enumerate(map(long.get, pairwise(lower))):
        for words in begun or ():
            if lower[at : at + len(words)] == words:
                letters[at : at + len(words)] = "R" + "r" * (len(words) - 1)
                break
    found = []
    for category, first, last in _categories("".join(letters)):
        if category is NOUN_PHRASE:
            text = ""
        elif category is RELATION:
            text = " ".join(lower[first:last])
        else:
            text = tokens[first].lemma
        found.append(Phrase(category, first, last, text))
    return found


def _rare(token: Token) -> str:
    if token.tag == "PRP$":
        return "D"
    if token.tag == "POS":
        return "S"
    if token.lemma == "and":
        return "A"
    return "K" if token.text == "," else "O"


@lru_cache(maxsize=1 << 14)
def _categories(letters: str) -> list[tuple[str, int, int]]:
    """Category, first token and one past the last one of each phrase."""
    return [(CATEGORIES[m.lastindex or 0], m.start(), m.end()) for m in PHRASES.finditer(letters)]


@lru_cache(maxsize=1)
def _long_relations() -> dict[tuple[str, str], list[list[str]]]:
    """By their first two words, the longest first."""
    found: dict[tuple[str, str], list[list[str]]] = {}
    for words in sorted((name.split() for name in relations()), key=len, reverse=True):
        if len(words) > 1:
            found.setdefault((words[0], words[1]), []).append(words)
    return found
