"""Companion texts on their way through upstream's training loaders, whatever kind of data they read.

Upstream's readers yield an image and `tokenizer(caption)[0]`, and know of no other text. So the
caption of a sample is exchanged for a packed string that holds its companions too, a tokenizer
that passes strings through brings it to the collate function, and there, in the loader's worker,
all texts of a batch are tokenized. With a store nothing is packed: the collate function
looks its captions up.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

from open_clip_train import data as upstream
from torch.utils.data import default_collate

from open_clip_ext.data import CompanionCollate, Companions, parse_texts, with_pictures
from open_clip_ext.errors import InputError
from open_clip_ext.host.loaders import truncation
from open_clip_ext.host.loaders.found import Found, Texts, lacking
from open_clip_ext.host.loaders.layout import Layout
from open_clip_ext.identity import picture_identity
from open_clip_ext.negatives.store import Store
from open_clip_ext.texts import image_kind
from open_clip_ext.training.config import Settings
from open_clip_ext.training.kinds import several

if TYPE_CHECKING:
    from open_clip_ext.host.loaders.pairs import Pairs


class SharedCounter:
    """A number that all loader workers add to."""

    def __init__(self) -> None:
        self._count = get_context().Value("q", 0)

    def add(self, number: int) -> None:
        """Add a number."""
        with self._count.get_lock():
            self._count.value += number

    def take(self) -> int:
        """The count since the last call."""
        with self._count.get_lock():
            count, self._count.value = self._count.value, 0
        return int(count)


class CountingHandler(SharedCounter):
    """An exception handler that counts over all workers, then does what upstream's does."""

    def __init__(self, handler: Callable[[Exception], bool]) -> None:
        super().__init__()
        self.handler = handler

    def __call__(self, error: Exception) -> bool:
        """Whether to go on."""
        self.add(1)
        return self.handler(error)


class PassThrough:
    """Stands in for the tokenizer in upstream's readers: the text comes out as it went in."""

    def __call__(self, text: str | list[str]) -> list[str]:
        """A list whose first entry is the text, as upstream takes it."""
        return [text] if isinstance(text, str) else text


class CompanionBatches:
    """A `collate_fn` that turns captions into `[B, 1+C, L]` token ids.

    Args:
        collate: makes the token ids.
        layout: of the batches.
        batched: whether webdataset makes the batch itself.
        companions: a caption and its companions, from the string that stands for them.
        pairs: makes pairs of samples, if there shall be any.
        identified: whether the identity of the picture stands ahead of that string; it becomes a row of the
            texts, see `with_pictures`.
    """

    def __init__(
        self,
        collate: CompanionCollate,
        layout: Layout,
        batched: bool,
        companions: Callable[[str], tuple[str, Companions]],
        pairs: Pairs | None = None,
        identified: bool = False,
    ) -> None:
        self.collate = collate
        self.layout = layout
        self.batched = batched
        self.companions = companions
        self.pairs = pairs
        self.identified = identified

    def __call__(self, samples: Any) -> Any:
        """The batch of B samples as upstream collates it, but with texts `[B,1+C,L]`."""
        if samples is None:  # a batch before the one that a resumed run begins with
            return None
        batch = samples if self.batched else default_collate(samples)
        strings, pictures = self.layout.text(batch), None
        if self.identified:
            pictures, strings = zip(*map(split_identity, strings), strict=True)
        captions, companions = zip(*map(self.companions, strings), strict=True)
        if self.pairs is not None:
            batch = self.layout.with_image(batch, self.pairs.images(self.layout.image(batch)))
            texts = self.pairs.texts(captions)
        else:
            texts = self.collate.texts(captions, companions)
        return self.layout.with_text(batch, with_pictures(texts, pictures) if pictures else texts)


def pack(caption: str, companions: Companions) -> str:
    """A caption and its companions by kind as one string."""
    return json.dumps([caption, companions])


def bare(caption: str) -> tuple[str, Companions]:
    """A caption that is not packed."""
    return caption, {}


def unpack(packed: str) -> tuple[str, Companions]:
    """Undo `pack`."""
    caption, companions = json.loads(packed)
    return caption, companions


def identify(text: str, picture: str | bytes) -> str:
    """A text behind the identity of its picture, of which `picture` is the name or the file."""
    return f"{picture_identity(picture)} {text}"


def split_identity(identified: str) -> tuple[int, str]:
    """Undo `identify`."""
    identity, _, text = identified.partition(" ")
    return int(identity), text


class StoreLookup:
    """The companions of a caption in a store; it counts the captions that have no entry.

    Args:
        store: the store.
        groups: the kinds that are wanted, those together that are drawn together.
    """

    def __init__(self, store: Store, groups: Sequence[tuple[str, ...]]) -> None:
        self.store = store
        self.types = {group: store.types(group[0]) for group in groups}
        self.seen, self.missing = SharedCounter(), SharedCounter()

    def __call__(self, caption: str) -> tuple[str, Companions]:
        """The caption, and of each kind for each type of the store a list of its texts."""
        companions = self.find(caption)
        self.seen.add(1)
        if companions is None:
            self.missing.add(1)
        return caption, companions or {}

    def find(self, caption: str) -> dict[str, list[list[str]]] | None:
        """Of each kind the texts for each type; None if the store does not know the caption."""
        return self.store.companions(caption, self.types)


