"""Parts of speech: spaCy with a model that the user has, or TextBlob's lexicon, which needs no data."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, Protocol

from open_clip_ext.errors import InputError
from open_clip_ext.language.inflection import lemma
from open_clip_ext.language.words import Token, split

DEFAULT_MODEL = "en_core_web_sm"
TEXTBLOB = "textblob"
COARSE = {
    "NN": "NOUN", "NNS": "NOUN", "NNP": "PROPN", "NNPS": "PROPN", "JJ": "ADJ", "JJR": "ADJ", "JJS": "ADJ",
    "VB": "VERB", "VBD": "VERB", "VBG": "VERB", "VBN": "VERB", "VBP": "VERB", "VBZ": "VERB", "MD": "AUX",
    "RB": "ADV", "RBR": "ADV", "RBS": "ADV", "WRB": "ADV", "IN": "ADP", "TO": "ADP", "RP": "ADP",
    "DT": "DET", "PDT": "DET", "WDT": "DET", "CD": "NUM", "CC": "CCONJ", "PRP": "PRON", "PRP$": "PRON",
    "WP": "PRON", "EX": "PRON",
}  # fmt: skip
BE = frozenset(("is", "are", "was", "were", "be", "been", "being", "am"))
UNSURE = frozenset(("VB", "VBD", "VBG", "VBN", "VBP", "VBZ", "NNS"))  # tags that `_in_context` may change
NOMINAL = ("DT", "JJ", "PRP$", "CD", "IN")


class Tagger(Protocol):
    """Anything that finds the words of captions and their classes.

    Attributes:
        name: what output it made is recorded under.
    """

    name: str

    def tag(self, captions: Sequence[str]) -> Iterator[list[Token]]:
        """The tokens of each caption."""

    def knows(self, word: str) -> bool:
        """Whether it takes a word for an English one."""


class CachedTagger:
    """A tagger that remembers the last captions: a generator and the gate ask for the same ones."""

    def __init__(self, tagger: Tagger, captions: int = 1024) -> None:
        self.name = tagger.name
        self.knows = tagger.knows
        self._tagger = tagger
        self._captions = captions
        self._known: dict[str, list[Token]] = {}

    def tag(self, captions: Sequence[str]) -> Iterator[list[Token]]:
        """The tokens of each caption."""
        new = [caption for caption in dict.fromkeys(captions) if caption not in self._known]
        found = dict(zip(new, self._tagger.tag(new), strict=True))
        found.update((caption, self._known[caption]) for caption in captions if caption not in found)
        self._known.update(found)
        while len(self._known) > self._captions:
            del self._known[next(iter(self._known))]
        for caption in captions:
            yield found[caption]


def tagger(name: str) -> Tagger:
    """A `CachedTagger` of the tagger with this name."""
    return CachedTagger(_tagger(name))


def _tagger(name: str) -> Tagger:
    """The tagger `name`: "textblob", or a spaCy model by its name or folder.

    "auto" is spaCy's small English model where it is installed, and TextBlob, with a notice,
    where not. Raises InputError if it cannot be had.
    """
    if name == TEXTBLOB:
        return TextBlobTagger()
    if name != "auto":
        return SpacyTagger(name)
    # A model is a package. spaCy, which imports torch, takes seconds to say that it is missing.
    if find_spec(DEFAULT_MODEL):
        with suppress(InputError):
            return SpacyTagger(DEFAULT_MODEL)
    print(
        f"open_clip_ext: tagging with TextBlob's lexicon; spaCy's {DEFAULT_MODEL} is not installed "
        f"(python -m spacy download {DEFAULT_MODEL})",
        file=sys.stderr,
    )
    return TextBlobTagger()


class SpacyTagger:
    """A spaCy pipeline, of which only the tagger and the lemmatizer are run.

    A word with hyphens ("close-up") is one token, as in all of this package. spaCy alone makes three of it,
    and an exchange of "up" would tear it apart.

    Args:
        model: the name of an installed model, or its folder.

    Raises InputError if spaCy or the model is missing, or if the model does not tag.
    """

    def __init__(self, model: str) -> None:
        try:
            import spacy
        except ImportError as error:
            raise InputError(
                f"tagger={model}: spaCy is not installed; pip install spacy, or use tagger={TEXTBLOB}"
            ) from error
        try:
            self._pipeline = spacy.load(model, exclude=["ner", "parser", "senter"])
        except OSError as error:
            raise InputError(
                f"tagger={model}: spaCy has no such model; python -m spacy download {model}, "
                f"or use tagger={TEXTBLOB}"
            ) from error
        self.name = f"spacy-2:{self._pipeline.meta['name']}-{self._pipeline.meta['version']}"
        _keep_hyphens(self._pipeline)
        if not any(token.pos_ for token in self._pipeline("a dog on a bench")):
            raise InputError(
                f"tagger={model}: this spaCy model gives no parts of speech; use {DEFAULT_MODEL}"
            )

    def tag(self, captions: Sequence[str]) -> Iterator[list[Token]]:
        """The tokens of each caption."""
        for document in self._pipeline.pipe(captions, batch_size=256):
            yield [
                Token(t.idx, t.idx + len(t.text), t.text, t.pos_, t.tag_, (t.lemma_ or t.text).lower())
                for t in document
                if not t.is_space
            ]

    def knows(self, word: str) -> bool:
        """Whether a word is written in Latin letters: a pipeline has no list of words."""
        return latin(word)


def _keep_hyphens(pipeline: Any) -> None:
    """Leave hyphens out of the signs at which spaCy's tokenizer divides a word."""
    from spacy.lang.char_classes import HYPHENS
    from spacy.util import compile_infix_regex

    infixes = [sign for sign in pipeline.Defaults.infixes if HYPHENS not in sign]
    pipeline.tokenizer.infix_finditer = compile_infix_regex(infixes).finditer


