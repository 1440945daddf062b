"""Whether fine-tuning can show an effect on a base, from its scores on an evaluation seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from open_clip_ext import tables
from open_clip_ext.demo import benchmarks, world


@dataclass(frozen=True)
class Base:
    """What is measured on a base.

    Attributes:
        scale: its logit scale (exp).
        percent: right answers, by kind of edit and zero-shot set.
    """

    scale: float
    percent: Mapping[str, float]


@dataclass(frozen=True)
class Check:
    """One requirement on a base, with the measured value."""

    name: str
    percent: float
    low: float
    high: float

    @property
    def passed(self) -> bool:
        """Whether the value is within the limits."""
        return self.low <= self.percent <= self.high


def measured(model: str, seed: int, size: int) -> Base:
    """Score a base; the current folder must be the demo's.

    Args:
        model: its name, such as `local-dir:base-0/models/base`.
        seed: an evaluation seed.
        size: pictures of each kind.
    """
    from open_clip_ext.evaluation import models
    from open_clip_ext.evaluation.encode import Encoder
    from open_clip_ext.evaluation.evaluate import evaluate

    loaded = models.load(model, device="cpu")
    encoder = Encoder(loaded.model, loaded.preprocess, loaded.tokenizer)
    readers = (benchmarks.composition, benchmarks.relations, benchmarks.unmentioned, benchmarks.shape)
    found = evaluate(encoder, [read(seeds=str(seed), size=size) for read in readers], intervals=False)
    percent = {
        group: 100 * next(iter(metrics.values()))["value"]
        for result in found.values()
        for group, metrics in result["subsets"].items()
    }
    return Base(loaded.model.logit_scale.exp().item(), percent)


def checks(base: Base, share: float, ceiling: float, band: float) -> list[Check]:
    """The conditions that a base must meet.

    Every zero-shot set must be at least `share` of the way from chance to 100 %, because a set at chance
    cannot show forgetting. It must not be above `ceiling` %, because a set at its ceiling shows no gain and
    hides small losses. Exchanged words and relations must be within `band` points of 50 %; otherwise there is
    little to learn.
    """
    made = []
    for name, classes in world.CLASSES.items():
        chance = 100 / len(classes)
        made.append(Check(name, base.percent[name], chance + share * (100 - chance), ceiling))
    for kind in (*benchmarks.WORDS, *benchmarks.RELATIONS):
        made.append(Check(kind, base.percent[kind], 50 - band, 50 + band))
    return made


def text(of_bases: Sequence[Sequence[Check]]) -> str:
    """The gate as aligned text, with a column per base."""
    head = ["", "wanted", *(f"base {number}" for number in range(len(of_bases)))]
    body = [
        [
            same[0].name,
            f"{same[0].low:.1f} to {same[0].high:.1f}",
            *(f"{'' if check.passed else 'NOT MET '}{check.percent:.1f}" for check in same),
        ]
        for same in zip(*of_bases, strict=True)
    ]
    return tables.aligned(head, body)
