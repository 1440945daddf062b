"""Clocks, peak memory, and two things timed in turns."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable

import torch
from tqdm import tqdm

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Clock:
    """Seconds of each named part of something: CPU time of this process, or CUDA events on a GPU."""

    def start(self) -> None:
        self.marks = [("", _now())]

    def lap(self, name: str) -> None:
        """What passed since the last lap is `name`'s."""
        self.marks.append((name, _now()))

    def parts(self) -> dict[str, float]:
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        parts: dict[str, float] = {}
        for (_, begin), (name, end) in zip(self.marks, self.marks[1:], strict=False):
            parts[name] = parts.get(name, 0.0) + _seconds(begin, end)
        return parts


def _now():
    if DEVICE.type == "cuda":
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
    return time.process_time()


def _seconds(begin, end) -> float:
    return begin.elapsed_time(end) / 1000 if DEVICE.type == "cuda" else end - begin


def seconds(action: Callable[[], object]) -> float:
    clock = Clock()
    clock.start()
    action()
    clock.lap("all")
    return clock.parts()["all"]


def cpu_seconds(action: Callable[[], object]) -> float:
    """CPU time of this process, on a machine with a GPU too."""
    begin = time.process_time()
    action()
    return time.process_time() - begin


def in_turns(plain: Callable[[], object], ours: Callable[[], object], pairs: int, what: str) -> dict:
    """Time both `pairs` times; neighbours share the machine's mood, so the ratio is that of pairs."""
    taken: dict[Callable[[], object], list[float]] = {plain: [], ours: []}
    for i in tqdm(range(pairs), desc=what, leave=False):
        for action in (plain, ours) if i % 2 else (ours, plain):
            taken[action].append(seconds(action))
    return compare(taken[plain], taken[ours])


def compare(plain: list[float], ours: list[float]) -> dict:
    """Least seconds of each, and how many times faster ours is: median, least and greatest of pairs."""
    ratios = [a / b for a, b in zip(plain, ours, strict=True)]
    return {
        "straightforward_s": min(plain),
        "ours_s": min(ours),
        "speedup": statistics.median(ratios),
        "speedup_least": min(ratios),
        "speedup_greatest": max(ratios),
        "pairs": len(ratios),
    }


def peak_mb() -> float:
    """The most memory this process ever had; on a GPU, the most that tensors had there."""
    if DEVICE.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
