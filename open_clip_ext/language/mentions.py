"""What a caption says that there is: things with their attributes, and what they do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from open_clip_ext.language import words
from open_clip_ext.language.phrases import RELATION, VERB, Phrase, phrases
from open_clip_ext.language.taggers import tagger as find_tagger
from open_clip_ext.language.things import head, is_thing, joined
from open_clip_ext.language.words import Token


@dataclass(frozen=True)
class Mention:
    """A stretch of a caption.

    Attributes:
        text: as the caption has it: "a black cat", "sitting on".
        noun: of a thing, singular: "cat", "ice cream". Empty for a verb.
        sides: of a verb, the indices of the things before and after it, as far as there are any.
    """

    text: str
    noun: str = ""
    sides: tuple[int, ...] = ()


class Finder:
    """Finds the mentions of captions.

    Args:
        tagger: "textblob", or a spaCy model by its name or folder.
    """

    def __init__(self, tagger: str) -> None:
        self._tagger = find_tagger(tagger)
        self._known: dict[str, list[Mention]] = {}

    def of(self, captions: Sequence[str]) -> dict[str, list[Mention]]:
        """The mentions of each caption, things first."""
        new = [caption for caption in dict.fromkeys(captions) if caption not in self._known]
        for caption, tokens in zip(new, self._tagger.tag(new), strict=True):
            self._known[caption] = found(caption, tokens)
        return {caption: self._known[caption] for caption in captions}


def found(caption: str, tokens: Sequence[Token]) -> list[Mention]:
    """The things of a caption, then its verbs, each with the preposition that belongs to it."""
    parts = joined(tokens, phrases(tokens))
    places = [at for at, phrase in enumerate(parts) if is_thing(tokens, phrase)]
    things = [Mention(_text(caption, tokens, parts[at : at + 1]), _noun(tokens, parts[at])) for at in places]
    verbs = []
    for number, (start, end) in enumerate(zip([-1, *places], [*places, len(parts)], strict=True)):
        if link := _verb(parts[start + 1 : end]):
            sides = tuple(side for side in (number - 1, number) if 0 <= side < len(things))
            verbs.append(Mention(_text(caption, tokens, link), sides=sides))
    return [*things, *verbs]


def _verb(between: Sequence[Phrase]) -> Sequence[Phrase]:
    """From the first verb that says something to the last verb or preposition right after it."""
    for at, phrase in enumerate(between):
        if phrase.category == VERB and phrase.words not in ("be", "have", "do"):
            end = at + 1
            while end < len(between) and between[end].category in (RELATION, VERB):
                end += 1
            return between[at:end]
    return ()


def _noun(tokens: Sequence[Token], thing: Phrase) -> str:
    first, last = head(tokens, thing)
    return " ".join(token.lemma for token in tokens[first:last])


def _text(caption: str, tokens: Sequence[Token], parts: Sequence[Phrase]) -> str:
    return words.part(caption, tokens, (parts[0].first, parts[-1].last))[0]
