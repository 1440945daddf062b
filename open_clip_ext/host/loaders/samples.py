"""The samples of webdataset shards: their companions, and the first of them looked at before training."""

from __future__ import annotations

import io
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from functools import partial
from typing import Any

from open_clip_train import data as upstream
from PIL import Image

from open_clip_ext.data import Companions
from open_clip_ext.errors import InputError
from open_clip_ext.host.loaders.companions import identify, pack, parse, unpack
from open_clip_ext.host.loaders.found import Found
from open_clip_ext.host.loaders.stages import (
    caption_field,
    carry,
    choosing,
    image_fields,
    lenient,
    wanted,
    with_handler,
)
from open_clip_ext.host.loaders.tally import Tally, where
from open_clip_ext.texts import image_kind
from open_clip_ext.training.config import Settings
from open_clip_ext.training.kinds import key_flag

# Samples that are looked at before training: in all, and of a shard; shards that they come from at most;
# and how many of them are decoded.
PEEK, SHARDS, DECODED = 256, 100, 8
# Where companions of a sample travel until its caption is known, and then its companion images until they
# are decoded; and what says which picture it shows. Upstream decodes no field with such a name.
CARRIED, PICTURE = "__companions__", "__picture__"
IMAGES = "__companion_images__"
Draw = Callable[[str, Companions], tuple[str, list[str]]]


