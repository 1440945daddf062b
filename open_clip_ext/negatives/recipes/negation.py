"""The recipe `negation`: captions that deny what is there, and captions that deny what is not.

The first are the untrue captions of CoN-CLIP (Singh et al., WACV 2025), the second the true ones of
Omni-NegCLIP (Xu, 2026). The rules are ours.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise
from typing import Any

from open_clip_ext.language import words
from open_clip_ext.language.company import Company
from open_clip_ext.language.denial import names, negated
from open_clip_ext.language.phrases import AND, COMMA, NOUN_PHRASE, VERB, Phrase, phrases
from open_clip_ext.language.things import PICTURES, common, sound
from open_clip_ext.language.words import Token
from open_clip_ext.negatives.recipes.rules import Rules
from open_clip_ext.negatives.recipes.swap import FINITE, NO_PROPERTY
from open_clip_ext.negatives.records import ABSENCE, NEGATIVE, Candidate

HAVING = frozenset(("have", "hold", "wear", "carry"))
RELATIVE = frozenset(("that", "which", "who", "while", "as"))
AMOUNTS = frozenset(("lot", "couple", "bunch", "number", "variety", "pair"))  # "no lot of" is no English
SPARE = 4  # things that are proposed as absent beyond those that are wanted: other captions may name some
ABSENT = ("{}, but there is no {}", "{}, with no {} in sight")
DO = {"VBZ": "does not", "VBP": "do not", "VB": "do not"}


class Negation(Rules):
    """Denies the subject, another thing or a verb (`neg`), or adds that something is not there (`absence`).

    What is denied as absent is named by no caption of the picture, and comes with what the caption names
    in other pictures of the data.
    """

    name = "negation"
    version = "1"
    types = ("no_subject", "no_object", "not_verb", "absent")
    kinds = (NEGATIVE, ABSENCE)

    def __init__(self, *, seed: int = 0, tagger: str = "auto", wordnet: bool = True) -> None:
        super().__init__(seed=seed, tagger=tagger, wordnet=wordnet)
        self._company = Company(self.lexicon)

    def survey(self, pictures: Iterable[Sequence[str]]) -> None:
        """Learn from the captions of each picture which things come together."""
        self._company.learn(pictures)

    def identity(self) -> dict[str, Any]:
        """Seed, tagger, lexicon, and what was learned."""
        return {**super().identity(), "company": self._company.digest}

    def propose(self, caption: str, tokens: Sequence[Token], rng: random.Random) -> Iterator[Candidate]:
        """Some texts of each type; none of a caption that denies something itself."""
        if negated(tokens):
            return
        found = phrases(tokens)
        for type, edits in zip(self.types, (self.subject, self.objects, self.verbs), strict=False):
            texts = list(edits(caption, tokens, found))
            for text in rng.sample(texts, min(len(texts), self.proposals)):
                yield Candidate(type, text, NEGATIVE)
        bare = caption.rstrip(" .")
        for thing in self.absent(caption, tokens, rng):
            text = rng.choice(ABSENT).format(bare, thing) + caption[len(bare) :]
            yield Candidate("absent", text, ABSENCE)

    def subject(self, caption: str, tokens: Sequence[Token], found: Sequence[Phrase]) -> Iterator[str]:
        """Such as: there is no cat on a sofa; a photo with no cat on a sofa; no cat sits on a sofa."""
        opening = 2 if [phrase.words for phrase in found[:2]] == ["there", "be"] else 0
        after = found[opening + 1].category if len(found) > opening + 1 else ""
        if len(found) <= opening or not _deniable(tokens, found[opening]) or after in (AND, COMMA):
            return
        phrase = found[opening]
        if opening:
            yield _no(caption, tokens, phrase)
            return
        head = tokens[phrase.last - 1]
        if head.lemma in PICTURES:
            of = found[2] if len(found) > 2 and found[1].words == "of" else None
            if of and _deniable(tokens, of) and not (len(found) > 3 and found[3].category in (AND, COMMA)):
                start = tokens[of.first].start
                yield f"{caption[: tokens[of.first - 1].start]}with {_no(caption, tokens, of)[start:]}"
            return
        at = _bare(tokens, phrase)
        rest = words.lowered(caption, tokens, (at, len(tokens)))
        if _begins_sentence(tokens[phrase.last :]):
            texts = [f"no {rest}"]
        else:
            texts = [f"there {'are' if head.plural else 'is'} no {rest}", f"a photo with no {rest}"]
        for text in texts:
            yield text[0].upper() + text[1:] if caption[:1].isupper() else text

    def objects(self, caption: str, tokens: Sequence[Token], found: Sequence[Phrase]) -> Iterator[str]:
        """Such as: a man with no hat; a man wearing no hat; a cat and no dog."""
        for at, (before, phrase) in enumerate(pairwise(found)):
            joins = before.category == AND and at > 0 and found[at - 1].category == NOUN_PHRASE
            has = before.category == VERB and before.words in HAVING
            if (joins or has or before.words == "with") and _deniable(tokens, phrase):
                yield _no(caption, tokens, phrase)

    def verbs(self, caption: str, tokens: Sequence[Token], found: Sequence[Phrase]) -> Iterator[str]:
        """Such as: a dog not running; a dog does not run; a dog is not on a mat."""
        for before, phrase in pairwise(found):
            token = tokens[phrase.first]
            if phrase.category != VERB or before.category not in (NOUN_PHRASE, VERB):
                continue
            if token.tag == "VBG":
                yield words.edit(caption, tokens, {phrase.span: f"not {token.text}"})
            elif token.pos == "VERB" and token.tag in DO and _agrees(tokens, before, token):
                yield words.edit(caption, tokens, {phrase.span: f"{DO[token.tag]} {token.lemma}"})
            elif token.pos == "AUX" and (phrase.last == len(tokens) or tokens[phrase.last].pos != "VERB"):
                yield words.edit(caption, tokens, {phrase.span: f"{token.text} not"})

    def absent(self, caption: str, tokens: Sequence[Token], rng: random.Random) -> list[str]:
        """Things that the caption does not name, drawn by how often they come with what it names."""
        # The smallest of exponential variables, each at the rate of its count: a draw without replacement.
        likely = self._company.likely(caption)
        drawn = {thing: -math.log(1 - rng.random()) / count for thing, count in likely.items()}
        unnamed = (
            thing
            for thing in sorted(drawn, key=drawn.__getitem__)
            if not names(self.lexicon, tokens, thing, loosely=True)
        )
        return list(islice(unnamed, self.proposals + SPARE))


def _agrees(tokens: Sequence[Token], subject: Phrase, verb: Token) -> bool:
    """Whether a verb is finite, of what is before it, and its dictionary form is known."""
    many = tokens[subject.last - 1].plural
    if subject.category != NOUN_PHRASE or many == (verb.tag == "VBZ"):
        return False
    return many or verb.lemma != verb.text.lower()


def _deniable(tokens: Sequence[Token], phrase: Phrase) -> bool:
    """Whether "no" can stand before a noun phrase: it is no name, and nobody's."""
    if phrase.category != NOUN_PHRASE or not (common(tokens, phrase) and sound(tokens, phrase)):
        return False
    owned = any(token.tag in ("PRP$", "POS") for token in tokens[phrase.first : phrase.last])
    return not owned and tokens[phrase.last - 1].lemma not in AMOUNTS


def _bare(tokens: Sequence[Token], phrase: Phrase) -> int:
    """The first token of a noun phrase after articles and numbers."""
    at = phrase.first
    while at + 1 < phrase.last and (tokens[at].pos in ("DET", "NUM") or tokens[at].lemma in NO_PROPERTY):
        at += 1
    return at


def _no(caption: str, tokens: Sequence[Token], phrase: Phrase) -> str:
    """The caption with "no" for the articles and numbers of a noun phrase."""
    start, bare = tokens[phrase.first].start, tokens[_bare(tokens, phrase)].start
    return f"{caption[:start]}no {caption[bare:]}"


def _begins_sentence(rest: Sequence[Token]) -> bool:
    """Whether a finite verb goes on with a caption after its subject."""
    before = ""
    for token in rest:
        if token.lemma in RELATIVE:
            return False
        if token.tag in FINITE or (token.tag == "VB" and before != "to"):
            return True
        before = token.lemma
    return False
