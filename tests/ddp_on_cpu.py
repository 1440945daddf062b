"""Run upstream's trainer with DDP on CPU, for tests in several gloo processes.

open_clip_torch 3.3.0 passes `device_ids=[device]` to DistributedDataParallel, which refuses it for
a CPU device. The rank in `UNARMED_RANK` plays a node on which no start-up file was read.
"""

from __future__ import annotations

import functools
import os
import runpy

import torch
from torch.nn.parallel import DistributedDataParallel

from open_clip_ext import _startup

torch.set_num_threads(1)
_init = DistributedDataParallel.__init__


@functools.wraps(_init)
def init(self, module, device_ids=None, **options):
    _init(self, module, **options)


if __name__ == "__main__":
    DistributedDataParallel.__init__ = init
    if os.environ.get("UNARMED_RANK") == os.environ["RANK"]:
        _startup.disarm()
    runpy.run_module("open_clip_train.main", run_name="__main__", alter_sys=True)
