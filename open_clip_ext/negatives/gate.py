"""The quality gate: what every generator's output passes before it may be trained on.

Each check has a reason, a short code under which `make` counts and the store keeps what it turned
away. `REASONS` says them in words.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

from open_clip_ext.language.entailment import EntailmentChecker
from open_clip_ext.language.taggers import Tagger
from open_clip_ext.language.words import WORD, Token
from open_clip_ext.negatives.checks import MOST, Checks, Scene
from open_clip_ext.negatives.records import NEGATIVE, POSITIVE, Candidate, normalise

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
    # By `negatives select`:
    "text_tells": "a classifier of texts alone tells it from its caption",
    "near_truth": "as similar to the picture as its caption, or nearly; it may be true",
    "too_easy": "too far from the picture to be hard",
    "not_hardest": "the caption has harder ones",
    "no_picture": "the picture of its caption is not there",
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
        self._checks = Checks(judge, tagger, context)

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
        scene = Scene(caption, tokens, others)
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
                reason = reason or self._checks(scene, proposed, text)
                if reason in ("same_meaning", "other_caption") and kind in (NEGATIVE, POSITIVE):
                    kind, reason = POSITIVE, ""
            passed[place] += not reason and kind == proposed.kind
            if (text, kind, reason, of) != (proposed.text, proposed.kind, proposed.reason, proposed.of):
                proposed = Candidate(proposed.type, text, kind, reason, of)
            checked.append(proposed)
        return checked


def _form(text: str) -> str:
    """What is wrong with a text, whatever it is to its caption."""
    if not text:
        return "empty"
    if _has_control(text):
        return "control"
    return "artefact" if _odd(text) and ARTEFACT.search(text) else ""


def _odd(text: str) -> bool:
    return ODD.search(text) is not None or "www." in text.lower()


def _has_control(text: str) -> bool:
    return not text.isprintable() and any(unicodedata.category(c) in ("Cc", "Co", "Cs", "Cn") for c in text)