@dataclass
class LoaderState:
    """What is known about a training loader beside its batches.

    Attributes:
        collate: makes the token ids of its texts.
        layout: of its samples and batches.
        summary: what companions it brings, for the log.
        broken: handles and counts what upstream's reader passes over.
        lookup: finds the companion texts, if they come from a store.
        broken_images: counts the companion images that cannot be read and are missing.
        pairs: makes pairs of samples, if the loss wants them.
    """

    collate: CompanionCollate
    layout: Layout
    summary: str = "the training data brings captions only"
    broken: CountingHandler = field(default_factory=lambda: CountingHandler(upstream.log_and_continue))
    lookup: StoreLookup | None = None
    broken_images: SharedCounter = field(default_factory=SharedCounter)
    pairs: Pairs | None = None

    def collate_fn(self, settings: Settings, batched: bool) -> CompanionBatches:
        """What makes the batches; `batched` as there."""
        # What the data carry is packed, and with it what a store has.
        companions = unpack if settings.keys else self.lookup or bare
        return CompanionBatches(
            self.collate, self.layout, batched, companions, self.pairs, settings.identified
        )

    def begin_epoch(self, epoch: int) -> None:
        """Draw this epoch's companions anew."""
        self.collate.set_epoch(epoch)

    def end_epoch(self, epoch: int) -> None:
        """Say how many broken samples upstream's reader passed over, and how many captions had no entry.

        Raises InputError if most had none.
        """
        broken = self.broken.take()
        if broken:
            logging.warning(f"open_clip_ext: epoch {epoch}: {broken} broken samples or files were skipped")
        broken = self.broken_images.take()
        if broken:
            logging.warning(
                f"open_clip_ext: epoch {epoch}: {broken} companion images could not be read and counted as "
                "missing"
            )
        if self.lookup is None:
            return
        seen, missing, path = self.lookup.seen.take(), self.lookup.missing.take(), self.lookup.store.path
        if missing:
            logging.warning(
                f"open_clip_ext: epoch {epoch}: {missing} of {seen} captions have no entry in {path} and "
                f"were trained on without {' and '.join(map(several, self.collate.counts))}"
            )
        if 2 * missing > seen:
            raise InputError(
                f"--negatives {path}: {missing} of {seen} captions of epoch {epoch} have no entry there; "
                "make the store from these data"
            )


def repeats(pictures: Sequence[str | bytes], captions: Sequence[str], what: str) -> str:
    """How many samples are the same, in words."""
    return f"{len(captions)} {what} show {len(set(pictures))} pictures and have {len(set(captions))} captions"


def check_coverage(
    captions: Sequence[str], state: LoaderState, lookup: StoreLookup, settings: Settings, where: str
) -> str:
    """How many of some captions of the data have companions in the store, in words.

    Args:
        captions: those that are looked up.
        state: of the loader.
        lookup: finds them.
        settings: of the run.
        where: the data, for a sentence.

    Raises InputError if most have no entry, or there are too few companions of a kind.
    """
    store = lookup.store
    entries = [lookup.find(caption) for caption in captions]
    unknown = [caption for caption, entry in zip(captions, entries, strict=True) if entry is None]
    if 2 * len(unknown) > len(captions):
        raise InputError(
            f"--negatives {store.path}: {len(unknown)} of {len(captions)} captions looked up for {where} "
            f"have no entry there, such as {unknown[0][:60]!r}; make the store from these data"
        )

    def place(kinds: Sequence[str]) -> str:
        return f"--negatives {store.path}, looked up for {where}"

    for group in lookup.types:
        absent = [kind for kind in group if not store.types(kind)]
        if absent or not any(entry and any(entry[group[0]]) for entry in entries):
            # If none is absent, each may be there without its partners.
            raise InputError(lacking(absent[:1] or group, place, "caption"))
    for kind in settings.images.keys() & settings.companions.keys():
        shared = (texts[0] for entry in entries for texts in (entry or {}).get(kind, ()) if len(texts) > 1)
        if text := next(shared, None):
            raise InputError(
                f"{place([kind])}: {several(kind)} such as {text[:60]!r} share their place with others, so "
                f"which of them a {image_kind(kind)} belongs to is not known; write a text for each image "
                "into the training data"
            )
    texts = {
        kind: [[text for place in (entry or {}).get(kind, ()) for text in place] for entry in entries]
        for kind in settings.companions
    }
    # A caption that was not looked at may have more, as far as there are types.
    places = {kind: len(types) for group, types in lookup.types.items() for kind in group}
    found = Found(settings, texts, place, "caption", places)
    warn_of_truncation(state, captions, found.texts, where)
    store.close()  # not to be carried into workers that are forked
    kinds = "; ".join(
        f"{kind}: from {store.path}, for {found.some(kind)} of {len(captions)} captions looked up, "
        f"{found.average(kind)} on average"
        for kind in texts
    )
    return f"{kinds}; {len(unknown)} have no entry"


def warn_of_truncation(
    state: LoaderState, captions: Sequence[str], companions: Mapping[str, Texts], where: str
) -> None:
    """Log what the tokenizer cuts off captions and their companions; `where` names the data.

    Raises InputError if to it no companion of a kind differs from its caption.
    """
    for sentence in truncation.describe(state.collate.tokenizer, captions, companions, where):
        logging.warning(f"open_clip_ext: {sentence}")


def parse(value: Any, where: str) -> list[str]:
    """The texts in a cell or field; none in a missing one.

    Raises InputError, which says `where` it is, if what is there is no list of strings.
    """
    if value is None:
        return []
    try:
        return parse_texts(value)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error
