"""The recipe `phrases`: units of a caption, each with a foil, as in CS-CLIP (Kargi et al., 2026).

The units are the paper's: entities with their attributes, and relations between two of them. They are
stretches of the caption; the rules, and those for the foils, are ours.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence, Set

from open_clip_ext.language import words
from open_clip_ext.language.entailment import SILENT
from open_clip_ext.language.inflection import inflected
from open_clip_ext.language.phrases import AND, NOUN_PHRASE, RELATION, VERB, Phrase, phrases
from open_clip_ext.language.things import entities, head, is_thing, joined
from open_clip_ext.language.words import Span, Token
from open_clip_ext.negatives.recipes.rules import Rules
from open_clip_ext.negatives.recipes.swap import BOUND, NO_PROPERTY
from open_clip_ext.negatives.records import FOIL, PHRASE, Candidate

FOILS = 4  # proposed for a phrase; the gate takes the first that is good
# What follows these is no second thing of a relation; and "without" would tell a foil by itself.
APART = BOUND | {"without"}


class Phrases(Rules):
    """An entity is a noun phrase, its foil has another attribute or noun.

    A relation is the first entity of a clause, what relates it to the next, and that; its foil has the two
    exchanged, or another relation or verb. A phrase without a foil is stored all the same.
    """

    name = "phrases"
    version = "1"
    types = ("entity", "relation")
    kinds = (PHRASE, FOIL)

    def propose(self, caption: str, tokens: Sequence[Token], rng: random.Random) -> Iterator[Candidate]:
        """Units of each type in random order, each followed by its foils."""
        found = phrases(tokens)
        there = {token.lemma for token in tokens}
        for type, spans, edits in (
            ("entity", entities(tokens, found), self.entity_foils),
            ("relation", relations(tokens, found), self.relation_foils),
        ):
            units = []
            for span in rng.sample(spans, len(spans)):
                text, its = words.part(caption, tokens, span)
                units.append((text, list(edits(text, its, there, rng))[:FOILS]))
            # Those that have foils come first, so that the others take no place from them.
            for text, foils in sorted(units, key=lambda unit: not unit[1]):
                yield Candidate(type, text, PHRASE)
                for foil in foils:
                    yield Candidate(type, foil, FOIL, of=text)

    def entity_foils(
        self, text: str, tokens: Sequence[Token], there: Set[str], rng: random.Random
    ) -> Iterator[str]:
        """An attribute or the noun exchanged for another of its family."""
        places = [i for i, t in enumerate(tokens) if t.pos == "ADJ" and t.lemma not in NO_PROPERTY]
        if len(tokens) < 2 or tokens[-2].pos != "NOUN":  # half of a name is another thing: "hot dog stand"
            places.append(len(tokens) - 1)
        return self.replaced(text, tokens, places, there, rng)

    def relation_foils(
        self, text: str, tokens: Sequence[Token], there: Set[str], rng: random.Random
    ) -> Iterator[str]:
        """The sides exchanged, or another relation or verb between them."""
        found = phrases(tokens)
        nouns = [phrase for phrase in found if phrase.category == NOUN_PHRASE]
        one, other = head(tokens, nouns[0]), head(tokens, nouns[-1])
        a, b = tokens[one[1] - 1], tokens[other[1] - 1]
        swapped = [words.swap(text, tokens, one, other)] if a.plural == b.plural and self.differ(a, b) else []
        edits = [swapped, *self._links(text, tokens, found, there)]
        for texts in rng.sample(edits, len(edits)):
            yield from rng.sample(texts, min(len(texts), self.proposals))

    def _links(
        self, text: str, tokens: Sequence[Token], found: Sequence[Phrase], there: Set[str]
    ) -> Iterator[list[str]]:
        """For each relation and verb the texts with another one."""
        for link in found:
            if link.category in (RELATION, VERB):
                pos, tag = ("ADP", "IN") if link.category == RELATION else ("VERB", tokens[link.first].tag)
                others = (w for w in self.lexicon.others(link.words, pos) if w not in there | APART)
                forms = filter(None, (inflected(other, tag) for other in others))
                yield [words.edit(text, tokens, {link.span: form}) for form in forms]


def relations(tokens: Sequence[Token], found: Sequence[Phrase]) -> list[Span]:
    """From the first thing of a clause to the next one, which has to be right after what relates them.

    What comes later may belong to either: in "a man in a shirt on a horse", no shirt is on a horse.
    """
    units = []
    parts = joined(tokens, found)
    for start, phrase in enumerate(parts):
        begins = all(before.words in SILENT for before in parts[:start])
        if not (is_thing(tokens, phrase) and (begins or parts[start - 1].words == "while")):
            continue
        at = start + 1
        if at + 1 < len(parts) and parts[at].category == AND and is_thing(tokens, parts[at + 1]):
            at += 2
        link = at
        while at < len(parts) and parts[at].category in (RELATION, VERB) and parts[at].words not in APART:
            at += 1
        if link < at < len(parts) and is_thing(tokens, parts[at]):
            units.append((phrase.first, parts[at].last))
    return units
