"""Parts by rules: phrases of a caption, matched with boxes that have labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from open_clip_ext.errors import InputError
from open_clip_ext.evaluation.items import Benchmark, Box
from open_clip_ext.evaluation.manifest import key
from open_clip_ext.evaluation.scorer import Pair
from open_clip_ext.evaluation.scorers.parts import Part, outside, size
from open_clip_ext.language import mentions
from open_clip_ext.language.inflection import lemma
from open_clip_ext.language.lexicon import Lexicon
from open_clip_ext.language.mentions import Mention

# Names of two words that are no sort of their last word.
OTHER_THINGS = ("hot dog",)


class Labelled:
    """Boxes with labels, of an annotator or a detector.

    A noun phrase gets all boxes of its noun, its synonyms and what it is a sort of ("a man": `person`). A
    verb gets those of the things before and after it, if both have any, as in the authors' code.

    Args:
        path: the file that they are from.
        boxes: labels and boxes by the file name of a picture.
        tagger: as in `language.taggers`.
    """

    def __init__(self, path: Path, boxes: Mapping[str, Sequence[tuple[str, Box]]], tagger: str) -> None:
        self.path = path
        self._boxes = {
            key(name): [(_singular(label), box) for label, box in those] for name, those in boxes.items()
        }
        self._sized: set[str] = set()
        self.left_out = 0
        self._captions = mentions.Finder(tagger)
        self._lexicon = Lexicon(wordnet=False)  # the same on every machine

    def check(self, benchmark: Benchmark) -> None:
        """Raises InputError if the file has none of the benchmark's pictures.

        Boxes without an area, or outside of their picture, are left out: annotations by hand have some.
        """
        pictures = {picture.path: picture for item in benchmark.items for picture in item.pictures}
        found = {name: p for path, p in pictures.items() if (name := key(path)) in self._boxes}
        if not found:
            first = next(iter(pictures), "none")
            raise InputError(
                f"{self.path}: names no picture of {benchmark.name} (the file's first: "
                f"{next(iter(self._boxes), 'none')}; the benchmark's: {first})"
            )
        for name, picture in found.items():
            if picture.exists() and name not in self._sized:
                self._fit(name, size(picture))

    def _fit(self, name: str, of: tuple[int, int]) -> None:
        boxes = self._boxes[name]
        self._boxes[name] = [(label, b) for label, b in boxes if min(b[2:]) > 0 and not outside(b, of)]
        self._sized.add(name)
        self.left_out += len(boxes) - len(self._boxes[name])

    def of(self, pairs: Sequence[Pair]) -> list[list[Part] | None]:
        """The parts of each pair; None of a picture that the file has not."""
        named = self._captions.of([caption for _, caption in pairs])
        boxes = (self._boxes.get(key(picture.path)) for picture, _ in pairs)
        return [None if its is None else self._parts(named[caption], its)
                for (_, caption), its in zip(pairs, boxes, strict=True)]  # fmt: skip

    def _parts(self, named: Sequence[Mention], boxes: Sequence[tuple[str, Box]]) -> list[Part]:
        things = [
            tuple(box for label, box in boxes if self._names(noun, label)) if (noun := _noun(one)) else ()
            for one in named
        ]
        found = []
        for one, its in zip(named, things, strict=True):
            sides = [things[side] for side in one.sides]
            if sides and all(sides):
                its = tuple(box for side in sides for box in side)
            found.append(Part(one.text, its))
        return found

    def _names(self, noun: str, label: str) -> bool:
        """Whether what a noun names may bear a label; both are singular, of one or more words."""
        if noun == label or noun in OTHER_THINGS or label in OTHER_THINGS:
            return noun == label
        if " " in noun and " " in label:
            return False
        last, of = noun.split()[-1], label.split()[-1]
        return self._lexicon.relation(last, of, "NOUN") in ("same", "implied")


def _noun(one: Mention) -> str:
    """What a thing is called; empty for a verb."""
    whole = _singular(one.text)
    return next((name for name in OTHER_THINGS if whole.endswith(name)), one.noun)


def _singular(label: str) -> str:
    *before, last = label.lower().split() or [""]
    return " ".join([*before, lemma(last, "NOUN")])
