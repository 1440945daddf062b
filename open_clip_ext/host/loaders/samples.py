"""The samples of webdataset shards: their companions, and the first of them looked at before training."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from open_clip_train import data as upstream
from webdataset.filters import FilterFunction

from open_clip_ext.errors import InputError
from open_clip_ext.host.loaders.companions import pack, parse
from open_clip_ext.host.loaders.found import Found
from open_clip_ext.host.loaders.tally import Tally, where
from open_clip_ext.training.config import Settings
from open_clip_ext.training.kinds import key_flag

# Samples that are looked at before training: in all, and of a shard; shards that they come from at most;
# and how many of them are decoded.
PEEK, SHARDS, DECODED = 256, 100, 8


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
        return {kind: parse(self._value(sample, name), place) for kind, name in self.sources.items()}

    def carries(self, sample: Mapping[str, Any], kind: str) -> bool:
        """Whether the sample has a place for companions of a kind at all."""
        return self._value(sample, self.sources[kind]) is not None

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


class FirstSamples:
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

    def require(self, settings: Settings) -> Found:
        """The companions; raises InputError unless there are as many as the loss wants."""
        seen = len(self.samples)
        for kind, name in self.packer.sources.items():
            if not any(self.packer.carries(sample, kind) for sample in self.samples):
                fields = sorted({f for sample in self.samples for f in sample if not f.startswith("__")})
                raise InputError(
                    f"{self.where}: none of its first {seen} samples has a field {name}.json or a key "
                    f"{name} in its json; their fields: {', '.join(fields)}; name one with {key_flag(kind)}"
                )

        def place(group: Sequence[str]) -> str:
            fields = " and ".join(repr(settings.sources[kind]) for kind in group)
            return f"{self.where}, field{'s' if len(group) > 1 else ''} {fields}"

        kinds = {kind: [texts[kind] for texts in self.texts] for kind in self.packer.sources}
        return Found(settings, kinds, place, f"of its first {seen} samples")
