"""tests/ddp_on_cpu.py, recorded and held: what the launcher starts in these tests.

RECORD: a folder; every rank appends restart, time and total of each step to `RECORD/RANK`.
HOLD: a step; after that many, every rank waits in it for as long as the file `RECORD/held` exists, and makes
`RECORD/told-RANK` when it gets a signal meanwhile.
"""

from __future__ import annotations

import os
import runpy
import select
import signal
import sys
import time
from pathlib import Path

from torch.nn.modules.module import register_module_forward_hook
from torch.optim.optimizer import register_optimizer_step_post_hook

from open_clip_ext.losses.base import Loss

folder = Path(os.environ["RECORD"])
mine = folder / os.environ["RANK"]
steps = 0


def record(module, inputs, terms):
    if isinstance(module, Loss):
        with mine.open("a") as file:
            total = sum(term.item() for term in terms.values())
            print(os.environ.get("SLURM_RESTART_COUNT", 0), time.time(), total, file=file)


def hold(*_):
    global steps
    steps += 1
    if steps != int(os.environ["HOLD"]) or not (folder / "held").exists():
        return
    signals, arriving = os.pipe()
    os.set_blocking(arriving, False)
    signal.set_wakeup_fd(arriving)
    (folder / f"at-{mine.name}").write_text(str(os.getpid()))
    while (folder / "held").exists():
        if select.select([signals], [], [], 0.02)[0]:
            os.read(signals, 16)
            (folder / f"told-{mine.name}").touch()


if __name__ == "__main__":
    register_module_forward_hook(record)
    register_optimizer_step_post_hook(hold)
    program = Path(__file__).parents[1] / "ddp_on_cpu.py"
    sys.argv[0] = str(program)
    runpy.run_path(str(program), run_name="__main__")
