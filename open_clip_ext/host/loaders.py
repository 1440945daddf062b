"""Companion texts on their way through upstream's CSV, webdataset and synthetic training loaders.

Upstream's readers yield an image and `tokenizer(caption)[0]`, and know of no other text. So the
caption of a sample is exchanged for a packed string that holds its companions too, a tokenizer
that passes strings through brings it to the collate function, and there, in the loader's worker,
all texts of a batch are tokenized. With a negatives store nothing is packed: the collate function
looks its captions up.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from typing import Any

import webdataset as wds
from open_clip_train import data as upstream
from torch import Tensor
from torch.utils.data import default_collate
from webdataset.filters import FilterFunction, _decode, _select

from open_clip_ext.data import CompanionCollate, Companions, Tokenizer, parse_texts
from open_clip_ext.errors import InputError
from open_clip_ext.host import csv_data, tokens
from open_clip_ext.host.pictures import Readable, spread
from open_clip_ext.host.stream import Indexed, Shards, Source, Stream, index
from open_clip_ext.host.tally import Tally, where
from open_clip_ext.negatives.store import Store
from open_clip_ext.texts import is_list
from open_clip_ext.training.config import NEGATIVES, Settings

# Samples that are looked at before training: in all, and of a shard; shards that they come from at most;
# and how many of them are decoded.
PEEK, SHARDS, DECODED = 256, 100, 8
# How often over shards that are drawn without end may bring nothing before a run gives them up.
ROUNDS = 20
# Captions of a CSV that are looked up in a store before training.
SAMPLE = 10_000


@dataclass
class Feed:
    """What we keep beside a training loader."""

    collate: CompanionCollate
    summary: str = "the training data brings captions only"
    broken: Counter = field(default_factory=lambda: Counter(upstream.log_and_continue))
    lookup: LookUp | None = None


class Count:
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


class Counter(Count):
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


class Unpack:
    """A `collate_fn` that turns captions into `[B, 1+C, L]` token ids.

    Args:
        collate: makes the token ids.
        batched: whether webdataset makes the batch itself.
        companions: a caption and its companions, from the string that stands for them.
    """

    def __init__(
        self,
        collate: CompanionCollate,
        batched: bool,
        companions: Callable[[str], tuple[str, Companions]] | None = None,
    ) -> None:
        self.collate = collate
        self.batched = batched
        self.companions = companions or unpack

    def __call__(self, samples: Any) -> tuple[Tensor, ...] | None:
        """Images `[B,3,H,W]` and texts `[B,1+C,L]` of a batch, and what else a `Stream` adds to it."""
        if samples is None:  # a batch before the one that a resumed run begins with
            return None
        images, packed, *rest = samples if self.batched else zip(*samples, strict=True)
        captions, companions = zip(*map(self.companions, packed), strict=True)
        if not self.batched:
            images = default_collate(list(images))
        return images, self.collate.texts(captions, companions), *rest


def pack(caption: str, companions: Companions) -> str:
    """A caption and its companions by kind as one string."""
    return json.dumps([caption, companions])


def unpack(packed: str) -> tuple[str, Companions]:
    """Undo `pack`."""
    caption, companions = json.loads(packed)
    return caption, companions


class LookUp:
    """The negatives of a caption in a store, by type; it counts the captions that have no entry."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.types = store.types(NEGATIVES)
        self.seen, self.missing = Count(), Count()

    def __call__(self, caption: str) -> tuple[str, Companions]:
        """The caption, and for each type of the store a list of its negatives."""
        places = self.find(caption)
        self.seen.add(1)
        if places is None:
            self.missing.add(1)
        return caption, {NEGATIVES: places or []}

    def find(self, caption: str) -> list[list[str]] | None:
        """The negatives for each type; None if the store does not know the caption."""
        return self.store.texts_by_type(caption, self.types, NEGATIVES)


