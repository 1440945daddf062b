"""`kill -9` while features are computed: nothing that was finished is computed again."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

from support import ENVIRONMENT
from support_mining import write_data
from support_negatives import content

# Blocks of two pictures and two captions, so that a small set has many.
RUN = """
import sys
from open_clip_ext import cli
from open_clip_ext.mining import features, selection
features.BLOCK = selection.AT_ONCE = 2
sys.exit(cli.main(sys.argv[1:]))
"""


def call(flags, folder, out) -> list[str]:
    command = ["negatives", "select", "n.store", "--keep", "hardest", "--margin", "-1", "--out", out, *flags]
    return [sys.executable, "-c", RUN, *command[:-1], str(folder / "cache")]


def test_a_killed_selection_goes_on(tmp_path, flags):
    count = 40
    write_data(tmp_path, count)
    cache = tmp_path / "cache"

    def files() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in cache.rglob("*.safetensors")}

    options = {
        "cwd": tmp_path,
        "env": ENVIRONMENT,
        "stderr": subprocess.DEVNULL,
        "stdout": subprocess.DEVNULL,
    }
    for least in (4, count // 2 + 4):  # among the pictures, and among the captions
        process = subprocess.Popen(call(flags, tmp_path, "o.store"), **options)
        deadline = time.monotonic() + 120
        while len(files()) < least and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it finished before it could be killed"
        assert not (tmp_path / "o.store").exists()
    before = files()
    assert count // 2 < len(before) < count  # half are of pictures, half of captions
    subprocess.run(call(flags, tmp_path, "o.store"), **options, check=True)
    after = files()
    assert len(after) == count
    assert {name: after[name] for name in before} == before
    subprocess.run(call(flags, tmp_path, "again.store"), **options, check=True)
    assert files() == after
    assert content(tmp_path / "o.store") == content(tmp_path / "again.store")
    next(cache.rglob("score-*.safetensors")).write_bytes(b"torn")
    subprocess.run(call(flags, tmp_path, "third.store"), **options, check=True)
    assert content(tmp_path / "o.store") == content(tmp_path / "third.store")
