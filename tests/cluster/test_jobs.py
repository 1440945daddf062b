"""`sbatch launch/eval.slurm` and `launch/negatives.slurm`: a task is killed, and the result is whole."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import open_clip
import pytest
import slurm
import support
import torch
from drawn import write_crepe
from support_negatives import content as texts
from test_make import captions, write

from open_clip_ext.negatives.store import Store

ROOT = Path(__file__).parents[2]
HELD = Path(__file__).with_name("held_cli.py")


class Record:
    """What the processes of held_cli.py have noted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def hold(self, process: int) -> None:
        (self.folder / f"held-{process}").touch()

    def release(self, process: int) -> None:
        (self.folder / f"held-{process}").unlink()

    def batches(self, process: int) -> dict[str, list[int]]:
        """The sizes of batches of each pid."""
        path, found = self.folder / str(process), {}
        for line in path.read_text().splitlines() if path.exists() else ():
            pid, count = line.split()
            found.setdefault(pid, []).append(int(count))
        return found

    def is_held(self, process: int) -> bool:
        return any(len(counts) == 3 for counts in self.batches(process).values())


@pytest.fixture
def record(tmp_path):
    return Record(tmp_path / "record")


@pytest.fixture
def submit(cluster, tmp_path, record):
    """Submit a script whose `open-clip-ext` is a fork of a server on its node."""
    cluster.serve()
    command = tmp_path / "bin" / "open-clip-ext"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} {slurm.FORK} {HELD} "$@"\n')
    command.chmod(0o755)
    jobs = []

    def submit(name: str, *flags: object, options=(), **settings: object) -> slurm.Job:
        settings |= {
            "FORKS": cluster.forks, "RECORD": record.folder, "OMP_NUM_THREADS": 1,
            "PATH": f"{command.parent}:{slurm.SEARCH}",
        }  # fmt: skip
        script = ROOT / "launch" / f"{name}.slurm"
        jobs.append(cluster.submit(script, *flags, options=options, cwd=tmp_path, **settings))
        return jobs[-1]

    yield submit
    for job in jobs:
        cluster.run("scancel", job.number, check=False)


def result(out: Path):
    found = json.loads((out / "result.json").read_text())
    del found["created"]
    return found, {path.name: path.read_bytes() for path in (out / "items").iterdir()}


def test_an_evaluation_of_which_a_task_is_killed_gives_the_result_of_one_process(
    cluster, submit, record, model, tmp_path
):
    torch.manual_seed(0)
    weights, data = tmp_path / "weights.pt", tmp_path / "data.json"
    torch.save({"state_dict": open_clip.create_model(model).state_dict()}, weights)
    folder = write_crepe(tmp_path / "crepe", 1)
    data.write_text(json.dumps({"sugarcrepe": {"annotations": str(folder), "images": str(folder)}}))
    flags = ["--model", model, "--pretrained", weights, "--data", data, "--batch-size", 2]
    one = ["--cache", tmp_path / "one", "--out", tmp_path / "wanted"]
    done = support.python("-m", "open_clip_ext.cli", "eval", "run", *flags, *one)
    assert done.returncode == 0, done.stderr

    record.hold(3)  # the second task of the second node
    job = submit(
        "eval", "--batch-size", 2, options=["--ntasks-per-node=2", "--gpus-per-node=2"],
        MODEL=model, PRETRAINED=weights, DATA=data, OUT=tmp_path / "out", CACHE=tmp_path / "cache",
        OPEN_CLIP_EXT_PEER_TIMEOUT=5,
    )  # fmt: skip
    others = ("part 2 of 4: ", "part 3 of 4: ")
    job.until(
        lambda: record.is_held(3) and all(part in job.output for part in others), "the last part waits for us"
    )
    (pid,) = record.batches(3)
    made = {process: record.batches(process) for process in (1, 2)}
    cluster.run("kill", "-KILL", pid, node=2)
    record.release(3)
    assert job.end() == "COMPLETED", job.output
    assert f"open_clip_ext: node1: part 4 of 4 (process {pid} on node2, " in job.output
    assert "restart 1 of at most 2: a task ended with status 137" in job.output
    assert job.output.count("benchmark ") == 1
    assert {process: record.batches(process) for process in (1, 2)} == made  # nothing anew
    assert len(record.batches(3)) == 2
    assert result(tmp_path / "out") == result(tmp_path / "wanted")


def test_an_array_of_negatives_of_which_a_task_is_killed_ends_with_a_whole_store(
    cluster, submit, record, tmp_path
):
    source = write(tmp_path / "c.csv", captions(2000))
    settings = {"CAPTIONS": source, "STORE": tmp_path / "all.store", "PARTS": 2}
    one_node = ["--nodes=1", "--gpus-per-node=0"]
    flags = ["--cfg", "tagger=textblob", "wordnet=false"]
    record.hold(2)
    job = submit("negatives", *flags, options=[*one_node, "--array=1-2"], **settings)
    tasks = [slurm.Job(cluster, f"{job.number}_{task}", job.log) for task in (1, 2)]
    job.until(lambda: record.is_held(2), "the second task waits")
    (pid,) = record.batches(2)
    node = int(tasks[1].field("NodeList").removeprefix("node"))
    cluster.run("kill", "-KILL", pid, node=node)
    record.release(2)
    assert [task.end() for task in tasks] == ["COMPLETED", "FAILED"]

    again = submit("negatives", *flags, options=[*one_node, "--array=2"], **settings)
    assert slurm.Job(cluster, f"{again.number}_2", again.log).end() == "COMPLETED", again.output
    before, after = record.batches(2).values()
    negatives = ("-m", "open_clip_ext.cli", "negatives")
    store = settings["STORE"]
    part = len(list(Store.open(tmp_path / "all.store.2-of-2").entries()))
    assert sum(before[:2]) + sum(after) == part  # the batch in flight was made again, and nothing else
    for words in (
        ("merge", store, f"{store}.1-of-2", f"{store}.2-of-2"),
        ("make", source, "--recipe", "swap", *flags, "--out", tmp_path / "one.store"),
    ):
        done = support.python(*negatives, *words)
        assert done.returncode == 0, done.stderr
    assert texts(store) == texts(tmp_path / "one.store")
