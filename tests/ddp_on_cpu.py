"""Run upstream's trainer with DDP on CPU, for tests in several gloo processes.

open_clip_torch 3.3.0 passes `device_ids=[device]` to DistributedDataParallel, which refuses it for
a CPU device. The rank in `UNARMED_RANK` plays a node on which no start-up file was read. With
`SIGNAL_AT=RANK:STEP` that rank gets SIGUSR1 in that optimizer step.
"""

from __future__ import annotations

import functools
import os
import runpy
import signal
from typing import Any

import torch
from torch.nn import Module
from torch.nn.parallel import DistributedDataParallel

from open_clip_ext import _startup
from open_clip_ext.training.run import Run

_init = DistributedDataParallel.__init__


@functools.wraps(_init)
def init(self: DistributedDataParallel, module: Module, device_ids: object = None, **options: Any) -> None:
    _init(self, module, **options)


def install() -> None:
    torch.set_num_threads(1)
    DistributedDataParallel.__init__ = init  # type: ignore[method-assign, assignment]


def signal_at(rank: str, step: str) -> None:
    stepped = Run._stepped

    def signalled(self: Run, *arguments: Any) -> None:
        stepped(self, *arguments)
        if self.steps == int(step) and os.environ["RANK"] == rank:
            os.kill(os.getpid(), signal.SIGUSR1)

    Run._stepped = signalled  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    install()
    if "SIGNAL_AT" in os.environ:
        signal_at(*os.environ["SIGNAL_AT"].split(":"))
    if os.environ.get("UNARMED_RANK") == os.environ["RANK"]:
        _startup.disarm()
    runpy.run_module("open_clip_train.main", run_name="__main__", alter_sys=True)
