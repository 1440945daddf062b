"""The phrases of a tagged caption: noun phrases, relations, verbs and what joins them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from open_clip_ext.negatives.lexicon import relations
from open_clip_ext.negatives.words import Span, Token

Kind = Literal["noun phrase", "verb", "relation", "adjective", "and", "comma", "other"]
NOUNS = ("NOUN", "PROPN")
BEFORE_NOUN = ("DET", "NUM", "ADJ", *NOUNS)


@dataclass(frozen=True)
class Phrase:
    """A stretch of tokens.

    Attributes:
        kind: what it is.
        first: its first token.
        last: one past its last token.
        words: of a relation of several words, those words; else its tokens' lemmas joined.
    """

    kind: Kind
    first: int
    last: int
    words: str = ""

    @property
    def span(self) -> Span:
        """Its tokens as a span."""
        return self.first, self.last


def phrases(tokens: Sequence[Token]) -> list[Phrase]:
    """The caption as a sequence of phrases; every token is in one."""
    found = []
    at = 0
    while at < len(tokens):
        phrase = _phrase(tokens, at)
        found.append(phrase)
        at = phrase.last
    return found


def modifiers(tokens: Sequence[Token], phrase: Phrase) -> Iterator[int]:
    """The tokens of a noun phrase before its head that are no article and no sign."""
    for i in range(phrase.first, phrase.last - 1):
        if tokens[i].pos not in ("DET", "PUNCT", "CCONJ", "PART"):
            yield i


def _phrase(tokens: Sequence[Token], at: int) -> Phrase:
    if words := _long_relation(tokens, at):
        return Phrase("relation", at, at + len(words), " ".join(words))
    token = tokens[at]
    if end := _noun_phrase_end(tokens, at):
        return Phrase("noun phrase", at, end)
    if token.pos in ("VERB", "AUX"):
        return Phrase("verb", at, at + 1, token.lemma)
    if token.pos == "ADP":
        return Phrase("relation", at, at + 1, token.text.lower())
    if token.pos == "ADJ":
        return Phrase("adjective", at, at + 1, token.lemma)
    if token.lemma == "and":
        return Phrase("and", at, at + 1, "and")
    return Phrase("comma" if token.text == "," else "other", at, at + 1, token.lemma)


def _noun_phrase_end(tokens: Sequence[Token], at: int) -> int:
    """One past the noun phrase that begins at a token; 0 if none does."""
    end, i = 0, at
    while i < len(tokens):
        token = tokens[i]
        if token.pos in BEFORE_NOUN or token.tag == "PRP$":
            if end and token.pos not in NOUNS:
                break
            end = i + 1 if token.pos in NOUNS else end
        elif token.tag == "POS" and end:  # "the man's hat"
            after = _noun_phrase_end(tokens, i + 1)
            return after or end
        elif not (
            # "black and white dog", "a tall, thin man"
            not end
            and (token.lemma == "and" or token.text == ",")
            and i > at
            and tokens[i - 1].pos == "ADJ"
            and i + 1 < len(tokens)
            and tokens[i + 1].pos == "ADJ"
        ):
            break
        i += 1
    return end


def _long_relation(tokens: Sequence[Token], at: int) -> tuple[str, ...]:
    """The relation of several words that begins at a token, such as "in front of"; or nothing."""
    for words in _long_relations().get(tokens[at].text.lower(), ()):
        if tuple(token.text.lower() for token in tokens[at : at + len(words)]) == words:
            return words
    return ()


@lru_cache(maxsize=1)
def _long_relations() -> dict[str, list[tuple[str, ...]]]:
    """By their first word, the longest first."""
    found: dict[str, list[tuple[str, ...]]] = {}
    for words in sorted((tuple(name.split()) for name in relations()), key=len, reverse=True):
        if len(words) > 1:
            found.setdefault(words[0], []).append(words)
    return found
