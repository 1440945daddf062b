"""How fast trainings are, and how far, from upstream's log."""

from __future__ import annotations

import re
import statistics
from dataclasses import dataclass
from pathlib import Path

from open_clip_ext.study.parts import RUN, Part, epochs

# `2026-11-29,22:14:01 | INFO | Train Epoch: 3 [ 128/512 (25%)] ... Batch (t): 0.120, ...`, epochs from 0.
LINE = re.compile(r"Train Epoch: (\d+) \[ *(\d+)/(\d+) \((\d+)%\)\].*?Batch \(t\): ([\d.]+), ([\d.e+]+)/s")


@dataclass(frozen=True)
class Rate:
    """Median seconds of a step, and the hours of a whole training at that speed."""

    step: float
    hours: float


def of(part: Part) -> Rate | None:
    """The speed of a training; None while its log shows no step."""
    lines = _lines(part)
    if not lines:
        return None
    step = statistics.median(float(line[4]) for line in lines)
    per_second = statistics.median(float(line[5]) for line in lines)
    samples = int(lines[-1][2]) * epochs(part.words)
    return Rate(step, samples / per_second / 3600)


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
