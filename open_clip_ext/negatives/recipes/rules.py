"""What every generator by rules has: a tagger, a seed, and proposals for one caption after another."""

from __future__ import annotations

import random
from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import combinations
from typing import Any, ClassVar

from open_clip_ext.language import words
from open_clip_ext.language.inflection import inflected
from open_clip_ext.language.lexicon import Lexicon
from open_clip_ext.language.phrases import Phrase
from open_clip_ext.language.taggers import tagger as find_tagger
from open_clip_ext.language.things import common, head
from open_clip_ext.language.words import Span, Token
from open_clip_ext.negatives.records import NEGATIVE, Candidate, draw


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
