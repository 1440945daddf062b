"""`open-clip-ext` as these tests start it: a process notes its batches, and waits where a test disturbs it.

RECORD: a folder. Before each batch a process appends its pid and the number of inputs to `RECORD/PROCESS`;
before its third one it waits for as long as there is a file `RECORD/held-PROCESS`. PROCESS is the number of
the task in its array or step.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from open_clip_ext import cli
from open_clip_ext.evaluation.encode import Encoder
from open_clip_ext.negatives import make

folder = Path(os.environ["RECORD"])
process = os.environ.get("SLURM_ARRAY_TASK_ID") or os.environ["SLURM_PROCID"]
seen = 0


def note(count: int) -> None:
    global seen
    seen += 1
    with (folder / process).open("a") as file:
        print(os.getpid(), count, file=file)
    while seen == 3 and (folder / f"held-{process}").exists():
        time.sleep(0.05)


def noted_batches(*arguments, batches=make._batches):
    for batch in batches(*arguments):
        note(len(batch))
        yield batch


def noted_forward(self, forward, inputs, run=Encoder._forward):
    note(len(inputs))
    return run(self, forward, inputs)


make._batches = noted_batches
Encoder._forward = noted_forward
if __name__ == "__main__":
    sys.exit(cli.main(sys.argv[1:]))
