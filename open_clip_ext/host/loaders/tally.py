"""What shards hold, in numbers: for the one sentence to say when nothing in them can be trained on.

Upstream passes over what it cannot use and begins its shards anew until it has its batches. Where
nothing can be used it would do so for ever.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from open_clip_ext.errors import InputError

# Field names that a sentence lists at most.
FIELDS = 20
# A file or an image in memory, as error messages name it.
OBJECT = re.compile(r"(?: @)? <[\w.]+ (?:object at|name=)[^>]*>")


class Tally:
    """Counts what comes through the stages of a webdataset pipeline, and notes what is wrong first.

    Each method but `begin` and `problem` is a stage or the handler of one. Its stages raise InputError
    where shards are drawn without end and bring nothing.

    Args:
        what: the data and who reads them, for a sentence: it goes on with "in 3 shards".
        wanted: the fields of a usable sample, and how to choose others, in words.
        handler: told of every problem; says whether to go on.
        batch_size: how many usable samples it takes to train.
        patience: how many shards that are drawn without end may bring nothing.
    """

    def __init__(
        self,
        what: str,
        wanted: tuple[str, str],
        handler: Callable[[Exception], bool],
        batch_size: int = 1,
        patience: float = math.inf,
    ) -> None:
        self.what, self.wanted, self.handler = what, wanted, handler
        self.batch_size, self.patience = batch_size, patience
        self.shard = self.place = ""
        self.begin()

    def begin(self) -> None:
        """Count from here."""
        self.shards = self.samples = self.shuffled = self.whole = self.usable = 0
        self.fields: set[str] = set()
        self.first = ""

    def draw(self, shards: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Count shards."""
        for shard in shards:
            if self.shards >= self.patience and not self.samples:
                raise InputError(self.problem())
            self.shards += 1
            self.shard = shard["url"]
            yield shard

    def read(self, samples: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Count samples as they are read, and note the names of their fields."""
        for sample in samples:
            self.samples += 1
            if len(self.fields) < FIELDS:
                self.fields.update(name for name in sample if not name.startswith("__"))
            yield sample

    def shuffle(self, samples: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Count samples as they come out of a shuffle, which holds thousands."""
        for sample in samples:
            if self.patience < math.inf and self.usable:
                self.begin()
            # As many as are in so many shards.
            elif self.samples and self.shuffled * self.shards >= self.patience * self.samples:
                raise InputError(self.problem())
            self.shuffled += 1
            yield sample

    def complete(self, samples: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Count samples with a caption and an image."""
        for sample in samples:
            self.whole += 1
            self.place = where(sample)
            yield sample

    def use(self, samples: Iterable[Any]) -> Iterator[Any]:
        """Count samples that nothing is wrong with."""
        for sample in samples:
            self.usable += 1
            yield sample

    def bad_file(self, error: Exception) -> bool:
        """Handle an error of a stage that reads shards, one after the other."""
        what = error.strerror if isinstance(error, OSError) else None
        return self._note(
            f"{self.shard}: {what or error.args[0]}", error
        )  # webdataset appends to the arguments

    def bad_sample(self, error: Exception) -> bool:
        """Handle an error of a later stage: stages pull one sample at a time, so it is in the last one."""
        text = str(error).strip().splitlines() or [type(error).__name__]
        return self._note(text[0] if isinstance(error, InputError) else f"{self.place}: {text[0]}", error)

    def _note(self, problem: str, error: Exception) -> bool:
        self.first = self.first or OBJECT.sub("", problem)
        return self.handler(error)

    def problem(self) -> str:
        """Why nothing that was counted can be trained on, in words."""
        first = f"; the first problem: {self.first}" if self.first else ""
        where = self.shard if self.shards == 1 else f"{self.shards} shards"
        head = f"{self.what} in {where}"
        if not self.samples:
            return f"{head} there is no sample that can be read{first}; repair these files or leave them out"
        if not self.whole:
            fields = ", ".join(sorted(self.fields)[:FIELDS])
            names, advice = self.wanted
            return f"{head} none of {self.samples} samples has both {names}; their fields: {fields}; {advice}"
        if not self.usable:
            return f"{head} none of {self.whole} samples can be used{first}; repair them or leave them out"
        return (
            f"{head} only {self.usable} samples can be used, fewer than a batch of {self.batch_size}; give "
            f"fewer --workers, a smaller --batch-size or --dataset-resampled{first}"
        )


def where(sample: Mapping[str, Any]) -> str:
    """A sample's shard and key."""
    return f"{sample.get('__url__')}, sample {sample.get('__key__')}"
