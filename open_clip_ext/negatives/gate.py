"""The quality gate: what every generator's output passes before it may be trained on.

Each check has a reason, a short code under which `make` counts and the store keeps what it turned
away. `REASONS` says them in words.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import chain, takewhile
from typing import Any

from open_clip_ext.negatives.language.entailment import EntailmentChecker
from open_clip_ext.negatives.language.taggers import Tagger
from open_clip_ext.negatives.language.words import WORD, Token
from open_clip_ext.negatives.records import NEGATIVE, POSITIVE, Candidate, normalise

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
    "said_elsewhere": "a new word stands in another caption of the same picture",
    "too_many_changes": f"a replacement of more than {MOST} words",
    "same_meaning": "says the same as the caption, as far as the lexicon knows",
    "implied": "the caption says as much and more",
    "narrower": "says the same more exactly, and may be true",
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
        judge: compares meanings; None to leave that check out.
        tagger: tags texts that have words which the caption has not.
        context: how many tokens the text tower reads.
        enough: how many texts of a type a caption gets at most.
    """

    version = "1"

    def __init__(
        self, judge: EntailmentChecker | None, tagger: Tagger, context: int = 77, enough: int = 1
    ) -> None:
        self.judge = judge
        self.tagger = tagger
        self.context = context
        self.enough = enough
        self._cut: _Cut | None = None

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
        passed, further ones of it are left out, and so are texts that belong to one left out.

        Negatives and positives are compared with the caption. Of other kinds, which may say less than the
        caption does, only the form is looked at, and whether they repeat another text or the one that they
        belong to.

        Args:
            caption: the caption.
            tokens: its tokens.
            candidates: what a generator made of it.
            others: further captions of the same picture.
        """
        had = _words(caption)
        taken = {_words(other): "other_caption" for other in others} | {had: "identical"}
        known = _Known({token.text.lower(): token for token in tokens})
        checked: list[Candidate] = []
        parts: set[tuple[str, str, tuple[str, ...]]] = set()
        passed = dict.fromkeys([(proposed.kind, proposed.type) for proposed in candidates], 0)
        for proposed in candidates:
            place = proposed.kind, proposed.type
            if passed[place] == self.enough:
                continue
            text, kind, reason = normalise(proposed.text), proposed.kind, proposed.reason
            of = normalise(proposed.of)
            if of:
                owner = next((other for other in checked if other.text == of), None)
                if owner is None:
                    continue
                reason = reason or ("" if owner.valid else "unattached")
            has = _words(text)
            if kind not in (NEGATIVE, POSITIVE):
                what = kind, of, has
                reason = reason or _form(text) or ("duplicate" if what in parts else "")
                if not reason and of and has == _words(of):
                    reason = "unchanged"
                parts.add(what)
            elif not reason:
                reason = self._reason(caption, tokens, known, proposed, text) or taken.get(has, "")
                if not reason and _replaces(proposed):
                    new = {*has}.difference(had)
                    reason = "" if new.isdisjoint(chain(*map(_words, others))) else "said_elsewhere"
                if reason in ("same_meaning", "other_caption") and kind == NEGATIVE:
                    kind, reason = POSITIVE, ""
                taken.setdefault(has, "duplicate")
            passed[place] += not reason and kind == proposed.kind
            if (text, kind, reason, of) != (proposed.text, proposed.kind, proposed.reason, proposed.of):
                proposed = Candidate(proposed.type, text, kind, reason, of)
            checked.append(proposed)
        return checked

    def _reason(
        self,
        caption: str,
        tokens: Sequence[Token],
        known: Mapping[str, Token],
        candidate: Candidate,
        text: str,
    ) -> str:
        if reason := _form(text):
            return reason
        had, has = _words(caption), _words(text)
        if had == has:
            return "identical"
        if not len(had) <= 2 * len(has) <= 4 * len(had):
            return "length"
        if candidate.type.startswith(("swap", "reshuffle")) and _sorted(caption) != sorted(has):
            return "other_words"
        if _replaces(candidate) and sum((Counter(has) - Counter(had)).values()) > MOST:
            return "too_many_changes"
        if self._differs_too_late(caption, text):
            return "beyond_context"
        if self.judge is None or candidate.kind == POSITIVE:
            return ""
        return self.judge.judge(tokens, self._tagged(known, text))

    def _tagged(self, known: Mapping[str, Token], text: str) -> list[Token]:
        """The tokens of a text: the caption's where it has the same words, else by the tagger."""
        try:
            return [known[word] for word in _all_words(text)]
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


def _replaces(candidate: Candidate) -> bool:
    return candidate.type.startswith("replace") and candidate.kind == NEGATIVE


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
