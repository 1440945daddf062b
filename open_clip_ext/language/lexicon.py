"""Which words mean the same, which imply one another, and which exclude each other.

From a small list of caption words, `english/lexicon.txt`, and from WordNet (Miller, CACM 1995)
through nltk where the user has its data.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from importlib.resources import files
from typing import Any, Literal

from open_clip_ext.errors import InputError

Relation = Literal["same", "implied", "narrower", "excluded", "unknown"]
CLASSES = {"noun": "NOUN", "adj": "ADJ", "verb": "VERB", "adp": "ADP"}
WORDNET = {"NOUN": "n", "ADJ": "a", "VERB": "v"}
# Senses of a word, most frequent first, that are looked at: the rare ones make synonyms of anything.
SENSES = 2


class Lexicon:
    """The caption words by class, and WordNet if `wordnet` is true and its data are installed."""

    def __init__(self, wordnet: bool = True) -> None:
        self._same: dict[tuple[str, str], set[str]] = {}  # a word and its synonyms
        # The names of what a word is a sort of, with their synonyms.
        self._hypernyms: dict[tuple[str, str], list[tuple[str, ...]]] = {}
        self._families: dict[tuple[str, str], dict[str, None]] = {}  # in the list's order
        for pos, hypernyms, members in _lines():
            for synonyms in [hypernyms, *members]:
                for word in synonyms:
                    self._same.setdefault((pos, word), set()).update(synonyms)
            family = dict.fromkeys(synonyms[0] for synonyms in members)
            for synonyms in members:
                for word in synonyms:
                    self._families.setdefault((pos, word), {}).update(family)
                    if hypernyms:
                        self._hypernyms.setdefault((pos, word), []).append(hypernyms)
        self._wordnet: Any = _wordnet() if wordnet else None
        self.name = "captions-2" + (f"+wordnet-{self._wordnet.get_version()}" if self._wordnet else "")
        self.others = lru_cache(maxsize=1 << 14)(self._others)
        self._above = lru_cache(maxsize=1 << 16)(self._all_hypernyms)
        self.relation = lru_cache(maxsize=1 << 16)(self._relation)

    def synonyms(self, word: str, pos: str) -> list[str]:
        """Other words for `word`, of the caption words alone, in a fixed order."""
        return sorted(self._same.get((pos, word), set()) - {word})

    def words(self, pos: str) -> list[str]:
        """Every word of a class in the list, in a fixed order."""
        return sorted(word for its, word in self._same if its == pos)

    def _others(self, word: str, pos: str) -> list[str]:
        """Words of the same family as `word`, which what it names is not, in a fixed order."""
        family = self._families.get((pos, word), {})
        return [other for other in family if self.relation(word, other, pos) == "excluded"]

    def _relation(self, word: str, other: str, pos: str) -> Relation:
        """What `word` says of `other`: whether what is a `word` is an `other` too."""
        if word == other or other in self._same.get((pos, word), ()):
            return "same"
        if other in self._above(word, pos):
            return "implied"
        if word in self._above(other, pos):
            return "narrower"
        if not self._head(other, pos).isdisjoint(self._families.get((pos, word), ())):
            return "excluded"
        return self._wordnet_relation(word, other, pos) if self._wordnet else "unknown"

    def _head(self, word: str, pos: str) -> set[str]:
        return self._same.get((pos, word)) or {word}

    def _all_hypernyms(self, word: str, pos: str) -> set[str]:
        """Every word for what a word is a sort of."""
        found: set[str] = set()
        todo = [word]
        while todo:
            for name in self._head(todo.pop(), pos):
                above = {word for names in self._hypernyms.get((pos, name), ()) for word in names}
                new = {alias for word in above for alias in self._head(word, pos)} - found
                found |= new
                todo += new
        return found

    def _wordnet_relation(self, word: str, other: str, pos: str) -> Relation:
        if pos not in WORDNET:
            return "unknown"
        one, two = (
            self._wordnet.synsets(text.replace("-", "_"), WORDNET[pos])[:SENSES] for text in (word, other)
        )
        if set(one) & set(two):
            return "same"
        if pos == "ADJ":
            near = {similar for sense in one for similar in sense.similar_tos()}
            return "same" if near & set(two) else "unknown"
        if any(set(two) & set(sense.closure(lambda s: s.hypernyms())) for sense in one):
            return "implied"
        if any(set(one) & set(sense.closure(lambda s: s.hypernyms())) for sense in two):
            return "narrower"
        return "unknown"


def relations() -> list[str]:
    """Every relation of the list, of one word or several."""
    return [name for pos, _, members in _lines() if pos == "ADP" for names in members for name in names]


def _wordnet() -> Any:
    """Nltk's WordNet reader, or None where nltk or its data are not installed.

    Raises InputError if the data are there, but cannot be read.
    """
    try:
        from nltk.corpus import wordnet

        wordnet.ensure_loaded()
        return wordnet
    except (ImportError, LookupError):
        return None
    except (OSError, ValueError) as error:  # a link out of nltk's folders is refused, too
        raise InputError(
            f"nltk's WordNet cannot be read ({error}); put all of its files into a folder "
            "nltk_data/corpora/wordnet, or give --cfg wordnet=false"
        ) from error


def _lines() -> Iterator[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    """Class, hypernyms and members with their synonyms, of each line of the list."""
    for line in (files(__package__) / "english" / "lexicon.txt").read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            head, _, tail = line.partition(":")
            pos, _, title = head.partition(" ")
            hypernyms = () if title.startswith(("(", "~")) else _names(title)
            yield CLASSES[pos], hypernyms, [_names(member) for member in tail.split(",")]


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split("="))
