"""A study on the tests' SLURM: arrays, a job that goes on, and its report."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import slurm
import studies

BIN = Path(sys.executable).parent
SMALL = {
    "seeds = [0, 1]": "seeds = [0]",
    '[bases.b]\nmodel = "local-dir:base-b"\n': "",
    '[methods.clip]\nflags = { lr = 1e-3 }\n': "",
    'reference = ["clip"]': "",
    "choose = { lr = [1e-3, 1e-4] }": "flags = { lr = 1e-3 }",
}  # fmt: skip


@pytest.fixture
def submitted(cluster, tmp_path):
    """Submit a study of one training; what it printed."""
    text = studies.TOML
    for old, new in SMALL.items():
        text = text.replace(old, new)
    file = studies.write(tmp_path, text)
    studies.write_data(tmp_path)

    def submit(*flags) -> str:
        return cluster.run(
            "env", f"--chdir={tmp_path}", f"PATH={BIN}:{slurm.SEARCH}", BIN / "open-clip-ext",
            "study", "run", file, "--slurm", "--gpus-per-node=1", "--cpus-per-task=1", *flags, check=False,
        )  # fmt: skip

    return submit


def over(cluster) -> bool:
    return not cluster.run("squeue", "--noheader")


def test_a_study_is_trained_evaluated_and_reported_by_jobs(cluster, submitted, tmp_path):
    printed = submitted()
    assert re.search(r"submitted 1 trainings and 1 evaluations as jobs \d+, \d+; job \d+ goes on", printed)
    logs = tmp_path / "small" / "slurm"
    slurm.until(lambda: over(cluster), lambda: cluster.run("squeue"))
    last = "".join(path.read_text() for path in logs.glob("small-next-*.log"))
    assert "small/study.html, study.md" in last, "\n".join(path.read_text() for path in logs.glob("*.log"))
    report = (tmp_path / "small" / "study.md").read_text()
    assert "| negclip |" in report
    assert "| negclip, mixed |" in report
    (train,) = logs.glob("small-train-*.log")
    assert "restart 0 of at most 5, 1 x 1 on node" in train.read_text()


def test_a_refusal_of_sbatch_is_one_sentence(submitted):
    printed = submitted("--partition=none")
    assert "open_clip_ext: --slurm: sbatch refused: " in printed.splitlines()[-1]
    assert "invalid partition specified: none" in printed
