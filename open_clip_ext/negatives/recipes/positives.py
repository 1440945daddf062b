"""The recipe `positives`: minimal edits that keep what a caption says."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from open_clip_ext.negatives.language import words
from open_clip_ext.negatives.language.entailment import PLACES, EntailmentChecker
from open_clip_ext.negatives.language.inflection import inflected
from open_clip_ext.negatives.language.phrases import AND, NOUN_PHRASE, RELATION, Phrase, phrases
from open_clip_ext.negatives.language.words import Token
from open_clip_ext.negatives.recipes.rules import Rules
from open_clip_ext.negatives.records import POSITIVE, Candidate

# Relations that can mean the same, but cannot stand for one another anywhere.
LOOSE = frozenset(("in", "on", "at", "by", "into", "within", "inside", "onto", "upon", "as", "along", "down"))


class Positives(Rules):
    """A synonym in place of a word, the two sides of an "and" exchanged, or clauses in another order."""

    name = "positives"
    version = "1"
    types = ("synonym", "exchange", "clause_order")
    kinds = (POSITIVE,)

    def __init__(self, *, seed: int = 0, tagger: str = "auto", wordnet: bool = True) -> None:
        super().__init__(seed=seed, tagger=tagger, wordnet=wordnet)
        self._judge = EntailmentChecker(self.lexicon)

    def propose(self, caption: str, tokens: Sequence[Token], rng: random.Random) -> Iterator[Candidate]:
        """Some texts of each type."""
        found = phrases(tokens)
        for type, edits in (
            ("synonym", self.synonyms),
            ("exchange", self.exchanges),
            ("clause_order", self.clauses),
        ):
            texts = list(edits(caption, tokens, found))
            for text in rng.sample(texts, min(len(texts), self.proposals)):
                if text != caption and self._same(tokens, text):
                    yield Candidate(type, text, POSITIVE)

    def synonyms(self, caption: str, tokens: Sequence[Token], found: Sequence[Phrase]) -> Iterator[str]:
        """One noun, adjective, verb or relation exchanged for another word for it, in the same form."""
        for phrase in found:
            if phrase.category == RELATION:
                for other in self.lexicon.synonyms(phrase.words, "ADP"):
                    if LOOSE.isdisjoint((phrase.words, other)):
                        yield words.edit(caption, tokens, {phrase.span: other})
                continue
            for i in range(*phrase.span):
                # A word before a noun may be half of a name for something else: "hot dog", "park bench".
                if tokens[i].pos == "NOUN" and (i + 1 < phrase.last or _compound(tokens, i, phrase)):
                    continue
                for other in self.lexicon.synonyms(tokens[i].lemma, tokens[i].pos):
                    if text := inflected(other, tokens[i].tag):
                        yield words.edit(caption, tokens, {(i, i + 1): text})

    def exchanges(self, caption: str, tokens: Sequence[Token], found: Sequence[Phrase]) -> Iterator[str]:
        """Two noun phrases around an "and", unless what follows may belong to one of them alone."""
        for at in range(1, len(found) - 1):
            one, other = found[at - 1], found[at + 1]
            if found[at].category == AND and one.category == other.category == NOUN_PHRASE:
                before, after = found[: at - 1], found[at + 2 :]
                alone = not before or before[-1].category != RELATION or not after
                if alone and (not after or after[0].category != RELATION or self._place(tokens, after)):
                    yield words.swap(caption, tokens, one.span, other.span)

    def clauses(self, caption: str, tokens: Sequence[Token], found: Sequence[Phrase]) -> Iterator[str]:
        """The two clauses around a "while" exchanged: "while Y, X"."""
        sign = "." if tokens and tokens[-1].text == "." else ""
        end = tokens[-1].start if sign else len(caption)
        for phrase in found:
            if phrase.words == "while" and phrase.first:
                first = words.lowered(caption, tokens, (0, phrase.first))
                second = caption[tokens[phrase.last].start : end] if phrase.last < len(tokens) else ""
                # "A man sits while eating": the second half has no subject of its own.
                if any(p.category == NOUN_PHRASE for p in found if p.first == phrase.last):
                    opening = "While" if tokens[0].text[:1].isupper() else "while"
                    gap = " " if caption[:end].endswith(" ") else ""
                    yield f"{opening} {second.strip()}, {first.strip(' ,')}{gap}{sign}"

    def _place(self, tokens: Sequence[Token], after: Sequence[Phrase]) -> bool:
        """Whether "in the park" follows, which belongs to all that is said before."""
        if len(after) < 2 or after[1].category != NOUN_PHRASE:
            return False
        head = tokens[after[1].last - 1].lemma
        return any(self.lexicon.relation(head, place, "NOUN") in ("same", "implied") for place in PLACES)

    def _same(self, tokens: Sequence[Token], text: str) -> bool:
        return self._judge.form(tokens) == self._judge.form(next(iter(self.tagger.tag([text]))))


def _compound(tokens: Sequence[Token], i: int, phrase: Phrase) -> bool:
    return i > phrase.first and tokens[i - 1].pos in ("NOUN", "PROPN")
