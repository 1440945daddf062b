"""What is wrong with a text as one of its kind: a check for each kind that is known here.

`gate.REASONS` says the reasons in words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from itertools import chain, takewhile

from open_clip_ext.language.denial import NEGATIONS, denied, names, negated
from open_clip_ext.language.entailment import EntailmentChecker
from open_clip_ext.language.taggers import Tagger
from open_clip_ext.language.words import WORD, Token
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
MARGIN = 2  # tokens for start and end
FRAME = frozenset(("sight", "view", "picture", "photo", "image", "scene", "be"))  # of what is not there
ARTICLES = {"a": "an", "an": "a"}


class Checks:
    """Compares a text with its caption, as its kind asks for.

    Args:
        judge: compares meanings; None to look at words alone.
        tagger: tags texts that have words which the caption has not.
        context: how many tokens the text tower reads.
    """

    def __init__(self, judge: EntailmentChecker | None, tagger: Tagger, context: int) -> None:
        self.judge = judge
        self.tagger = tagger
        self.context = context
        self._cut: _Cut | None = None
        self._by_kind = {
            NEGATIVE: self._negative,
            POSITIVE: self._positive,
            PHRASE: self._phrase,
            FOIL: self._foil,
            ABSENCE: self._absence,
        }

    def __call__(self, scene: Scene, candidate: Candidate, text: str) -> str:
        """The reason not to train on a text; empty if there is none, or its kind is not known here.

        Args:
            scene: its caption.
            candidate: the text as it was proposed.
            text: the text, normalised.
        """
        check = self._by_kind.get(candidate.kind)
        return check(scene, candidate, text) if check else ""

    def _negative(self, scene: Scene, candidate: Candidate, text: str) -> str:
        reason = self._rewording(scene, candidate, text)
        if not reason and self.judge:
            tokens = self._tagged(scene, text)
            reason = self._true_denial(scene, tokens) or self.judge.judge(scene.tokens, tokens)
        if not reason and candidate.type.startswith("replace"):
            new = {*_words(text)}.difference(scene.had)
            reason = "" if new.isdisjoint(scene.elsewhere) else "said_elsewhere"
        return reason

    def _positive(self, scene: Scene, candidate: Candidate, text: str) -> str:
        reason = self._rewording(scene, candidate, text)
        if not reason and self.judge and self._excluded(scene.tokens, self._tagged(scene, text)):
            reason = "excluded"
        return reason

    def _phrase(self, scene: Scene, candidate: Candidate, text: str) -> str:
        if not {*_words(text)}.issubset({"a", *scene.had}):
            return "invented"
        if self.judge and scene.negated:
            there = {token.lemma for token in self._tagged(scene, text)}
            absent = {token.lemma for token in denied(scene.tokens)}
            if NEGATIONS.isdisjoint(there) and not there.isdisjoint(absent):
                return "denied"
        return ""

    def _foil(self, scene: Scene, candidate: Candidate, text: str) -> str:
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

    def _absence(self, scene: Scene, candidate: Candidate, text: str) -> str:
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

    def _rewording(self, scene: Scene, candidate: Candidate, text: str) -> str:
        """What is wrong with the words of a text that says as much as the caption."""
        had, has = scene.had, _words(text)
        if not _alike(had, has):
            return "length"
        if candidate.type.startswith(("swap", "reshuffle")) and _sorted(scene.caption) != sorted(has):
            return "other_words"
        if candidate.type.startswith("replace") and (Counter(has) - Counter(had)).total() > MOST:
            return "too_many_changes"
        return "beyond_context" if self._differs_too_late(scene.caption, text) else ""

    def _true_denial(self, scene: Scene, tokens: Sequence[Token]) -> str:
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

    def _tagged(self, scene: Scene, text: str) -> list[Token]:
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


class Scene:
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
