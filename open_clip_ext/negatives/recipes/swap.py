"""The recipe `swap`: two spans of one class change places, as in NegCLIP (Yuksekgonul et al., ICLR 2023)."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise

from open_clip_ext.language.phrases import NOUN_PHRASE, RELATION, Phrase, phrases
from open_clip_ext.language.things import common, head
from open_clip_ext.language.words import Span, Token
from open_clip_ext.negatives.recipes.rules import Rules
from open_clip_ext.negatives.records import Candidate

# No properties of a thing: they say which or how many.
NO_PROPERTY = frozenset(
    (
        *("other", "same", "next", "many", "several", "few", "such", "more", "most", "various", "different"),
        *("own", "each", "another", "first", "last", "front", "main", "certain", "much", "only", "similar"),
    )
)
# Relations that belong to a word rather than to what it relates: "piece of", "look at", "as if".
BOUND = frozenset(
    ("of", "to", "as", "like", "for", "than", "while", "up", "out", "that", "if", "because", "so")
)
FINITE = frozenset(("VBZ", "VBP", "VBD", "MD"))


class Swap(Rules):
    """Exchanges two nouns, noun phrases, adjectives, verbs or relations of a caption."""

    name = "swap"
    version = "1"
    types = ("swap_noun", "swap_phrase", "swap_adj", "swap_verb", "swap_relation")

    def propose(self, caption: str, tokens: Sequence[Token], rng: random.Random) -> Iterator[Candidate]:
        """Some exchanges of each type."""
        found = phrases(tokens)
        nouns = [phrase for phrase in found if phrase.category == NOUN_PHRASE]
        pairs = (
            self.noun_pairs(tokens, nouns),
            self.phrase_pairs(tokens, nouns),
            self.adjective_pairs(tokens, nouns),
            self.verb_pairs(tokens),
            self.relation_pairs(found),
        )
        for type, pair in zip(self.types, pairs, strict=True):
            yield from self.swaps(type, caption, tokens, pair, rng)

    def phrase_pairs(self, tokens: Sequence[Token], nouns: Sequence[Phrase]) -> Iterator[tuple[Span, Span]]:
        """Whole noun phrases that differ in more than the noun, agreeing in number if a verb does."""
        placed = [
            (
                phrase.span,
                tokens[phrase.last - 1],
                [t.lemma for t in tokens[phrase.first : head(tokens, phrase)[0]]],
            )
            for phrase in nouns
            if common(tokens, phrase)
        ]
        for (one, a, rest), (other, b, other_rest) in combinations(placed, 2):
            if rest != other_rest and self.differ(a, b) and (a.plural == b.plural or not finite(tokens)):
                yield one, other

    def adjective_pairs(
        self, tokens: Sequence[Token], nouns: Sequence[Phrase]
    ) -> Iterator[tuple[Span, Span]]:
        """Adjectives of two noun phrases."""
        placed = [
            (i, phrase)
            for phrase in nouns
            for i in range(phrase.first, phrase.last)
            if tokens[i].pos == "ADJ" and tokens[i].lemma not in NO_PROPERTY
        ]
        for (i, one), (j, other) in combinations(placed, 2):
            if one is not other and self.differ(tokens[i], tokens[j]):
                yield (i, i + 1), (j, j + 1)

    def verb_pairs(self, tokens: Sequence[Token]) -> Iterator[tuple[Span, Span]]:
        """Verbs of the same form."""
        verbs = [i for i, token in enumerate(tokens) if token.pos == "VERB"]
        for i, j in combinations(verbs, 2):
            if tokens[i].tag == tokens[j].tag and self.differ(tokens[i], tokens[j]):
                yield (i, i + 1), (j, j + 1)

    def relation_pairs(self, found: Sequence[Phrase]) -> Iterator[tuple[Span, Span]]:
        """Relations, each before a noun phrase, that do not say the same."""
        placed = [
            phrase
            for phrase, after in pairwise(found)
            if phrase.category == RELATION and after.category == NOUN_PHRASE and phrase.words not in BOUND
        ]
        for one, other in combinations(placed, 2):
            if self.lexicon.relation(one.words, other.words, "ADP") != "same":
                yield one.span, other.span


def finite(tokens: Sequence[Token]) -> bool:
    """Whether a caption has a finite verb, which may have to agree with its subject."""
    return not FINITE.isdisjoint([token.tag for token in tokens])
