"""Whether a run with given flags could start on this machine, found out before anything is loaded."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

from open_clip_train import params

from open_clip_ext.host.released import Adapter


def parse(flags: Sequence[str]) -> argparse.Namespace:
    """Upstream's flags and ours, checked as a run checks them; exits with a sentence if they are wrong."""
    return Adapter().parse_args(params.parse_args, list(flags))


def problems(args: argparse.Namespace, world_size: int) -> Iterator[str]:
    """What keeps a run of `world_size` processes from starting here, each in one sentence.

    `args` are upstream's, after `parse`.
    """
    yield from ()
