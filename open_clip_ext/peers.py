"""Every rank must run the same settings: one that does not trains something else, silently."""

from __future__ import annotations

import os
from datetime import timedelta

import torch.distributed as dist
from torch.distributed import PrefixStore  # type: ignore[attr-defined]

from open_clip_ext.errors import TrainingError

PREFIX = "open_clip_ext/peers"


def agree(line: str) -> None:
    """Compare `line` over all ranks before the first step.

    Goes through the key-value store of the process group rather than a collective, because a rank
    whose interpreter did not arm takes part in none of ours: it is told by its silence.
    `OPEN_CLIP_EXT_PEER_TIMEOUT` sets how many seconds to wait for it (default 300).

    Raises:
        TrainingError: a rank is silent, or announced another line.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return
    seconds = float(os.environ.get("OPEN_CLIP_EXT_PEER_TIMEOUT", "300"))
    store = PrefixStore(PREFIX, dist.distributed_c10d._get_default_store())
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
