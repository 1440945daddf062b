"""The quality gate: what every generator's output passes before it may be trained on.

Each check has a reason, a short code under which `make` counts and the store keeps what it turned
away. `REASONS` says them in words.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from itertools import chain, takewhile
from typing import Any

from open_clip_ext.negatives.language.denial import NEGATIONS, denied, names, negated
from open_clip_ext.negatives.language.entailment import EntailmentChecker
from open_clip_ext.negatives.language.taggers import Tagger
from open_clip_ext.negatives.language.words import WORD, Token
from open_clip_ext.negatives.records import (
    ABSENCE,
    FOIL,
    NEGATIVE,
    PHRASE,
    POSITIVE,
    Candidate,
    normalise,
)

MOST = 3  # new words of a replacement
REASONS = {
    "empty": "no text",
    "control": "control characters",
    "artefact": "a mask, a placeholder, markup or an address in it",
    "identical": "the caption itself, but for case and signs",
    "duplicate": "the same text as another of this caption",
    "other_caption": "another caption of the same picture",
    "length": "more than twice or less than half as many words",
    "other_words": "a swap or reshuffle with other words than the caption's",
    "said_elsewhere": "a new word, or what it denies, stands in another caption of the same picture",
    "said_in_caption": "a new word, or what it denies, stands in the caption",
    "too_many_changes": f"a replacement of more than {MOST} words",
    "same_meaning": "says the same as the caption, as far as the lexicon knows",
    "implied": "the caption says as much and more",
    "narrower": "says the same more exactly, and may be true",
    "excluded": "a positive with a word that excludes one of the caption's",
    "may_be_absent": "denies what the caption does not name, and may be true",
    "denies_nothing": "an absence that denies nothing new",
    "incomplete": "an absence without all words of the caption",
    "invented": "a phrase or an absence with words that the caption has not",
    "denied": "a phrase that the caption denies",
    "beyond_context": "differs only where the text tower no longer reads",
    "unattached": "belongs to a text that was turned away",
    "unchanged": "the text that it belongs to, but for case and signs",
}
LONGEST = 1000  # characters of a caption
UNFIT = {
    "empty": "no text",
    "control": "control characters",
    "too_long": f"more than {LONGEST} characters",
    "markup": "HTML or an address in it",
    "not_english": "fewer than half of its words are English",
}
ARTEFACT = re.compile(r"<\w*>|\[MASK\]|###|</?\w[^>]*>|&\w+;|https?://|www\.|\{|\}|\\n|\\u", re.IGNORECASE)
ODD = re.compile(r"[<\[#/&{}\\]")  # every artefact and all markup but "www." has one of these
MARKUP = re.compile(r"</?[a-z][^>]*>|&#?\w+;|https?://|www\.", re.IGNORECASE)
MARGIN = 2  # tokens for start and end
FRAME = frozenset(("sight", "view", "picture", "photo", "image", "scene", "be"))  # of what is not there
ARTICLES = {"a": "an", "an": "a"}


def unfit(caption: str, knows: Callable[[str], bool]) -> str:
    """Why no negatives can be made of a caption; empty if they can.

    Args:
        caption: the caption.
        knows: whether a word is an English one; as of a tagger.
    """
    if not caption:
        return "empty"
    if _has_control(caption):
        return "control"
    if len(caption) > LONGEST:
        return "too_long"
    if _odd(caption) and MARKUP.search(caption):
        return "markup"
    words = [word for word in WORD.findall(caption) if word[0].isalpha()]
    return "" if words and 2 * sum(map(knows, words)) >= len(words) else "not_english"


class Gate:
    """Judges candidates.

    Args:
        judge: compares meanings; None to leave out all checks of meaning.
        tagger: tags texts that have words which the caption has not.
        context: how many tokens the text tower reads.
        enough: how many texts of a type a caption gets at most.
    """

    version = "2"

    def __init__(
        self, judge: EntailmentChecker | None, tagger: Tagger, context: int = 77, enough: int = 1
    ) -> None:
        self.judge = judge
        self.tagger = tagger
        self.context = context
        self.enough = enough
        self._cut: _Cut | None = None
        # What is wrong with a text of a kind; of any other kind only its form is looked at.
        self._checks = {
            NEGATIVE: self._negative,
            POSITIVE: self._positive,
            PHRASE: self._phrase,
            FOIL: self._foil,
            ABSENCE: self._absence,
        }

    def identity(self) -> dict[str, Any]:
        """What its verdicts depend on; plain types."""
        return {
            "tagger": self.tagger.name,
            "lexicon": self.judge.lexicon.name if self.judge else None,
            "per_type": self.enough,
            "context": self.context,
            "gate": self.version,
        }

    def check(
        self,
        caption: str,
        tokens: Sequence[Token],
        candidates: Sequence[Candidate],
        others: Sequence[str] = (),
    ) -> list[Candidate]:
        """The candidates, each with the reason if it was turned away.

        A negative that says the same as the caption becomes a positive. Once `enough` of a type have
        passed, further ones of it are left out, and so are texts that belong to one left out. Of those
        that belong to a text, one of each kind and type is enough.

        Negatives, positives and absences are compared with the caption, foils with their phrase. Of kinds
        that are not known here only the form is looked at, and whether they repeat another text or the one
        that they belong to.

        Args:
            caption: the caption.
            tokens: its tokens.
            candidates: what a generator made of it.
            others: further captions of the same picture.
        """
        scene = _Scene(caption, tokens, others)
        checked: list[Candidate] = []
        passed = dict.fromkeys([(proposed.kind, proposed.type, proposed.of) for proposed in candidates], 0)
        for proposed in candidates:
            place = proposed.kind, proposed.type, proposed.of
            if passed[place] == (1 if proposed.of else self.enough):
                continue
            text, kind, reason = normalise(proposed.text), proposed.kind, proposed.reason
            of = normalise(proposed.of)
            if of:
                owner = next((other for other in checked if other.text == of), None)
                if owner is None:
                    continue
                reason = reason or ("" if owner.valid else "unattached")
            if not reason:
                reason = _form(text) or scene.repeated(kind, of, text)
                check = self._checks.get(kind)
                if not reason and check:
                    reason = check(scene, proposed, text)
                if reason in ("same_meaning", "other_caption") and kind in (NEGATIVE, POSITIVE):
                    kind, reason = POSITIVE, ""
            passed[place] += not reason and kind == proposed.kind
            if (text, kind, reason, of) != (proposed.text, proposed.kind, proposed.reason, proposed.of):
                proposed = Candidate(proposed.type, text, kind, reason, of)
            checked.append(proposed)
        return checked

    # --- what is wrong with a text of a kind; empty if nothing is

    def _negative(self, scene: _Scene, candidate: Candidate, text: str) -> str:
        reason = self._rewording(scene, candidate, text)
        if not reason and self.judge:
            tokens = self._tagged(scene, text)
            reason = self._true_denial(scene, tokens) or self.judge.judge(scene.tokens, tokens)
        if not reason and candidate.type.startswith("replace"):
            new = {*_words(text)}.difference(scene.had)
            reason = "" if new.isdisjoint(scene.elsewhere) else "said_elsewhere"
        return reason

    def _positive(self, scene: _Scene, candidate: Candidate, text: str) -> str:
        reason = self._rewording(scene, candidate, text)
        if not reason and self.judge and self._excluded(scene.tokens, self._tagged(scene, text)):
            reason = "excluded"
        return reason

    def _phrase(self, scene: _Scene, candidate: Candidate, text: str) -> str:
        if not {*_words(text)}.issubset({"a", *scene.had}):
            return "invented"
        if self.judge and scene.negated:
            there = {token.lemma for token in self._tagged(scene, text)}
            if not NEGATIONS.intersection(there) and there.intersection(t.lemma for t in denied(scene.tokens)):
                return "denied"
        return ""

    def _foil(self, scene: _Scene, candidate: Candidate, text: str) -> str:
        if not candidate.of:
            return ""
        had, has = _words(normalise(candidate.of)), _words(text)
        if not _alike(had, has):
            return "length"
        if self.judge:
            phrase = self._tagged(scene, normalise(candidate.of))
            if reason := self.judge.judge(phrase, self._tagged(scene, text)):
                return reason
        # With all its words said of the picture it may be true of another thing in it.
        new = {*has}.difference(had) - {"a"}
        if not new or not new <= scene.elsewhere.union(scene.had):
            return ""
        return "said_in_caption" if new.issubset(scene.had) else "said_elsewhere"

    def _absence(self, scene: _Scene, candidate: Candidate, text: str) -> str:
        if Counter(scene.had) - Counter(_words(text)):
            return "incomplete"
        if self._differs_too_late(scene.caption, text):
            return "beyond_context"
        if self.judge is None:
            return ""
        tokens = self._tagged(scene, text)
        had = {token.lemma for token in scene.tokens}
        absent = [token for token in denied(tokens) if token.lemma not in had]
        lemmas = {token.lemma for token in absent} | had | FRAME
        if not absent:
            return "denies_nothing"
        if any(token.pos in ("NOUN", "PROPN", "VERB") and token.lemma not in lemmas for token in tokens):
            return "invented"
        lexicon = self.judge.lexicon
        if any(names(lexicon, scene.tokens, token, loosely=True) for token in absent):
            return "said_in_caption"
        others = self.tagger.tag(scene.others)
        if any(names(lexicon, other, token, loosely=True) for other in others for token in absent):
            return "said_elsewhere"
        return ""

    # --- parts of these

    def _rewording(self, scene: _Scene, candidate: Candidate, text: str) -> str:
        """What is wrong with the words of a text that says as much as the caption."""
        had, has = scene.had, _words(text)
        if not _alike(had, has):
            return "length"
        if candidate.type.startswith(("swap", "reshuffle")) and _sorted(scene.caption) != sorted(has):
            return "other_words"
        if candidate.type.startswith("replace") and (Counter(has) - Counter(had)).total() > MOST:
            return "too_many_changes"
        return "beyond_context" if self._differs_too_late(scene.caption, text) else ""

    def _true_denial(self, scene: _Scene, tokens: Sequence[Token]) -> str:
        """Whether a negative denies nothing but what the caption does not name either."""
        assert self.judge
        if scene.negated or not negated(tokens):
            return ""
        found = denied(tokens)
        if any(names(self.judge.lexicon, scene.tokens, token) for token in found):
            return ""
        return "may_be_absent" if found else ""

    def _excluded(self, one: Sequence[Token], other: Sequence[Token]) -> bool:
        """Whether a word that only one of two texts has excludes a word that only the other has."""
        assert self.judge
        had, has = ({token.lemma for token in tokens} for tokens in (one, other))
        lost = [token for token in one if token.lemma not in has]
        return any(
            self.judge.lexicon.relation(old.lemma, new.lemma, new.pos) == "excluded"
            for new in other
            if new.lemma not in had
            for old in lost
            if old.pos == new.pos
        )

    def _tagged(self, scene: _Scene, text: str) -> list[Token]:
        """The tokens of a text: the caption's where it has the same words, else by the tagger."""
        try:
            return [scene.known[word] for word in _all_words(text)]
        except KeyError:
            return next(iter(self.tagger.tag([text])))

    def _differs_too_late(self, caption: str, text: str) -> bool:
        had, has = _words(caption), _words(text)
        # The tokenizer takes seconds to load, and English words have fewer than two tokens on average.
        if 2 * min(len(had), len(has)) < self.context - MARGIN:
            return False
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(had, has, strict=False)))
        if 2 * same < self.context - MARGIN:
            return False
        self._cut = self._cut or _Cut(self.context)
        return self._cut(caption) == self._cut(text)


