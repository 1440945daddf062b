"""Encode in several processes: each computes the features of its part of the batches, one scores.

The processes never talk. They work out the same batches, part i of n takes every n-th one, and the features
meet in the cache on disk. While it works, a part says so every few seconds in a file next to the features; so
the first one, which waits for the others and scores, knows how far they are, and which of them is gone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from tqdm import tqdm

from open_clip_ext.errors import InputError
from open_clip_ext.evaluation.encode import Batch, Encoder
from open_clip_ext.evaluation.part_reports import Others, Report, name
from open_clip_ext.evaluation.requests import Request

# The names of rank, number of processes and rank on its machine: of torchrun, and of a step of SLURM's.
# (SLURM_NTASKS is set in the body of a batch script as well, where there is one process.)
LAUNCHERS = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
)


@dataclass(frozen=True)
class Part:
    """Which of `count` processes this is.

    Attributes:
        index: from 0.
        count: of all processes.
        local: the index among those of this machine.
    """

    index: int = 0
    count: int = 1
    local: int = 0

    def __str__(self) -> str:
        """Its name."""
        return name(self.index, self.count)


def from_environment(environment: Mapping[str, str] = os.environ) -> Part:
    """The part that torchrun or srun gave to this process; without them the only one.

    Raises InputError if their variables contradict each other.
    """
    for index, count, local in LAUNCHERS:
        if environment.get(count) and environment.get(index):
            values = [environment[index], environment[count], environment.get(local) or "0"]
            if all(value.isdecimal() for value in values):
                part = Part(*map(int, values))
                if part.index < part.count:
                    return part
            raise InputError(
                f"{index}={values[0]} and {count}={values[1]}: not a process of several; "
                "unset both to evaluate in one"
            )
    return Part()


def require_cache(part: Part, cache: Path | None) -> None:
    """Raises InputError if there are several processes and no cache in which their features meet."""
    if part.count > 1 and cache is None:
        raise InputError(
            f"--cache none: {part.count} processes exchange their features through the cache; name a folder "
            "that all of them see"
        )


def use_own_gpu(part: Part, device: str | None) -> None:
    """Let `cuda` mean the GPU of this process, where it sees those of others, too."""
    import torch

    if part.count > 1 and device in (None, "cuda") and torch.cuda.is_available():
        torch.cuda.set_device(part.local % torch.cuda.device_count())


def encode(encoder: Encoder, requests: Sequence[Request], part: Part) -> bool:
    """Compute the features of a part of what scoring asks for; the first part waits for all others.

    Args:
        encoder: with a cache that all processes see, if there are several.
        requests: what scoring will ask for, the same in all processes.
        part: of this process.

    Returns:
        Whether this process has all features, and is to score.

    Raises:
        InputError: an input of any part is wrong.
        TrainingError: another part is gone. What it has done stays in the cache.
    """
    batches = [batch for kind, inputs in requests for batch in encoder.plan(kind, inputs)]
    own = _parts(batches, part.count)[part.index]
    to_do = encoder.missing(own)
    if part.index:
        with Report(_board(encoder, batches), part.index, part.count, _size(own), _size(to_do)) as report:
            encoder.encode(to_do, report.add)
        print(f"{part}: {_size(own):,} pictures and texts, {_size(to_do):,} of them encoded now")
        return False
    with _bar(_size(batches), _size(encoder.missing(batches))) as bar:
        if part.count == 1:
            encoder.encode(to_do, bar.update)
            return True
        there = [_size(each) - _size(encoder.missing(each)) for each in _parts(batches, part.count)]
        others = Others(_board(encoder, batches), there, bar)
        encoder.encode(to_do, others.own)
        others.wait()
        encoder.refresh()
        encoder.encode(encoder.missing(batches), others.own)  # nothing, unless a file of theirs was removed
    # The reports stay: a part that had nothing to do may only now begin to write its own.
    return True


def _parts(batches: Sequence[Batch], count: int) -> list[Sequence[Batch]]:
    return [batches[index::count] for index in range(count)]


def _size(batches: Sequence[Batch]) -> int:
    return sum(map(len, batches))


def _bar(total: int, missing: int) -> tqdm[Any]:
    """The progress of all parts, with the time left; in a log a line a minute."""
    every = 0.1 if sys.stderr.isatty() else 60.0
    return tqdm(
        total=total, initial=total - missing, desc="encoding", unit="input", smoothing=0,
        mininterval=every, delay=every,
    )  # fmt: skip


def _board(encoder: Encoder, batches: Sequence[Batch]) -> Path:
    """The folder for reports on these batches."""
    assert encoder.folder is not None
    digest = sha256(b"".join(key for batch in batches for key in batch.keys)).hexdigest()[:32]
    return encoder.folder / "parts" / digest
