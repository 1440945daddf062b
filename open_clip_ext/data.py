"""Captions and their companion texts, from a data file's value to a batch `[B, 1+K, L]`.

Nothing here knows of upstream's trainer: `HardNegativeCollate` serves any DataLoader of any
open_clip run.

Shapes: B samples, C companion texts per caption (K when they are hard negatives), L tokens.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor
from torch.utils.data import default_collate

from open_clip_ext.texts import IMAGE, image_kind
from open_clip_ext.texts import parse_texts as parse_texts

Tokenizer = Callable[[list[str]], Tensor]
# The companions of a caption by kind, each in its place; or a list of alternatives for a place. Images are
# names, of the kind `image_kind(kind)`.
Companions = Mapping[str, Sequence[str | Sequence[str]]]
# Companions that are drawn together: one of each kind of a group.
Unit = tuple[str, ...]

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

    Kinds that are `aligned` are drawn together: position k of one belongs to position k of the others,
    in the data and in the batch, and so do alternatives. Where one of them does not exist, or the
    tokenizer makes it equal to the first, none does.

    A companion with its caption's own token ids says nothing that the caption does not say, and does
    not exist either. What sets it apart was cut off by the tokenizer, or is upper case alone. As that
    is known after the draw, no other one takes its place.

    Companion images are drawn here, too, by name (`draw`). Those of a kind of texts belong to these place by
    place, and are drawn with them. An image that does not exist takes no text with it, nor the reverse.

    Args:
        tokenizer: a list of strings to token ids `[N, L]` int64, as of `open_clip.get_tokenizer`.
        counts: how many companions of each kind a caption gets.
        seed: seed of the draw.
        aligned: groups of kinds that belong together place by place.
        images: how many companion images of each kind a caption gets.

    Raises ValueError if kinds of a group, or texts and images of a kind, have different counts.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        counts: Mapping[str, int],
        seed: int = 0,
        aligned: Sequence[Sequence[str]] = (),
        images: Mapping[str, int] | None = None,
    ) -> None:
        self.tokenizer = by_word(tokenizer)
        self.counts = dict(counts)
        self.seed = seed
        self.groups = grouped(self.counts, aligned)
        for group in self.groups:
            if len({self.counts[kind] for kind in group}) > 1:
                raise ValueError(f"aligned kinds {', '.join(group)} need equal counts, got {self.counts}")
        self.images = dict(images or {})
        for kind, count in self.images.items():
            if self.counts.get(kind, count) != count:
                raise ValueError(f"{count} images of kind {kind} need as many texts, got {self.counts}")
        # Shared memory, because persistent loader workers outlive an epoch.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    @property
    def epoch(self) -> int:
        """The epoch that is drawn for."""
        return int(self._epoch.item())

    def set_epoch(self, epoch: int) -> None:
        """Draw anew, in workers that already run too."""
        self._epoch.fill_(epoch)

    def texts(self, captions: Sequence[str], companions: Sequence[Companions]) -> Tensor:
        """Token ids `[B, 1+C, L]` int64 of B captions and their companions by kind."""
        rows = [
            [caption, *self.choose(caption, others)]
            for caption, others in zip(captions, companions, strict=True)
        ]
        # A caption is tokenized even when it is empty; only companions can be absent.
        cells = [(b, n) for b, row in enumerate(rows) for n, text in enumerate(row) if n == 0 or text]
        ids = self.tokenizer([rows[b][n] for b, n in cells])
        texts = ids.new_zeros(len(rows), 1 + sum(self.counts.values()), ids.shape[-1])
        texts[tuple(torch.tensor(cells).T)] = ids
        texts[:, 1:][(texts[:, 1:] == texts[:, :1]).all(-1)] = 0
        self._drop_incomplete(texts)
        return texts

    def choose(self, caption: str, companions: Companions) -> list[str]:
        """The C companions that a caption gets, in the order of `counts`; "" for one that does not exist."""
        chosen = self.draw(caption, companions)
        return [text for kind in self.counts for text in chosen[kind]]

    def draw(self, caption: str, companions: Companions) -> dict[str, list[str]]:
        """The companions that a caption gets, by kind, the names of images among them; as `choose`.

        Drawn once more from what it returns, they are the same.
        """
        chosen: dict[str, list[str]] = {}
        for texts in [*self.groups, *((kind,) for kind in self.images if kind not in self.counts)]:
            names = [image_kind(kind) for kind in texts if kind in self.images]
            texts = tuple(kind for kind in texts if kind in self.counts)
            group = (*texts, *names)
            count = self.counts[texts[0]] if texts else self.images[group[0].removesuffix(IMAGE)]
            exists = partial(_exists, texts=len(texts)) if names else _exists
            places = _units([companions.get(kind, ()) for kind in group])
            units = self._draw("+".join(group), caption, places, count, exists)
            units += [("",) * len(group)] * (count - len(units))
            for place, kind in enumerate(texts):
                chosen[kind] = [unit[place] if _exists(unit[: len(texts)]) else "" for unit in units]
            for place, kind in enumerate(names, start=len(texts)):
                chosen[kind] = [unit[place] if exists(unit) else "" for unit in units]
        return chosen

    def _draw(
        self,
        name: str,
        caption: str,
        places: Sequence[Unit | list[Unit]],
        count: int,
        exists: Callable[[Unit], bool],
    ) -> list[Unit]:
        """At most `count` of the units, in the order of their places."""
        draw = random.Random(f"{self.seed}/{self._epoch.item()}/{name}/{caption}") if places else None
        units: list[Unit] = []
        spare: list[Unit] = []
        for place in places:
            if isinstance(place, list):
                assert draw is not None
                there = [unit for unit in place if exists(unit)]
                place, *others = draw.sample(there, len(there)) or [("",)]
                spare += others
            units.append(place)
        units += spare[: max(0, count - len(units))]
        if len(units) > count:
            units = [unit for unit in units if exists(unit)]
            if len(units) > count:
                assert draw is not None
                # Sorted, so that types keep their order: CE-CLIP has a threshold for each place.
                units = [units[i] for i in sorted(draw.sample(range(len(units)), count))]
        return units

    def _drop_incomplete(self, texts: Tensor) -> None:
        """Make zeros of aligned companions whose partner is zeros or has the same tokens, in place."""
        kinds = dict(
            zip(self.counts, torch.split(texts[:, 1:], list(self.counts.values()), dim=1), strict=True)
        )
        for first, *others in ([kinds[kind] for kind in group] for group in self.groups):
            for other in others:
                first[~present(other) | (first == other).all(-1)] = 0
            for other in others:
                other[~present(first)] = 0


def grouped(kinds: Iterable[str], aligned: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """The groups in which kinds are drawn: those that are aligned, and each other kind by itself."""
    taken = {kind for group in aligned for kind in group}
    return [*map(tuple, aligned), *((kind,) for kind in kinds if kind not in taken)]


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


def with_pictures(texts: Tensor, pictures: Sequence[int]) -> Tensor:
    """Token ids `[B, 1+C, L]` and one more row for each sample: the identity of its picture, and zeros.

    `model.forward` takes them apart again: upstream's loop hands two tensors from loader to model.
    """
    row = texts.new_zeros(len(texts), 1, texts.shape[-1])
    row[:, 0, 0] = torch.tensor(pictures, dtype=torch.int64)
    return torch.cat([texts, row], dim=1)


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


def _exists(unit: Unit, texts: int | None = None) -> bool:
    """Whether all of a unit is there; or, beside so many texts, one of its images."""
    if texts is not None and any(map(str.strip, unit[texts:])):
        return True
    return bool(unit[:texts]) and all(map(str.strip, unit[:texts]))


def _units(lists: Sequence[Sequence[str | Sequence[str]]]) -> list[Unit | list[Unit]]:
    """The units of some kinds by place, from the places of each kind; a list where there are alternatives."""
    for places in lists:
        if isinstance(places, str):  # each of its letters would be a text
            raise TypeError(f"expected a list of strings, got {places!r}")
    units: list[Unit | list[Unit]] = []
    for place in itertools.zip_longest(*lists, fillvalue=""):
        for text in place:
            if not isinstance(text, str):
                alternatives = ([text] if isinstance(text, str) else text for text in place)
                units.append(list(itertools.zip_longest(*alternatives, fillvalue="")))
                break
        else:
            units.append(cast("Unit", place))
    return units
