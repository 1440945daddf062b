"""The recipe `positives`: minimal edits that keep what a caption says, of the kinds that negatives have."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from open_clip_ext.language import words
from open_clip_ext.language.entailment import PLACES, SYMMETRIC, EntailmentChecker
from open_clip_ext.language.inflection import inflected
from open_clip_ext.language.phrases import AND, NOUN_PHRASE, RELATION, Phrase, phrases
from open_clip_ext.language.words import Token
from open_clip_ext.negatives.recipes.rules import Rules
from open_clip_ext.negatives.recipes.swap import finite
from open_clip_ext.negatives.records import POSITIVE, Candidate

CLASSES = {"ADJ": "replace_adj", "NOUN": "replace_noun", "VERB": "replace_verb", "ADP": "replace_relation"}
# Words that can mean the same as another, but cannot stand for it anywhere.
LOOSE = frozenset(
    (
        *("in", "on", "at", "by", "into", "within", "inside", "onto", "upon", "as", "along", "down", "over"),
        *("watch", "don", "do", "make", "someone", "somebody", "people"),
    )
)


class Positives(Rules):
    """The edits of the negatives, where they keep what is said.

    A type has the name of the negatives that are edited in the same way, so that neither the words that an
    edit touches nor how many they are tell whether a text is true.
    """

    name = "positives"
    version = "2"
    types = (
        *("reshuffle", "swap_noun", "swap_adj"),
        *("replace_adj", "replace_noun", "replace_verb", "replace_relation"),
    )
    kinds = (POSITIVE,)

    def __init__(self, *, seed: int = 0, tagger: str = "auto", wordnet: bool = True) -> None:
        super().__init__(seed=seed, tagger=tagger, wordnet=wordnet)
        self._judge = EntailmentChecker(self.lexicon)

    def propose(self, caption: str, tokens: Sequence[Token], rng: random.Random) -> Iterator[Candidate]:
        """Some texts of each type."""
        found = phrases(tokens)
        replaced = self.synonyms(caption, tokens, found)
        for type, texts in (
            ("reshuffle", [*self.clauses(caption, tokens, found)]),
            ("swap_noun", [*self.conjuncts(caption, tokens, found), *self.sides(caption, tokens, found)]),
            ("swap_adj", [*self.attributes(caption, tokens)]),
            *replaced.items(),
        ):
            for text in rng.sample(texts, min(len(texts), self.proposals)):
                if text != caption and self._same(tokens, text):
                    yield Candidate(type, text, POSITIVE)

    def synonyms(
        self, caption: str, tokens: Sequence[Token], found: Sequence[Phrase]
    ) -> dict[str, list[str]]:
        """By type: an adjective, noun, verb or relation exchanged for another word for it, in its form."""
        texts: dict[str, list[str]] = {type: [] for type in CLASSES.values()}
        for phrase in found:
            if phrase.category == RELATION:
                for other in self.lexicon.synonyms(phrase.words, "ADP"):
                    if LOOSE.isdisjoint((phrase.words, other)):
                        texts["replace_relation"].append(words.edit(caption, tokens, {phrase.span: other}))
                continue
            for i in range(*phrase.span):
                # A word before a noun may be half of a name for something else: "hot dog", "park bench".
                if tokens[i].pos == "NOUN" and (i + 1 < phrase.last or _compound(tokens, i, phrase)):
                    continue
                for other in self.lexicon.synonyms(tokens[i].lemma, tokens[i].pos):
                    type, text = CLASSES.get(tokens[i].pos), inflected(other, tokens[i].tag)
                    if type and text and LOOSE.isdisjoint((tokens[i].lemma, other)):
                        texts[type].append(words.edit(caption, tokens, {(i, i + 1): text}))
        return texts

    def conjuncts(self, caption: str, tokens: Sequence[Token], found: Sequence[Phrase]) -> Iterator[str]:
        """Two noun phrases around an "and", unless what follows may belong to one of them alone."""
        for at in range(1, len(found) - 1):
            one, other = found[at - 1], found[at + 1]
            if found[at].category == AND and one.category == other.category == NOUN_PHRASE:
                before, after = found[: at - 1], found[at + 2 :]
                alone = not before or before[-1].category != RELATION or not after
                more = AND in [phrase.category for phrase in (*before[-1:], *after[:1])]
                if (
                    alone
                    and not more
                    and not _points_back(tokens[one.first : other.last])
                    and (not after or after[0].category != RELATION or self._place(tokens, after))
                ):
                    yield words.swap(caption, tokens, one.span, other.span)

    def sides(self, caption: str, tokens: Sequence[Token], found: Sequence[Phrase]) -> Iterator[str]:
        """The two sides of "next to": the first of a caption, with no verb but "is" between them.

        Not where one of them points back to the other ("his dog", "another dog"), nor where a verb would
        have to agree with another number.
        """
        at = 2 if len(found) > 1 and found[1].words == "be" else 1
        if len(found) <= at + 1 or found[0].category != NOUN_PHRASE or found[at + 1].category != NOUN_PHRASE:
            return
        one, other = found[0].span, found[at + 1].span
        nouns = tokens[one[1] - 1], tokens[other[1] - 1]
        agree = nouns[0].plural == nouns[1].plural or not finite(tokens)
        if found[at].words in SYMMETRIC and agree and not _points_back(tokens[: other[1]]):
            yield words.swap(caption, tokens, one, other)

    def attributes(self, caption: str, tokens: Sequence[Token]) -> Iterator[str]:
        """Two adjectives around an "and": "black and white"."""
        for i in range(1, len(tokens) - 1):
            if [t.pos if t.lemma != "and" else "and" for t in tokens[i - 1 : i + 2]] == ["ADJ", "and", "ADJ"]:
                yield words.swap(caption, tokens, (i - 1, i), (i + 1, i + 2))

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


def _points_back(tokens: Sequence[Token]) -> bool:
    """Whether a word stands for something said before: "his dog", "another dog"."""
    return any(token.tag == "PRP$" or token.lemma in ("another", "other") for token in tokens)
