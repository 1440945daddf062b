"""`kill -9` while features are computed: nothing that was finished is computed again."""

from __future__ import annotations

import multiprocessing
import signal
import time

import pytest
from support_mining import write_data
from support_negatives import content

from open_clip_ext import cli
from open_clip_ext.mining import features, selection

COUNT = 40  # pictures with a caption each


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Two pictures or captions, so that a small set has many blocks."""
    monkeypatch.setattr(features, "BLOCK", 2)
    monkeypatch.setattr(selection, "AT_ONCE", 2)


@pytest.mark.parametrize("least", [4, COUNT // 2 + 4], ids=["among pictures", "among captions"])
def test_a_killed_selection_goes_on(tmp_path, monkeypatch, flags, least):
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path, COUNT)
    cache = tmp_path / "cache"

    def select(out: str) -> int:
        return cli.main(["negatives", "select", "n.store", "--keep", "hardest", "--out", out, *flags])

    def files() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in cache.rglob("*.safetensors")}

    process = multiprocessing.get_context("fork").Process(target=select, args=("o.store",))
    process.start()
    while len(files()) < least and process.is_alive():
        time.sleep(0.001)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, "it finished before it could be killed"
    assert not (tmp_path / "o.store").exists()
    before = files()
    assert least <= len(before) < COUNT  # at the end half are of pictures, half of captions
    assert select("o.store") == 0
    after = files()
    assert len(after) == COUNT
    assert {name: after[name] for name in before} == before
    next(cache.rglob("score-*.safetensors")).write_bytes(b"torn")
    assert select("again.store") == 0
    assert len(files()) == COUNT
    assert content(tmp_path / "o.store") == content(tmp_path / "again.store")