def build(
    builder: Callable[..., Any],
    settings: Settings,
    args: argparse.Namespace,
    preprocess: Any,
    tokenizer: Tokenizer,
    **options: Any,
) -> Any:
    """Upstream's training loader, with companion texts if the loss wants any.

    Raises InputError if the data do not carry them.
    """
    wanted = bool(settings.companions)
    with csv_data.as_text(args) as tables:
        info = builder(
            args, preprocess, is_train=True, tokenizer=PassThrough() if wanted else tokenizer, **options
        )
    feed = Feed(CompanionCollate(tokenizer, settings.companions, seed=args.seed))
    info._open_clip_ext = feed
    if settings.store is not None:
        feed.lookup = LookUp(settings.store)
    loader = info.dataloader
    _require_step(loader, args)
    source: Source
    if isinstance(loader, wds.DataPipeline):
        tally = _lead_webdataset(info, feed, settings, args)
        source = Shards(loader.pipeline[0], info.shared_epoch, args.batch_size, args.seed, args.rank, tally)
    else:
        if wanted:
            loader.collate_fn = Unpack(feed.collate, batched=False, companions=feed.lookup)
            if feed.lookup is not None:
                captions = getattr(loader.dataset, "captions", None) or [loader.dataset.caption]
                chosen = [captions[i] for i in spread(len(captions), SAMPLE)]
                feed.summary = _cover(chosen, feed, feed.lookup, settings, args.train_data)
            elif tables:
                _lead_csv(tables[0], loader.dataset, feed, settings, args)
            else:
                _lead_synthetic(loader.dataset, feed, settings)
        elif tables:
            _warn_of_cuts(feed, loader.dataset.captions, [()] * len(loader.dataset), args.train_data)
        samples = loader.dataset
        if tables:
            for doubt in csv_data.doubts(tables[0], args):
                logging.warning(f"open_clip_ext: {doubt}")
            skipped = feed.broken.add if settings.skip_broken_images else None
            samples = Readable(samples, args.train_data, skipped)
        source = Indexed(loader, samples, args.seed)
    info.dataloader = Stream(source, loader, args.seed, args.rank)
    return info


def _require_step(loader: Any, args: argparse.Namespace) -> None:
    """Stop if an epoch has no optimizer step: upstream would save what it has not trained."""
    if loader.num_batches < args.accum_freq:
        data = f"--train-data {args.train_data}" if args.train_data else "--dataset-type synthetic"
        raise InputError(
            f"{data}: an epoch of {loader.num_samples} samples has no step of --batch-size {args.batch_size} "
            f"x --accum-freq {args.accum_freq} x {args.world_size} processes; give a smaller --batch-size"
        )


def describe(info: Any) -> str:
    """What a training loader of ours brings, for the log."""
    return str(info._open_clip_ext.summary)


def begin_epoch(info: Any, epoch: int) -> None:
    """Draw this epoch's companions anew."""
    info._open_clip_ext.collate.set_epoch(epoch)


def end_epoch(info: Any, epoch: int) -> None:
    """Say how many broken samples upstream's reader passed over."""
    broken = info._open_clip_ext.broken.take()
    if broken:
        logging.warning(f"open_clip_ext: epoch {epoch}: {broken} broken samples or files were skipped")
    if (lookup := info._open_clip_ext.lookup) is not None:
        seen, missing = lookup.seen.take(), lookup.missing.take()
        if missing:
            logging.warning(
                f"open_clip_ext: epoch {epoch}: {missing} of {seen} captions have no entry in "
                f"{lookup.store.path} and were trained on without negatives"
            )
        if 2 * missing > seen:
            raise InputError(
                f"--negatives {lookup.store.path}: {missing} of {seen} captions of epoch {epoch} have no "
                "entry there; make the store from these data"
            )


def _lead_csv(table: Any, dataset: Any, feed: Feed, settings: Settings, args: argparse.Namespace) -> None:
    path = args.train_data
    captions = dataset.captions
    kinds: dict[str, list[list[str]]] = {}
    for kind, column in settings.sources.items():
        kinds[kind] = [
            _parse(value, f"{path}, data row {row}") for row, value in enumerate(table[column], start=1)
        ]
        _require_enough(kinds[kind], settings.companions[kind], f"{path}, column {column!r}", "row")
    dataset.captions = [
        pack(caption, dict(zip(kinds, texts, strict=True)))
        for caption, *texts in zip(captions, *kinds.values(), strict=True)
    ]
    _warn_of_cuts(feed, captions, kinds[NEGATIVES], path)
    feed.summary = "; ".join(
        f"{kind}: {sum(map(bool, lists))} of {len(lists)} captions have some, "
        f"{sum(min(_count(texts), settings.companions[kind]) for texts in lists) / len(lists):.2f} "
        f"of {settings.companions[kind]} on average"
        for kind, lists in kinds.items()
    )


def _lead_synthetic(dataset: Any, feed: Feed, settings: Settings) -> None:
    dummies = {
        kind: [f"Dummy {kind} {i}" for i in range(count)] for kind, count in settings.companions.items()
    }
    dataset.caption = pack(dataset.caption, dummies)
    feed.summary = "synthetic captions with synthetic companions"


