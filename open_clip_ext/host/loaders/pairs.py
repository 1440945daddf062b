"""Pairs of samples, made in the collate function: two pictures in one, and texts about both.

Sample i and the next one of its batch, the last and the first. No picture is read for it.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from open_clip_ext.data import CompanionCollate, Companions
from open_clip_ext.language.taggers import TEXTBLOB
from open_clip_ext.language.words import Span, Token
from open_clip_ext.negatives.recipes.swap import Swap
from open_clip_ext.negatives.records import Candidate

# Kinds of texts about a pair: "A. B.", "B. A.", and the first with two words exchanged between them. The
# picture is of the first kind.
KINDS = ("pair", "pair_pos", "pair_neg")
WORDS = ("swap_noun", "swap_adj", "swap_verb")


class Pairs:
    """Makes the images and texts of a batch and of its pairs.

    Args:
        collate: makes token ids; its kinds of texts are `KINDS`.

    Raises InputError if the tagger is not installed.
    """

    def __init__(self, collate: CompanionCollate) -> None:
        self.collate = collate
        across()

    def images(self, images: Tensor) -> Tensor:
        """`[B,3,H,W]` to `[B,2,3,H,W]`: each image, and it beside the next one, both at half their width."""
        height, width = images.shape[-2:]
        left, right = (
            F.interpolate(x, (height, size), mode="bilinear", antialias=True)
            for x, size in ((images, width // 2), (images.roll(-1, 0), width - width // 2))
        )
        return torch.stack([images, torch.cat([left, right], dim=-1)], dim=1)

    def texts(self, captions: Sequence[str]) -> Tensor:
        """Token ids `[B,4,L]` of captions and, by `KINDS`, of the texts about each and the next one."""
        others = [*captions[1:], captions[0]]
        ids = self.collate.texts(
            captions, [self._about(*pair) for pair in zip(captions, others, strict=True)]
        )
        pair, _, negative = ids[:, 1:].unbind(1)
        negative[(negative == pair).all(-1)] = 0  # the exchange was cut off
        return ids

    def _about(self, caption: str, other: str) -> Companions:
        one, two = sentence(caption), sentence(other)
        rng = random.Random(f"{self.collate.seed}/{self.collate.epoch}/pair/{one}/{two}")
        true = f"{two} {one}"
        wrong = [text for text in across().exchanges(one, two, rng) if text.lower() != true.lower()]
        return dict(zip(KINDS, ([f"{one} {two}"], [true], wrong[:1]), strict=True))


class Across(Swap):
    """Exchanges two nouns, adjectives or verbs, one of each of two sentences."""

    def exchanges(self, one: str, two: str, rng: random.Random) -> list[str]:
        """Some texts in which the two have exchanged a word, in any order."""
        self.end, text = len(one), f"{one} {two}"
        tokens = next(iter(self.tagger.tag([text])))
        found = [found.text for found in self.propose(text, tokens, rng) if found.type in WORDS]
        return rng.sample(found, len(found))

    def swaps(
        self,
        type: str,
        caption: str,
        tokens: Sequence[Token],
        pairs: Iterable[tuple[Span, Span]],
        rng: random.Random,
    ) -> Iterator[Candidate]:
        """Those whose spans are in different sentences."""
        apart = [
            (one, other) for one, other in pairs if tokens[one[0]].start < self.end < tokens[other[0]].start
        ]
        yield from super().swaps(type, caption, tokens, apart, rng)


@functools.cache
def across() -> Across:
    """That of this process; with what every node has."""
    return Across(tagger=TEXTBLOB, wordnet=False)


def sentence(caption: str) -> str:
    """A caption that ends as a sentence does."""
    caption = caption.strip()
    return caption if caption.endswith((".", "!", "?")) else f"{caption}."
