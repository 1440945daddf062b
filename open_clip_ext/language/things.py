"""The things that a caption names: noun phrases of what is there to see."""

from __future__ import annotations

from collections.abc import Sequence

from open_clip_ext.language.denial import denied
from open_clip_ext.language.phrases import NOUN_PHRASE, OTHER, Phrase, phrases
from open_clip_ext.language.words import Span, Token

# What a caption says that it is: "a picture of a cat".
PICTURES = frozenset(("picture", "photo", "photograph", "image", "view", "shot", "close-up", "closeup"))
# Heads of what is nothing to see by itself: "the side", "the background".
NO_THING = PICTURES.union(
    ("side", "front", "back", "top", "bottom", "middle", "end", "edge", "corner", "way", "part", "kind"),
    ("background", "foreground", "distance", "left", "right", "thing", "one", "other"),
    ("time", "day", "night", "morning", "afternoon", "evening", "summer", "winter", "spring", "autumn"),
)


def noun_phrases(tokens: Sequence[Token]) -> list[Phrase]:
    """The noun phrases of a caption."""
    return [phrase for phrase in phrases(tokens) if phrase.category == NOUN_PHRASE]


def common(tokens: Sequence[Token], phrase: Phrase) -> bool:
    """Whether the head of a noun phrase is no name."""
    return tokens[phrase.last - 1].pos == "NOUN"


def sound(tokens: Sequence[Token], phrase: Phrase) -> bool:
    """Whether a noun phrase has no verb in it that was taken for a noun: "a man jumps", "two girls dance"."""
    its = tokens[phrase.first : phrase.last]
    one = its[0].lemma in ("a", "an") and its[1:2] != [] and its[1].lemma not in ("few", "dozen", "couple")
    return not (one and its[-1].plural) and not any(token.plural for token in its[:-1])


def head(tokens: Sequence[Token], phrase: Phrase) -> Span:
    """The noun at the end of a noun phrase, with the nouns right before it: "ice cream"."""
    first = phrase.last - 1
    while first > phrase.first and tokens[first - 1].pos == "NOUN":
        first -= 1
    return first, phrase.last


def entities(tokens: Sequence[Token], found: Sequence[Phrase]) -> list[Span]:
    """The noun phrases that name a thing to see."""
    return [phrase.span for phrase in joined(tokens, found) if is_thing(tokens, phrase)]


def joined(tokens: Sequence[Token], found: Sequence[Phrase]) -> list[Phrase]:
    """The phrases, "a group of people" as one, and unsound noun phrases as another sort of phrase."""
    parts: list[Phrase] = []
    for phrase in found:
        if phrase.category == NOUN_PHRASE and not sound(tokens, phrase):
            phrase = Phrase(OTHER, phrase.first, phrase.last, "")
        one, of = parts[-2:] if len(parts) > 1 else (phrase, phrase)
        if (
            (one.category, of.words, phrase.category) == (NOUN_PHRASE, "of", NOUN_PHRASE)
            and tokens[one.last - 1].lemma not in PICTURES
        ):  # fmt: skip
            parts[-2:] = [Phrase(NOUN_PHRASE, one.first, phrase.last, "")]
        else:
            parts.append(phrase)
    return parts


def is_thing(tokens: Sequence[Token], phrase: Phrase) -> bool:
    """Whether a phrase names a thing that is there."""
    if phrase.category != NOUN_PHRASE or not common(tokens, phrase):
        return False
    last = tokens[phrase.last - 1]
    after = tokens[phrase.last].lemma if phrase.last < len(tokens) else ""
    return last.lemma not in NO_THING and after != "of" and last not in denied(tokens)
