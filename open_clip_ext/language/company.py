"""Which things are named together: in the captions of one picture, over a whole data set."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import blake2b

from open_clip_ext.language.inflection import inflected
from open_clip_ext.language.lexicon import Lexicon

# A member of each family of things that are either in a picture or not, whatever else is: not persons, who
# are named by what they do as well; nor clothes, places, plants and parts, which are there unnamed.
MEMBERS = (
    *("dog", "car", "chair", "skateboard", "laptop", "microwave", "box", "bowl", "fork", "hammer"),
    *("doll", "football", "guitar", "book", "pizza", "apple", "carrot", "cake"),
)
# Of their families, but often something else: "an orange shirt", "a tank top", "at the camera", "glasses".
UNSURE = frozenset(
    (
        *("orange", "can", "tank", "camera", "saw", "fan", "brush", "letter", "monitor", "drill", "remote"),
        *("cherry", "glass", "meal", "mouse", "speaker"),
    )
)
WORD = re.compile(r"[a-z-]+")


class Company:
    """Counts, by pictures, which things come with what.

    Args:
        lexicon: the words that are counted.
    """

    def __init__(self, lexicon: Lexicon) -> None:
        names = (name for member in MEMBERS for name in (member, *lexicon.others(member, "NOUN")))
        self.things = frozenset(names) - UNSURE
        self._names = dict[str, str]()  # by a word as a caption has it
        for word in lexicon.words("NOUN"):
            name = next((other for other in lexicon.synonyms(word, "NOUN") if other in self.things), word)
            name = word if word in self.things else name
            self._names |= {word: name, inflected(word, "NNS"): name}
        self._siblings = {thing: lexicon.others(thing, "NOUN") for thing in self.things}
        self._counts: dict[str, Counter[str]] = {}

    def learn(self, pictures: Iterable[Sequence[str]]) -> None:
        """Count the captions of each picture."""
        for captions in pictures:
            named = self.named(captions)
            things = [name for name in named if name in self.things]
            for name in named:
                self._counts.setdefault(name, Counter()).update(things)

    def named(self, captions: Sequence[str]) -> list[str]:
        """What the captions name, in a fixed order."""
        found = (self._names.get(word) for text in captions for word in WORD.findall(text.lower()))
        return sorted({name for name in found if name})

    def likely(self, caption: str) -> dict[str, int]:
        """Things that the caption does not name, by how often they come with what it names.

        Where nothing is known of that, those of the same sort: a fork for a spoon.
        """
        named = self.named([caption])
        found = Counter[str]()
        for name in named:
            found.update(self._counts.get(name, {}))
        counts = {thing: found[thing] for thing in sorted(found) if thing not in named}
        return counts or {
            sibling: 1
            for name in named
            for sibling in self._siblings.get(name, ())
            if sibling in self.things and sibling not in named
        }

    @property
    def digest(self) -> str:
        """What the counts are, in short."""
        counts = sorted((name, sorted(found.items())) for name, found in self._counts.items())
        return blake2b(json.dumps(counts).encode(), digest_size=8).hexdigest()