class TextBlobTagger:
    """The lexicon tagger of the `pattern` library as TextBlob ships it, with rules for captions.

    The rules correct what it makes of noun phrases: "a spotted dog" (an adjective), "a set of" and
    "with stripes" (nouns), "a man rides a horse" (a verb).

    A word in a script other than Latin gets the class X.
    """

    name = "textblob:lexicon-2"

    def __init__(self) -> None:
        try:
            from textblob.en import parser
        except ImportError as error:
            raise InputError(
                "tagger=textblob: TextBlob is not installed; pip install 'open_clip_ext[negatives]'"
            ) from error
        self._parser: Any = parser
        # As a plain dict: their own asks at each look-up whether the file is read.
        self._lexicon = dict(parser.lexicon.items())
        # Their tag of a word depends on the word alone, so that each is asked for once.
        self._word = lru_cache(maxsize=1 << 16)(self._first_tag)

    def tag(self, captions: Sequence[str]) -> Iterator[list[Token]]:
        """The tokens of each caption."""
        for caption in captions:
            yield self._one(caption)

    def knows(self, word: str) -> bool:
        """Whether a word is in the lexicon."""
        return word in self._lexicon or word.lower() in self._lexicon

    def _first_tag(self, text: str) -> tuple[str, str]:
        """A word in lower case, and the tag that it has before anything around it is looked at."""
        lower = text.lower()
        known = lower if lower in self._lexicon else text
        return lower, self._parser.find_tags([known], lexicon=self._lexicon, map=None)[0][1]

    def _one(self, caption: str) -> list[Token]:
        words = split(caption)
        tagged = [self._word(text) for _, _, text in words]
        tokens, before = [], ""
        for (start, end, text), (word, tag), (_, after) in zip(
            words, tagged, [*tagged, ("", "")][1:], strict=True
        ):
            if tag in UNSURE:
                tag = _in_context(tag, word, before, after)
            pos, before, lemma = _described(word, tag)
            tokens.append(Token(start, end, text, pos, before, lemma))
        return tokens


def latin(text: str) -> bool:
    """Whether every letter is of the Latin alphabet."""
    return text.isascii() or all(not c.isalpha() or c < "\u0250" for c in text)


@lru_cache(maxsize=1 << 16)
def _described(word: str, tag: str) -> tuple[str, str, str]:
    """Class, tag and lemma of a word in lower case."""
    if not word[0].isalnum():
        pos, tag = ("PART", "POS") if word[1:] == "s" else ("PUNCT", tag)
    elif not latin(word):
        pos, tag = "X", "FW"
    else:
        pos = "AUX" if word in BE else COARSE.get(tag, "X")
    # TextBlob's singular of a singular is none: "tennis" would become "tenni", "police" "polouse".
    return pos, tag, word if tag == "NN" else lemma(word, pos)


def _in_context(tag: str, word: str, before: str, after: str) -> str:
    """The tag that a word of a caption has in its place."""
    if tag in ("VBD", "VBN", "VBG") and before in ("DT", "JJ", "PRP$", "CD") and after in ("NN", "NNS", "JJ"):
        return "JJ"
    if word in BE:
        return tag
    if (
        tag in ("VB", "VBP", "VBN")
        and before in NOMINAL
        and after in ("IN", "", ".", "VBZ", "VBG", ",", "CC")
    ):
        return "NN"
    if tag == "VBZ" and before in NOMINAL:
        return "NNS"
    if tag == "NNS" and before == "NN" and after in ("DT", "PRP$", "CD", "RB"):  # "a man rides a horse"
        return "VBZ"
    return tag