class _Scene:
    """A caption, the other captions of its picture, and the texts of it so far."""

    def __init__(self, caption: str, tokens: Sequence[Token], others: Sequence[str]) -> None:
        self.caption, self.tokens, self.others = caption, tokens, others
        self.had = _words(caption)
        self.known = _Known({token.text.lower(): token for token in tokens})
        self._taken = {("", "", _words(other)): "other_caption" for other in others}
        self._taken["", "", self.had] = "identical"

    @cached_property
    def elsewhere(self) -> set[str]:
        """The words of the other captions."""
        return {*chain(*map(_words, self.others))}

    @cached_property
    def negated(self) -> bool:
        """Whether the caption denies something."""
        return negated(self.tokens)

    def repeated(self, kind: str, of: str, text: str) -> str:
        """What a text repeats, which is remembered from now on; empty if nothing."""
        has = _words(text)
        if of and has == _words(of):
            return "unchanged"
        what = "" if kind in (NEGATIVE, POSITIVE) else kind, of, has
        reason = self._taken.get(what, "")
        if reason != "identical":
            self._taken[what] = "duplicate"
        return reason


class _Known(dict[str, Token]):
    """The tokens of a caption by their words in lower case; "a" and "an" are one word."""

    def __missing__(self, word: str) -> Token:
        other = self.get(ARTICLES.get(word, ""))
        if other is None:
            raise KeyError(word)
        return replace(other, lemma=word)


