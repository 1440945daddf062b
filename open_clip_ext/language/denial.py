"""What a text denies ("no dog", "without a hat", "not running"), and whether another text names it."""

from __future__ import annotations

from collections.abc import Sequence

from open_clip_ext.language.lexicon import Lexicon
from open_clip_ext.language.phrases import NOUN_PHRASE, phrases
from open_clip_ext.language.words import Token

NEGATIONS = frozenset(("no", "not", "n't", "'t", "without", "never", "nobody", "nothing", "none"))
NOT = ("not", "n't", "'t", "never")
OR = ("or", "nor")
STEM = 4  # letters that a noun must have for "surfboarder" to name a surfboard


def negated(tokens: Sequence[Token]) -> bool:
    """Whether a text denies anything."""
    return not NEGATIONS.isdisjoint([token.lemma for token in tokens])


def denied(tokens: Sequence[Token]) -> list[Token]:
    """The nouns that a text says are not there, and the words after "not"."""
    found, before, chain = [], "", False
    for phrase in phrases(tokens):
        first, last = tokens[phrase.first], tokens[phrase.last - 1]
        if phrase.category == NOUN_PHRASE:
            chain = first.lemma == "no" or before == "without" or (chain and before in OR)
            if chain:
                found.append(last)
        else:
            chain = chain and phrase.words in OR
        before = phrase.words
    for at, token in enumerate(tokens):
        if token.lemma in NOT:
            found += [other for other in tokens[at + 1 :] if other.pos not in ("AUX", "ADV", "DET")][:1]
    return found


def names(lexicon: Lexicon, tokens: Sequence[Token], word: Token | str, *, loosely: bool = False) -> bool:
    """Whether a text says that there is what `word` names.

    Args:
        lexicon: which words mean the same.
        tokens: the text.
        word: a word as a text has it, or a noun in dictionary form.
        loosely: whether it is enough that the text may say so: a broader word, or one that begins with the
            noun ("a surfboarder" for "surfboard").
    """
    lemma, pos = (word, "NOUN") if isinstance(word, str) else (word.lemma, word.pos)
    enough = ("same", "implied", "narrower") if loosely else ("same", "implied")
    for token in tokens:
        if lexicon.relation(token.lemma, lemma, pos) in enough:
            return True
        if loosely and len(lemma) >= STEM and token.text.lower().startswith(lemma):
            return True
    return False
