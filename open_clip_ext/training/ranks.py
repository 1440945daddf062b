"""What the ranks of a run have to tell each other, through the key-value store of the process group.

The store rather than a collective: a rank whose interpreter did not arm takes part in none of ours,
and is told by its silence; and asking the store between two steps waits for no other rank.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore  # type: ignore[attr-defined]

from open_clip_ext.errors import TrainingError

PREFIX = "open_clip_ext/ranks"
# How many steps ahead a stop is announced: no rank is further ahead of another than one, because
# every step has a collective that the next one's forward pass waits for.
NOTICE = 2
# Rank 0 may write a checkpoint of many GB meanwhile.
TIMEOUT = timedelta(hours=1)


def several() -> bool:
    """Whether this run has more than one rank."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def require_same(line: str) -> None:
    """Compare `line` over all ranks before the first step.

    `OPEN_CLIP_EXT_PEER_TIMEOUT` sets how many seconds to wait for a silent one (default 300).

    Raises:
        TrainingError: a rank is silent, or announced another line.
    """
    if not several():
        return
    seconds = float(os.environ.get("OPEN_CLIP_EXT_PEER_TIMEOUT", "300"))
    store = _store()
    store.set(str(dist.get_rank()), line)
    for rank in range(dist.get_world_size()):
        try:
            store.wait([str(rank)], timedelta(seconds=seconds))
        except Exception as error:  # the store's time-out has no type of its own in every release
            raise TrainingError(
                f"rank {rank} did not announce itself within {seconds:g} s: its interpreter may "
                "not have armed the plugin; run `open-clip-ext doctor` on its node"
            ) from error
        theirs = store.get(str(rank)).decode()
        if theirs != line:
            raise TrainingError(f"rank {rank} runs '{theirs}', rank {dist.get_rank()} runs '{line}'")


def gather_strings(key: str, value: str) -> Sequence[str]:
    """The `value` of each rank, on rank 0, which waits for them; nothing elsewhere.

    `key` must be another one in each call.
    """
    if not several():
        return [value]
    store = _store()
    keys = [f"{key}/{rank}" for rank in range(dist.get_world_size())]
    store.set(keys[dist.get_rank()], value)
    if dist.get_rank() != 0:
        return []
    store.wait(keys, TIMEOUT)
    values = [store.get(key).decode() for key in keys]
    for key in keys:
        store.delete_key(key)
    return values


def broadcast(key: str, value: str | None = None) -> str:
    """What rank 0 says about `key`, which everyone else waits for.

    Rank 0 waits until all have heard it: the store may live in its process, and end with it.
    """
    if not several():
        return value or ""
    store = _store()
    if dist.get_rank() == 0:
        store.set(key, value or "")
    store.wait([key], TIMEOUT)
    said = str(store.get(key).decode())
    gather_strings(f"{key}/heard", "")
    return said


class CoordinatedStop:
    """Lets all ranks stop at the same step, though only some of them were asked to, at any moment.

    The first rank that was asked writes down a step a little ahead; everyone looks there between
    two steps, for one round trip to the store (docs/checkpoint.md). After an epoch's last step, when
    rank 0 may be busy with an evaluation for long, they take a vote.
    """

    def __init__(self) -> None:
        self.step: int | None = None

    def due(self, step: int, asked: str | None, last: bool, device: torch.device) -> str | None:
        """The signal on which all ranks stop now, if they do.

        Args:
            step: how many steps of the run are done; every rank asks at each.
            asked: the signal that this rank got, if one came.
            last: whether the epoch ends here.
            device: where this rank's collectives run.

        Raises TrainingError if the step was missed.
        """
        if not several():
            return asked
        store = _store()
        if asked is not None and self.step is None:
            store.compare_set("stop", "", f"{step + NOTICE} {asked}")
        if last:
            vote = torch.tensor(int(asked is not None), device=device)
            dist.all_reduce(vote, dist.ReduceOp.MAX)
            if vote.item():  # the rank that was asked has written it down before
                return _split(store.get("stop"))[1]
        if not store.check(["stop"]):
            return None
        self.step, signal = _split(store.get("stop"))
        if step > self.step:
            raise TrainingError(
                f"rank {dist.get_rank()} is at step {step} and should have stopped at step {self.step}; "
                "the last checkpoint is whole: start again with --resume latest"
            )
        return signal if step == self.step else None


def _split(announced: Any) -> tuple[int, str]:
    step, signal = announced.decode().split()
    return int(step), signal


def _store() -> Any:
    return PrefixStore(PREFIX, dist.distributed_c10d._get_default_store())