class PackSample:
    """Packs the companions of an undecoded webdataset sample into its caption.

    Texts are a field `NAME.json`, or a key NAME inside the field `json`. A sample without either has none.
    Images are the field `NAME.jpg`, or `NAME.0.jpg`, `NAME.1.jpg` and so on, where a number may be missing;
    or png, jpeg or webp. Raises InputError naming the sample if texts are no list of strings.

    Args:
        sources: the name of each kind of texts.
        images: the name of each kind of images.
        draw: from a caption and its companions, images being fields, what to put in place of the caption, and
            the fields that are wanted; None without images.
    """

    def __init__(
        self,
        sources: Mapping[str, str],
        images: Mapping[str, str] | None = None,
        draw: Draw | None = None,
    ) -> None:
        self.sources, self.draw = dict(sources), draw
        self.images = {image_kind(kind): name for kind, name in (images or {}).items()}
        # Names in shards are in small letters once they are read.
        self._members = {
            kind: re.compile(rf"{re.escape(name.lower())}(?:\.(\d\d?))?\.(?:png|jpe?g|webp)")
            for kind, name in self.images.items()
        }

    def insert(self, stages: list[Any], handler: Callable[[Exception], bool]) -> None:
        """Put it into upstream's stages, in place; `handler` is told of samples that it cannot read."""
        carry(stages, CARRIED, self.attach, partial(_pack_sample, self.draw, caption_field(stages)), handler)

    def attach(self, sample: dict[str, Any]) -> dict[str, Any]:
        """The sample without its companions' fields; they, and its place, are in `CARRIED`."""
        companions, rest = self.companions(sample), self.without_images(sample)
        images = {name: content for name, content in sample.items() if name not in rest}
        rest = {name: value for name, value in rest.items() if name not in self._fields()}
        return {**rest, CARRIED: (companions, images, where(sample))}

    def without_images(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """The sample without its companion images, which upstream would decode, drawn or not."""
        return {
            name: value
            for name, value in sample.items()
            if not any(member.fullmatch(name) for member in self._members.values())
        }

    def companions(self, sample: Mapping[str, Any]) -> dict[str, list[str]]:
        """The companions of a sample by kind, images as the names of their fields."""
        place = where(sample)
        texts = {
            kind: parse(value(sample, name), f"{place}, field {name!r}")
            for kind, name in self.sources.items()
        }
        return texts | {kind: self._places(sample, kind) for kind in self.images}

    def carries(self, sample: Mapping[str, Any], kind: str) -> bool:
        """Whether the sample has a place for companions of a kind at all."""
        if kind in self.images:
            return any(self._places(sample, kind))
        return value(sample, self.sources[kind]) is not None

    def field(self, kind: str) -> str:
        """Where companions of a kind are looked for, for a sentence."""
        if kind in self.images:
            return f"a field {self.images[kind]}.jpg or {self.images[kind]}.0.jpg"
        return f"a field {self.sources[kind]}.json or a key {self.sources[kind]} in its json"

    def _places(self, sample: Mapping[str, Any], kind: str) -> list[str]:
        """The field of the image at each place; "" where there is none."""
        found = {int(m[1] or 0): m[0] for m in map(self._members[kind].fullmatch, sample) if m}
        return [found.get(place, "") for place in range(max(found, default=-1) + 1)]

    def _fields(self) -> set[str]:
        return {f"{name}.json" for name in self.sources.values()}


class IdentifySample:
    """Puts the identity of its picture ahead of the caption of an undecoded webdataset sample.

    Args:
        key: of what says which picture it is, where companions of that name would lie; empty: the picture's
            own file does.
        stages: upstream's, as it made them.
    """

    def __init__(self, key: str, stages: Sequence[Any]) -> None:
        self.key, self.files = key, image_fields(stages)

    def insert(self, stages: list[Any], handler: Callable[[Exception], bool]) -> None:
        """Put it into upstream's stages, in place, before a `PackSample` is."""
        carry(stages, PICTURE, self.attach, partial(_identify_sample, caption_field(stages)), handler)

    def attach(self, sample: dict[str, Any]) -> dict[str, Any]:
        """The sample, and what says which picture it shows in `PICTURE`."""
        return {**sample, PICTURE: self.picture(sample)}

    def picture(self, sample: Mapping[str, Any]) -> str | bytes:
        """What two samples have in common that show the same picture.

        Raises InputError if there is nothing.
        """
        if not self.key:
            return next(bytes(sample[field]) for field in self.files if field in sample)
        found = value(sample, self.key)
        name = str(found, "utf-8", "replace") if isinstance(found, bytes) else str(found)
        if found is None or not name.strip():
            raise InputError(
                f"{where(sample)}: there is no {self.key} that says which picture it shows, and same=mask "
                "needs that"
            )
        return name.strip()


def value(sample: Mapping[str, Any], name: str) -> Any:
    """What an undecoded sample has in a field `NAME.json`, or else under a key NAME of its `json`."""
    if f"{name}.json" in sample:
        return sample[f"{name}.json"]
    if "json" in sample:
        try:
            metadata = json.loads(sample["json"])
        except ValueError as error:
            raise InputError(f"{where(sample)}: its json cannot be read ({error})") from error
        return metadata.get(name) if isinstance(metadata, dict) else None
    return None


def _identify_sample(field: str, sample: dict[str, Any]) -> dict[str, Any]:
    """The sample, the identity of its picture ahead of the caption in `field`, packed or not."""
    sample = dict(sample)
    picture, text = sample.pop(PICTURE), sample[field]
    text = text.decode("utf-8") if isinstance(text, bytes) else text
    return {**sample, field: identify(text, picture).encode("utf-8")}


def _pack_sample(draw: Draw | None, field: str, sample: dict[str, Any]) -> dict[str, Any]:
    """The sample, its companions packed into the caption in `field`; drawn images are in `IMAGES`."""
    sample = dict(sample)
    (companions, images, place), caption = sample.pop(CARRIED), sample[field]
    if isinstance(caption, bytes):
        try:
            caption = caption.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"its {field} is not UTF-8 ({error})") from error
    if draw is None:
        text = pack(caption, companions)
    else:
        text, names = draw(caption, companions)
        sample[IMAGES] = place, [images[name] if name else None for name in names]
    return {**sample, field: text.encode("utf-8")}


