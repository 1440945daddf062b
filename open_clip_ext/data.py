"""Captions and their companion texts, from a data file's value to a batch `[B, 1+K, L]`.

Nothing here knows of upstream's trainer: `HardNegativeCollate` serves any DataLoader of any
open_clip run.

Shapes: B samples, C companion texts per caption (K when they are hard negatives), L tokens.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor
from torch.utils.data import default_collate

from open_clip_ext.texts import parse_texts as parse_texts

Tokenizer = Callable[[list[str]], Tensor]
# The companion texts of a caption by kind, each in its place; or a list of alternatives for a place.
Companions = Mapping[str, Sequence[str | Sequence[str]]]

# Words whose ids a loader worker keeps: a few dozen MB at most.
KNOWN_WORDS = 100_000


class CompanionCollate:
    """Makes `[B, 1+C, L]` token ids of captions and their companion texts.

    The caption comes first, then the kinds of companions in the order of `counts`. A companion that
    does not exist (too few, or an empty or blank string, which keeps the place of a missing type) is
    a row of zeros. Of more companions than wanted, a sample is drawn that depends on seed, epoch, kind
    and caption alone: it is the same in every worker and after a resume, and another one in the next
    epoch. A companion may be given as a list of alternatives for its place: one is drawn, and the
    others fill places that would be left over.

    A companion with its caption's own token ids says nothing that the caption does not say, and does
    not exist either. What sets it apart was cut off by the tokenizer, or is upper case alone. As that
    is known after the draw, no other one takes its place.

    Args:
        tokenizer: a list of strings to token ids `[N, L]` int64, as of `open_clip.get_tokenizer`.
        counts: how many companions of each kind a caption gets.
        seed: seed of the draw.
    """

    def __init__(self, tokenizer: Tokenizer, counts: Mapping[str, int], seed: int = 0) -> None:
        self.tokenizer = by_word(tokenizer)
        self.counts = dict(counts)
        self.seed = seed
        # Shared memory, because persistent loader workers outlive an epoch.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def set_epoch(self, epoch: int) -> None:
        """Draw anew, in workers that already run too."""
        self._epoch.fill_(epoch)

    def texts(self, captions: Sequence[str], companions: Sequence[Companions]) -> Tensor:
        """Token ids `[B, 1+C, L]` int64 of B captions and their companions by kind."""
        rows = [
            [
                caption,
                *(
                    text
                    for kind, count in self.counts.items()
                    for text in self._choose(kind, caption, others.get(kind, ()), count)
                ),
            ]
            for caption, others in zip(captions, companions, strict=True)
        ]
        # A caption is tokenized even when it is empty; only companions can be absent.
        cells = [
            (b, n) for b, row in enumerate(rows) for n, text in enumerate(row) if n == 0 or _exists(text)
        ]
        ids = self.tokenizer([rows[b][n] for b, n in cells])
        texts = ids.new_zeros(len(rows), 1 + sum(self.counts.values()), ids.shape[-1])
        texts[tuple(torch.tensor(cells).T)] = ids
        texts[:, 1:][(texts[:, 1:] == texts[:, :1]).all(-1)] = 0
        return texts

    def _choose(
        self, kind: str, caption: str, places: Sequence[str | Sequence[str]], count: int
    ) -> list[str]:
        if isinstance(places, str):  # each of its letters would be a text
            raise TypeError(f"expected a list of strings, got {places!r}")
        draw = random.Random(f"{self.seed}/{self._epoch.item()}/{kind}/{caption}") if places else None
        texts: list[str] = []
        spare: list[str] = []
        for place in places:
            if not isinstance(place, str):
                assert draw is not None
                there = [text for text in place if _exists(text)]
                place, *others = draw.sample(there, len(there)) or [""]
                spare += others
            texts.append(place)
        texts += spare[: max(0, count - len(texts))]
        if len(texts) > count:
            texts = [text for text in texts if _exists(text)]
            if len(texts) > count:
                assert draw is not None
                # Sorted, so that types keep their order: CE-CLIP has a threshold for each place.
                texts = [texts[i] for i in sorted(draw.sample(range(len(texts)), count))]
        return [*texts, *[""] * (count - len(texts))]


class HardNegativeCollate(CompanionCollate):
    """A `collate_fn` that keeps hard negatives on an axis of their own.

    Args:
        tokenizer: as `open_clip.get_tokenizer(name)` returns.
        num_negatives: K, hard negatives per caption.
        seed: seed of the draw where a caption has more than K; see `CompanionCollate`.
    """

    def __init__(self, tokenizer: Tokenizer, num_negatives: int = 4, seed: int = 0) -> None:
        super().__init__(tokenizer, {"neg": num_negatives}, seed)

    def __call__(self, samples: Sequence[tuple[Tensor, str, Sequence[str]]]) -> tuple[Tensor, Tensor]:
        """`(image [3,H,W], caption, negatives)` each, to images `[B,3,H,W]`, texts `[B,1+K,L]`."""
        images, captions, negatives = zip(*samples, strict=True)
        return default_collate(list(images)), self.texts(captions, [{"neg": n} for n in negatives])


class WordTokenizer(SimpleTokenizer):  # type: ignore[misc]
    """Upstream's tokenizer, which remembers the ids of words: the same ids, five times faster.

    Its repairs of a text (ftfy, html entities) leave printable ASCII without an ampersand alone, and
    no token spans a space. Such a text has the ids of its words; any other goes upstream's way.
    """

    def __init__(self, tokenizer: SimpleTokenizer) -> None:
        self.__dict__.update(vars(tokenizer))
        self.words: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        """Token ids without start and end, as upstream's `encode` gives them."""
        if not (text.isascii() and text.isprintable() and "&" not in text):
            return super().encode(text)  # type: ignore[no-any-return]
        ids: list[int] = []
        for word in text.split():
            known = self.words.get(word)
            if known is None:
                known = super().encode(word)
                if len(self.words) < KNOWN_WORDS:
                    self.words[word] = known
            ids += known
        return ids


def by_word(tokenizer: Tokenizer) -> Tokenizer:
    """A `WordTokenizer` in place of upstream's `SimpleTokenizer`; any other tokenizer as it is."""
    stock: Any = tokenizer
    # Special tokens of a user's own, beyond start and end, might contain a space.
    if type(stock) is SimpleTokenizer and len(stock.all_special_ids) == 2:
        return WordTokenizer(stock)
    return tokenizer


def split_texts(texts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Undo the collate: captions `[B,L]`, negatives `[B,K,L]` and which exist `[B,K]` bool.

    Raises ValueError unless `texts` is `[B, 1+K, L]`.
    """
    if texts.ndim != 3:
        raise ValueError(f"texts must be [B, 1+K, L], got {list(texts.shape)}")
    return texts[:, 0], texts[:, 1:], present(texts)[:, 1:]


def present(texts: Tensor) -> Tensor:
    """Which of `texts [..., L]` exist: `[...]` bool.

    A text that does not exist is a row of zeros.
    """
    return (texts != 0).any(-1)


def _exists(text: str) -> bool:
    return bool(text and not text.isspace())