def _lead_webdataset(info: Any, feed: Feed, settings: Settings, args: argparse.Namespace) -> Tally:
    """Lead companion texts through upstream's pipeline; what will be counted in it while it trains."""
    loader = info.dataloader.pipeline[0]
    stages: list[Any] = loader.dataset.pipeline
    tally = Tally(
        f"--train-data {args.train_data}: a loader worker found that",
        feed.broken,
        args.batch_size,
        ROUNDS * len(stages[0].urls) if args.dataset_resampled else math.inf,
    )
    at = stages.index(upstream.tarfile_to_samples_nothrow)
    stages[at : at + 1] = tally.draw, partial(stages[at], handler=tally.bad_file), tally.read
    stages[index(stages, _decode)].kw["handler"] = tally.bad_sample
    packer = PackSample(settings.sources)
    look = Look(args.train_data, packer, stages[index(stages, _decode)])
    captions = [packer.caption(sample) for sample in look.samples]
    lists = list(filter(is_list, captions))
    if 2 * len(lists) > len(captions):
        raise InputError(
            f"{look.where}: {len(lists)} of {len(captions)} captions looked at are lists, such as "
            f"{lists[0][:60]!r}; training reads one caption in a txt: write one into each"
        )
    if feed.lookup is not None:
        feed.summary = _cover(captions, feed, feed.lookup, settings, look.where)
        loader.collate_fn = Unpack(feed.collate, batched=True, companions=feed.lookup)
    elif settings.companions:
        look.require(settings)
        # A sample whose companions cannot be read is broken: counted and passed over like any other.
        stages.insert(index(stages, _select) + 1, wds.map(packer, handler=tally.bad_sample))
        loader.collate_fn = Unpack(feed.collate, batched=True)
        names = ", ".join(settings.sources.values())
        feed.summary = f"companion texts from the fields {names} of each sample"
    if feed.lookup is None:
        _warn_of_cuts(feed, captions, [texts.get(NEGATIVES, ()) for texts in look.texts], look.where)
    feed.summary += look.broken
    return tally


class Look:
    """The first samples of shards, read before training so that a wrong file or field costs no time.

    They are read as training reads them, and what it passes over is passed over here.

    Args:
        data: the shards, as `--train-data` names them.
        packer: reads the companions of a sample.
        decode: upstream's stage that decodes samples; only some are, because pictures take long.

    Attributes:
        samples: undecoded, those that nothing is wrong with.
        texts: the companions of each by kind.
        where: what was looked at, for a sentence.
        broken: what was passed over, for the log.

    Raises InputError if there is no such sample.
    """

    def __init__(self, data: str, packer: PackSample, decode: FilterFunction) -> None:
        self.packer = packer
        self.samples: list[dict[str, Any]] = []
        self.texts: list[dict[str, list[str]]] = []
        self.tally = tally = Tally(f"--train-data {data}:", lambda error: True)
        decode = FilterFunction(decode.f, *decode.args, **{**decode.kw, "handler": tally.bad_sample})
        shards = upstream.expand_urls(data)[0]
        for shard in tally.draw({"url": url} for url in shards[:SHARDS]):
            samples = upstream.tarfile_to_samples_nothrow([shard], handler=tally.bad_file)
            read = tally.read(itertools.islice(samples, PEEK))
            for sample in tally.complete(filter(upstream.filter_no_caption_or_no_image, read)):
                self._look_at(sample, decode)
            if len(self.samples) >= PEEK:
                break
        self.where = shards[0] if tally.shards == 1 else f"{tally.shards} shards of {data}"
        if not self.samples:
            raise InputError(tally.problem())
        seen = f"the first problem among {tally.whole} samples looked at"
        self.broken = f"; {seen}: {tally.first}" if tally.first else ""

    def _look_at(self, sample: dict[str, Any], decode: FilterFunction) -> None:
        try:
            texts = self.packer.companions(sample)
            self.packer.caption(sample)
        except Exception as error:
            self.tally.bad_sample(error)
            return
        if len(self.samples) < DECODED and not list(decode([sample])):
            return
        self.samples.append(sample)
        self.texts.append(texts)

    def require(self, settings: Settings) -> None:
        """Raise InputError unless there are as many companions as the loss wants."""
        seen = len(self.samples)
        names = ", ".join(self.packer.sources.values())
        if not any(map(self.packer.carries, self.samples)):
            fields = sorted({name for sample in self.samples for name in sample if not name.startswith("__")})
            raise InputError(
                f"{self.where}: none of its first {seen} samples has a field {names}.json or a key "
                f"{names} in its json; their fields: {', '.join(fields)}; name one with --negatives-key"
            )
        for kind, count in settings.companions.items():
            lists = [texts[kind] for texts in self.texts]
            field = f"{self.where}, field {settings.sources[kind]!r}"
            _require_enough(lists, count, field, f"of its first {seen} samples")


