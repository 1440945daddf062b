"""A function of the benchmark in a process of its own: its peak memory is nobody else's.

fresh.call("loss", "peak", size=4096, ours=True)
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

SEPARATE = True


def call(module: str, function: str, timeout: float | None = None, **arguments: Any) -> Any:
    """What `function` of `module` returns, through JSON. The caller should be small itself.

    Raises `subprocess.TimeoutExpired` after `timeout` seconds, and `subprocess.CalledProcessError`.
    """
    if not SEPARATE:  # soon done, and the memory of one is that of all
        return here(module, function, **arguments)
    command = [sys.executable, __file__, module, function, json.dumps(arguments)]
    # One thread: the time is that of one core, and the sum of threads hides their waiting.
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True, timeout=timeout)
    return json.loads(done.stdout.splitlines()[-1])


def here(module: str, function: str, **arguments: Any) -> Any:
    sys.path.insert(0, str(Path(__file__).parent))
    return getattr(importlib.import_module(module), function)(**arguments)


if __name__ == "__main__":
    print(json.dumps(here(sys.argv[1], sys.argv[2], **json.loads(sys.argv[3]))))