class _Cut:
    """What CLIP's text tower reads of a text, as token ids."""

    def __init__(self, context: int) -> None:
        from open_clip.tokenizer import SimpleTokenizer

        from open_clip_ext.data import WordTokenizer

        self._tokenizer = WordTokenizer(SimpleTokenizer())
        self._length = context - MARGIN

    def __call__(self, text: str) -> list[int]:
        return self._tokenizer.encode(text)[: self._length]


def _alike(had: Sequence[str], has: Sequence[str]) -> bool:
    """Whether a text has neither more than twice nor less than half as many words as another."""
    return len(had) <= 2 * len(has) <= 4 * len(had)


def _form(text: str) -> str:
    """What is wrong with a text, whatever it is to its caption."""
    if not text:
        return "empty"
    if _has_control(text):
        return "control"
    return "artefact" if _odd(text) and ARTEFACT.search(text) else ""


@lru_cache(maxsize=64)
def _words(text: str) -> tuple[str, ...]:
    """Its words in lower case, "an" as "a"."""
    return tuple(["a" if word == "an" else word for word in _all_words(text) if word[-1].isalnum()])


@lru_cache(maxsize=1)
def _all_words(text: str) -> list[str]:
    """Its words and signs in lower case."""
    return WORD.findall(text.lower())


@lru_cache(maxsize=1)
def _sorted(text: str) -> list[str]:
    return sorted(_words(text))


def _odd(text: str) -> bool:
    return ODD.search(text) is not None or "www." in text.lower()


def _has_control(text: str) -> bool:
    return not text.isprintable() and any(unicodedata.category(c) in ("Cc", "Co", "Cs", "Cn") for c in text)
