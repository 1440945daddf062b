"""What every generator by rules has: a tagger, a seed, and proposals for one caption after another."""

from __future__ import annotations

import random
from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import combinations
from typing import Any, ClassVar

from open_clip_ext.negatives.language import words
from open_clip_ext.negatives.language.inflection import inflected
from open_clip_ext.negatives.language.lexicon import Lexicon
from open_clip_ext.negatives.language.phrases import NOUN_PHRASE, Phrase, phrases
from open_clip_ext.negatives.language.taggers import tagger as find_tagger
from open_clip_ext.negatives.language.words import Span, Token
from open_clip_ext.negatives.records import NEGATIVE, Candidate, draw

# What a caption says that it is: "a picture of a cat".
PICTURES = frozenset(("picture", "photo", "photograph", "image", "view", "shot", "close-up", "closeup"))


class Rules:
    """A generator that proposes texts for one caption at a time.

    Args:
        seed: of the choices.
        tagger: "textblob", or a spaCy model by its name or folder; "auto" is spaCy's small English
            model where it is installed and TextBlob where not.
        wordnet: whether to use WordNet where nltk and its data are installed.
    """

    name: ClassVar[str]
    version: ClassVar[str]
    types: ClassVar[tuple[str, ...]]
    kinds: ClassVar[tuple[str, ...]] = (NEGATIVE,)
    cheap = True
    # Per type and caption; the gate takes the first that are good.
    proposals = 2

    def __init__(self, *, seed: int = 0, tagger: str = "auto", wordnet: bool = True) -> None:
        self.seed = seed
        self.tagger = find_tagger(tagger)
        self.lexicon = Lexicon(wordnet)

    def identity(self) -> dict[str, Any]:
        """Seed, tagger and lexicon."""
        return {"seed": self.seed, "tagger": self.tagger.name, "lexicon": self.lexicon.name}

    def generate(self, captions: Sequence[str]) -> Iterator[tuple[int, list[Candidate]]]:
        """The proposals for each caption, in order."""
        for index, (caption, tokens) in enumerate(zip(captions, self.tagger.tag(captions), strict=True)):
            rng = draw(self.seed, self.name, caption)
            yield index, list(self.propose(caption, tokens, rng))

    def propose(self, caption: str, tokens: Sequence[Token], rng: random.Random) -> Iterator[Candidate]:
        """Proposals for a caption, the preferred ones of each type first."""
        raise NotImplementedError

    def swaps(
        self,
        type: str,
        caption: str,
        tokens: Sequence[Token],
        pairs: Iterable[tuple[Span, Span]],
        rng: random.Random,
    ) -> Iterator[Candidate]:
        """Some of the pairs of spans, exchanged."""
        pairs = list(pairs)
        for one, other in rng.sample(pairs, min(len(pairs), self.proposals)) if len(pairs) > 1 else pairs:
            yield Candidate(type, words.swap(caption, tokens, one, other))

    def replaced(
        self,
        text: str,
        tokens: Sequence[Token],
        places: Iterable[int],
        there: Container[str],
        rng: random.Random,
    ) -> Iterator[str]:
        """One word at a time exchanged for another of its family that is not among those `there`."""
        options = [
            (i, other)
            for i in places
            for other in self.lexicon.others(tokens[i].lemma, tokens[i].pos)
            if other not in there
        ]
        for i, other in rng.sample(options, min(len(options), self.proposals)):
            if form := inflected(other, tokens[i].tag):
                yield words.edit(text, tokens, {(i, i + 1): form})

    def noun_pairs(self, tokens: Sequence[Token], found: Sequence[Phrase]) -> Iterator[tuple[Span, Span]]:
        """Nouns of two phrases, both singular or both plural, of which neither is a sort of the other."""
        for one, other in combinations([head(tokens, p) for p in found if common(tokens, p)], 2):
            a, b = tokens[one[1] - 1], tokens[other[1] - 1]
            if a.plural == b.plural and self.differ(a, b):
                yield one, other

    def differ(self, one: Token, other: Token) -> bool:
        """Whether one of two words cannot stand for the other."""
        return self.lexicon.relation(one.lemma, other.lemma, one.pos) in ("unknown", "excluded")


def noun_phrases(tokens: Sequence[Token]) -> list[Phrase]:
    """The noun phrases of a caption."""
    return [phrase for phrase in phrases(tokens) if phrase.category == NOUN_PHRASE]


def common(tokens: Sequence[Token], phrase: Phrase) -> bool:
    """Whether the head of a noun phrase is no name."""
    return tokens[phrase.last - 1].pos == "NOUN"


def sound(tokens: Sequence[Token], phrase: Phrase) -> bool:
    """Whether a noun phrase has no verb in it that was taken for a noun: "a man jumps", "two girls dance"."""
    its = tokens[phrase.first : phrase.last]
    one = its[0].lemma in ("a", "an") and its[1:2] != [] and its[1].lemma not in ("few", "dozen", "couple")
    return not (one and its[-1].plural) and not any(token.plural for token in its[:-1])


def head(tokens: Sequence[Token], phrase: Phrase) -> Span:
    """The noun at the end of a noun phrase, with the nouns right before it: "ice cream"."""
    first = phrase.last - 1
    while first > phrase.first and tokens[first - 1].pos == "NOUN":
        first -= 1
    return first, phrase.last