class FirstSamples:
    """The first samples of shards, read before training so that a wrong file or field costs no time.

    They are read as training reads them, and what it passes over is passed over here.

    Args:
        data: the shards, as `--train-data` names them.
        packer: reads the companions of a sample.
        stages: upstream's, as it made them. Only some samples are decoded, because pictures take long.

    Attributes:
        samples: as they are in their shards, those that nothing is wrong with.
        captions: the caption of each.
        texts: the companions of each by kind.
        where: what was looked at, for a sentence.
        broken: what was passed over, for the log.

    Raises InputError if there is no such sample.
    """

    def __init__(self, data: str, packer: PackSample, stages: Sequence[Any]) -> None:
        self.packer = packer
        self.samples: list[dict[str, Any]] = []
        self.captions: list[str] = []
        self.texts: list[dict[str, list[str]]] = []
        self.decoded: Counter[str] = Counter()  # companion images, by kind
        self.broken_images: Counter[str] = Counter()
        self.tally = tally = Tally(f"--train-data {data}:", wanted(stages), lambda error: True)
        self.field = caption_field(stages)
        self.decode = with_handler(lenient(stages)[-1], tally.bad_sample)
        self.read = [with_handler(stage, tally.bad_sample) for stage in choosing(stages)]
        undrawn = copy(packer)
        undrawn.draw = None
        undrawn.insert(self.read, tally.bad_sample)
        choose = self.read.pop(0)
        shards = upstream.expand_urls(data)[0]
        for shard in tally.draw({"url": url} for url in shards[:SHARDS]):
            samples = upstream.tarfile_to_samples_nothrow([shard], handler=tally.bad_file)
            read = tally.read(itertools.islice(samples, PEEK))
            for sample in tally.complete(choose(read)):
                self._look_at(sample)
            if len(self.samples) >= PEEK:
                break
        self.where = shards[0] if tally.shards == 1 else f"{tally.shards} shards of {data}"
        if not self.samples:
            raise InputError(tally.problem())
        seen = f"the first problem among {tally.whole} samples looked at"
        self.broken = f"; {seen}: {tally.first}" if tally.first else ""

    def _look_at(self, sample: dict[str, Any]) -> None:
        found: Any = [sample]
        for stage in self.read:
            found = stage(found)
        for chosen in found:  # one, or none
            packed: tuple[str, Any] = unpack(chosen[self.field])
            caption, companions = packed
            if len(self.samples) < DECODED:
                if not list(self.decode([chosen])):
                    return
                self._look_at_images(sample, companions)
            self.samples.append(sample)
            self.captions.append(caption)
            self.texts.append(companions)

    def _look_at_images(self, sample: dict[str, Any], companions: dict[str, list[str]]) -> None:
        """Decode the companion images of a sample; a broken one becomes missing."""
        for kind in self.packer.images:
            for place, name in enumerate(companions[kind]):
                if not name:
                    continue
                self.decoded[kind] += 1
                try:
                    with Image.open(io.BytesIO(sample[name])) as image:
                        image.convert("RGB")
                except Exception as error:
                    companions[kind][place] = ""
                    self.broken_images[kind] += 1
                    self.tally.bad_sample(InputError(f"{where(sample)}: its {name} cannot be read ({error})"))

    def require(self, settings: Settings) -> Found:
        """The companions; raises InputError unless there are as many as the loss wants."""
        seen = len(self.samples)
        for kind in settings.keys:
            if not any(self.packer.carries(sample, kind) for sample in self.samples):
                raise InputError(self._lacking(self.packer.field(kind), key_flag(kind)))
            if self.broken_images[kind] == self.decoded[kind] >= max(1, DECODED // 2):
                raise InputError(
                    f"{self.where}: none of the {self.decoded[kind]} {kind}s looked at can be read; the "
                    f"first problem: {self.tally.first}; repair them, or name other ones with "
                    f"{key_flag(kind)}"
                )

        def place(group: Sequence[str]) -> str:
            fields = " and ".join(repr(settings.keys[kind]) for kind in group)
            return f"{self.where}, field{'s' if len(group) > 1 else ''} {fields}"

        kinds = {kind: [texts[kind] for texts in self.texts] for kind in settings.keys}
        return Found(settings, kinds, place, f"of its first {seen} samples")

    def pictures(self, identify: IdentifySample) -> list[str | bytes]:
        """What says which picture each of them shows; raises InputError if one does not say it."""
        key = identify.key
        if key and not any(value(sample, key) is not None for sample in self.samples):
            raise InputError(self._lacking(f"a field {key}.json or a key {key} in its json", "--picture-key"))
        return [identify.picture(sample) for sample in self.samples]

    def _lacking(self, what: str, flag: str) -> str:
        fields = sorted({f for sample in self.samples for f in sample if not f.startswith("__")})
        return (
            f"{self.where}: none of its first {len(self.samples)} samples has {what}; their fields: "
            f"{', '.join(fields)}; name one with {flag}"
        )