class PackSample:
    """Packs the companions of an undecoded webdataset sample into its caption.

    They are a field `NAME.json`, or a key NAME inside the field `json`. A sample without either
    has none. Raises InputError naming the sample if what is there is not a list of strings.
    """

    def __init__(self, sources: Mapping[str, str]) -> None:
        self.sources = dict(sources)

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """The sample, its `txt` packed and the companions' own fields gone."""
        texts = self.companions(sample)
        sample = {name: value for name, value in sample.items() if name not in self._fields()}
        sample["txt"] = pack(self.caption(sample), texts).encode("utf-8")
        return sample

    @staticmethod
    def caption(sample: Mapping[str, Any]) -> str:
        """The caption of a sample."""
        try:
            return str(sample["txt"], "utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{where(sample)}: its txt is not UTF-8 ({error})") from error

    def companions(self, sample: Mapping[str, Any]) -> dict[str, list[str]]:
        """The companions of a sample by kind."""
        place = where(sample)
        return {kind: _parse(self._value(sample, name), place) for kind, name in self.sources.items()}

    def carries(self, sample: Mapping[str, Any]) -> bool:
        """Whether the sample has a place for companions at all."""
        return any(self._value(sample, name) is not None for name in self.sources.values())

    def _fields(self) -> set[str]:
        return {f"{name}.json" for name in self.sources.values()}

    @staticmethod
    def _value(sample: Mapping[str, Any], name: str) -> Any:
        if f"{name}.json" in sample:
            return sample[f"{name}.json"]
        if "json" in sample:
            try:
                metadata = json.loads(sample["json"])
            except ValueError as error:
                raise InputError(f"{where(sample)}: its json cannot be read ({error})") from error
            return metadata.get(name) if isinstance(metadata, dict) else None
        return None


def _cover(captions: Sequence[str], feed: Feed, lookup: LookUp, settings: Settings, where: str) -> str:
    """How many of some captions of the data have negatives in the store, in words.

    Args:
        captions: those that are looked up.
        feed: of the loader.
        lookup: finds them.
        settings: of the run.
        where: the data, for a sentence.

    Raises InputError if most have no entry or none has a negative.
    """
    store, wanted = lookup.store, settings.companions[NEGATIVES]
    found = [lookup.find(caption) for caption in captions]
    unknown = [caption for caption, places in zip(captions, found, strict=True) if places is None]
    if 2 * len(unknown) > len(captions):
        raise InputError(
            f"--negatives {store.path}: {len(unknown)} of {len(captions)} captions looked up for {where} "
            f"have no entry there, such as {unknown[0][:60]!r}; make the store from these data"
        )
    texts = [[text for place in places or () for text in place] for places in found]
    if len(lookup.types) < wanted or not any(texts):
        _require_enough(texts, wanted, f"--negatives {store.path}, looked up for {where}", "caption")
    _warn_of_cuts(feed, captions, texts, where)
    store.close()  # not to be carried into workers that are forked
    some, mean = sum(map(bool, texts)), sum(min(len(t), wanted) for t in texts) / len(texts)
    return (
        f"{NEGATIVES}: from {store.path}, for {some} of {len(captions)} captions looked up, "
        f"{mean:.2f} of {wanted} on average; {len(unknown)} have no entry"
    )


def _warn_of_cuts(
    feed: Feed, captions: Sequence[str], negatives: Sequence[Sequence[str]], where: str
) -> None:
    for sentence in tokens.cut(feed.collate.tokenizer, captions, negatives, where):
        logging.warning(f"open_clip_ext: {sentence}")


def _parse(value: Any, where: str) -> list[str]:
    if value is None:
        return []
    try:
        return parse_texts(value)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error


def _count(texts: Sequence[str]) -> int:
    return sum(map(bool, texts))


def _require_enough(lists: Sequence[Sequence[str]], wanted: int, where: str, unit: str) -> None:
    """Stop if there are no companions at all, or never as many as asked for."""
    most = max(map(len, lists), default=0)
    if not any(map(_count, lists)):
        raise InputError(f"{where}: there is no negative in any {unit}; make some, or train with --loss clip")
    if most < wanted:
        raise InputError(
            f"{where}: --num-negatives {wanted} is more than any {unit} has ({most} at most); "
            f"give --num-negatives {most}"
        )
