"""tests/ddp_on_cpu.py, recorded and held: what the launcher starts in these tests.

RECORD: a folder; every rank appends restart, time and total of each step to `RECORD/RANK`. For as long as
there is a file `RECORD/held-RESTART`, ranks wait in the step that it gives, counted from that restart. They
make `RECORD/at-RESTART-RANK`, with their pid, and `RECORD/told-RESTART-RANK` if a signal comes meanwhile.
"""

from __future__ import annotations

import os
import runpy
import select
import signal
import sys
import time
from pathlib import Path

from torch import Tensor
from torch.nn import Module
from torch.nn.modules.module import register_module_forward_hook
from torch.optim.optimizer import register_optimizer_step_post_hook

from open_clip_ext.losses.base import Loss

folder = Path(os.environ["RECORD"])
rank, restart = os.environ["RANK"], os.environ.get("SLURM_RESTART_COUNT", "0")
held = folder / f"held-{restart}"
steps = 0


def record(module: Module, inputs: object, terms: dict[str, Tensor]) -> None:
    if isinstance(module, Loss):
        with (folder / rank).open("a") as file:
            print(restart, time.time(), sum(term.item() for term in terms.values()), file=file)


def hold(*_: object) -> None:
    global steps
    steps += 1
    if not held.exists() or steps != int(held.read_text()):
        return
    signals, arriving = os.pipe()
    os.set_blocking(arriving, False)
    signal.set_wakeup_fd(arriving)
    (folder / f"at-{restart}-{rank}").write_text(str(os.getpid()))
    while held.exists():
        if select.select([signals], [], [], 0.02)[0]:
            os.read(signals, 16)
            (folder / f"told-{restart}-{rank}").touch()


if __name__ == "__main__":
    register_module_forward_hook(record)
    register_optimizer_step_post_hook(hold)
    program = Path(__file__).parents[1] / "ddp_on_cpu.py"
    sys.argv[0] = str(program)
    runpy.run_path(str(program), run_name="__main__")
