"""Parts without a detector: the best of 14 boxes for each phrase. Ours, after ComCLIP, but not ComCLIP."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from open_clip_ext.evaluation.items import Box, Encoder, Picture
from open_clip_ext.evaluation.scorer import Pair, Scorer
from open_clip_ext.evaluation.scorers.comclip import Features, Shown, at_least_one, similarities, taken
from open_clip_ext.evaluation.scorers.parts import masked, size
from open_clip_ext.language import mentions

if TYPE_CHECKING:
    from torch import Tensor

SIDES = (2, 3)  # 4 and 9 boxes, besides the whole picture


class PhraseGrid(Scorer):
    """Each noun phrase takes the box it fits best of a fixed grid (1 + 4 + 9); the score is as in ComCLIP.

    Args:
        features: `unit`, or `raw` for features at their own length.
        rerank: the number of candidates of a query in retrieval that are put into a new order.
        tagger: finds the phrases: "textblob", or a spaCy model.
    """

    def __init__(self, *, features: Features = "unit", rerank: int = 10, tagger: str = "textblob") -> None:
        self.rerank = at_least_one(rerank)
        self.features = features
        self._captions = mentions.Finder(tagger)
        self._counts: Counter[str] = Counter()

    def similarities(self, encoder: Encoder, pairs: Sequence[Pair]) -> Tensor:
        """`[N]`; the plain cosine of a pair whose caption has no noun phrase."""
        named = self._captions.of([caption for _, caption in pairs])
        phrases = {caption: [one.text for one in those if one.noun] for caption, those in named.items()}
        best = _best(encoder, [(p, text) for p, caption in pairs for text in phrases[caption]], self.features)
        shown: list[list[Shown]] = [
            [(text, best[picture, text]) for text in phrases[caption]] for picture, caption in pairs
        ]
        self._counts["pairs without a phrase"] += sum(not parts for parts in shown)
        return similarities(encoder, pairs, shown, self.features, self._counts)

    def counts(self) -> dict[str, int]:
        """Pairs and parts, and how many of them are missing."""
        return taken(self._counts)


def _best(encoder: Encoder, pairs: Sequence[Pair], features: Features) -> dict[Pair, Picture]:
    """The part of each picture that fits a phrase best; of equal ones the first, so rather the whole."""
    if not pairs:
        return {}
    grids = {picture: grid(picture) for picture in dict.fromkeys(picture for picture, _ in pairs)}
    texts = {text: n for n, text in enumerate(dict.fromkeys(text for _, text in pairs))}
    places = {part: n for n, part in enumerate(dict.fromkeys(p for parts in grids.values() for p in parts))}
    seen = encoder.pictures(list(places), unit=features == "unit")
    read = encoder.texts(list(texts), unit=features == "unit")
    found = {}
    for picture, text in dict.fromkeys(pairs):
        fits = seen[[places[part] for part in grids[picture]]].double() @ read[texts[text]].double()
        found[picture, text] = grids[picture][int(fits.argmax())]
    return found


def grid(picture: Picture) -> list[Picture]:
    """The whole picture, its quarters and its ninths, each at the full size with the rest black.

    Raises InputError if it does not decode.
    """
    left, top, width, height = picture.box or (0.0, 0.0, *size(picture))
    boxes: list[Box] = [
        (left + column * width / n, top + row * height / n, width / n, height / n)
        for n in SIDES
        for row in range(n)
        for column in range(n)
    ]
    return [picture, *(masked(picture, [box]) for box in boxes)]
