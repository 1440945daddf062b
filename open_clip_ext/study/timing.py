"""How fast trainings are, and how far, from upstream's log."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from open_clip_ext.study.parts import RUN, Part, epochs

# `2026-11-29,22:14:01 | INFO | Train Epoch: 3 [ 128/512 (25%)] ... Batch (t): 0.120, ...`, epochs from 0.
LINE = re.compile(r"Train Epoch: (\d+) \[ *(\d+)/(\d+) \((\d+)%\)\].*?Batch \(t\): ([\d.]+), ([\d.e+]+)/s")


@dataclass(frozen=True)
class Rate:
    """Seconds of a step, and the hours of a whole training at that speed."""

    step: float
    hours: float


def of(part: Part) -> Rate | None:
    """The speed of a training, by the median of what its log shows; None while that is no step."""
    lines = _lines(part)
    if not lines:
        return None
    step = statistics.median(float(line[4]) for line in lines)
    per_second = statistics.median(float(line[5]) for line in lines)
    return Rate(step, _hours(part, lines, per_second))


def measured(part: Part, before: int) -> Rate | None:
    """The speed of a training whose log shows every step; None if it shows none.

    By the mean: where the data loader is slow, most steps are fast and each batch of its workers waits.

    Args:
        part: the training.
        before: steps that do not count, but at most half of those that were done.
    """
    lines = _lines(part)
    if not lines:
        return None
    lines = lines[min(before, len(lines) // 2) :]
    step = statistics.fmean(float(line[4]) for line in lines)
    per_second = statistics.harmonic_mean([float(line[5]) for line in lines])
    return Rate(step, _hours(part, lines, per_second))


def mean(rates: Sequence[Rate]) -> Rate:
    """The mean of both numbers."""
    return Rate(*(statistics.fmean(getattr(rate, key) for rate in rates) for key in ("step", "hours")))


def steps(part: Part) -> int:
    """How many lines about steps the log of a training has."""
    return len(_lines(part))


def _hours(part: Part, lines: Sequence[tuple[str, ...]], per_second: float) -> float:
    return int(lines[-1][2]) * epochs(part.words) / per_second / 3600


def share(part: Part) -> float:
    """How much of a training is done, from 0 to 1."""
    lines = _lines(part)
    if not lines:
        return 0.0
    epoch, _, _, percent, *_ = lines[-1]
    return (int(epoch) + int(percent) / 100) / epochs(part.words)


def _lines(part: Part) -> list[tuple[str, ...]]:
    log = Path(part.folder, RUN, "out.log")
    return LINE.findall(log.read_text(errors="replace")) if log.exists() else []
