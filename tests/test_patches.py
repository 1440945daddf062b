"""The patch that has upstream load the plugin itself, where start-up files are not wanted."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

PATCHES = Path(__file__).parents[1] / "patches"
PATCH = PATCHES / "open_clip_torch-3.3.0.patch"
# Prints how often each seam is wrapped once upstream's main module is imported.
WRAPPED = """
import importlib, json
import open_clip_train.main
from open_clip_ext.host.released import SEAMS
depths = []
for seam in SEAMS:
    function, depth = getattr(importlib.import_module(seam.module), seam.name), 0
    while hasattr(function, "__wrapped__"):
        function, depth = function.__wrapped__, depth + 1
    depths.append(depth)
print(json.dumps(depths))
"""


def git_apply(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """`git apply` in a folder that must not be taken for a part of a repository around it."""
    return subprocess.run(
        ["git", "apply", "--verbose", *options, str(PATCH)],
        cwd=folder,
        env={**os.environ, "GIT_CEILING_DIRECTORIES": str(folder.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )


@pytest.fixture
def upstream(packages, tmp_path) -> Path:
    """A folder with a copy of upstream's trainer."""
    shutil.copytree(packages / "open_clip_train", tmp_path / "site" / "open_clip_train")
    return tmp_path / "site"


@pytest.fixture(scope="module")
def patched(packages, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("patched")
    shutil.copytree(packages / "open_clip_train", folder / "open_clip_train")
    applied = git_apply(folder)
    assert applied.returncode == 0, applied.stdout
    return folder


@pytest.fixture(scope="module")
def paths(patched, target) -> str:
    """PYTHONPATH of a patched upstream and the plugin, whose start-up files are not read there."""
    return f"{patched}:{target}"


def test_it_applies_to_the_installed_upstream(upstream):
    applied = git_apply(upstream, "--check")
    assert applied.returncode == 0, applied.stdout


def test_it_applies_to_upstream_s_repository(upstream, tmp_path):
    repository = tmp_path / "repository"
    repository.mkdir()
    upstream.rename(repository / "src")
    assert subprocess.run(["git", "init", "--quiet"], cwd=repository).returncode == 0
    applied = git_apply(repository, "--directory=src")
    assert applied.returncode == 0, applied.stdout
    assert "open_clip_train.plugins" in (repository / "src/open_clip_train/main.py").read_text()


def test_it_adds_four_lines_and_takes_none():
    changed = [line for line in PATCH.read_text().splitlines() if line.startswith(("+", "-"))]
    assert [line[0] for line in changed if line[:3] not in ("+++", "---")] == ["+"] * 4


def test_every_patch_is_in_the_readme():
    for patch in PATCHES.glob("*.patch"):
        assert patch.name in (PATCHES / "README.md").read_text()


def test_a_patched_upstream_without_start_up_files_knows_the_losses(unarmed, paths):
    run = unarmed.run("-m", "open_clip_train.main", "--loss", "no-such-loss", PYTHONPATH=paths)
    assert run.returncode == 2
    assert "no-such-loss" in run.stderr
    assert "degla" in run.stderr


def test_it_wraps_each_seam_once(unarmed, paths):
    run = unarmed.run("-c", WRAPPED, PYTHONPATH=paths)
    assert set(json.loads(run.stdout)) == {1}


def test_patch_and_start_up_files_together_wrap_each_seam_once(armed, patched):
    run = armed.run("-c", WRAPPED, PYTHONPATH=patched)
    assert set(json.loads(run.stdout)) == {1}


def test_the_kill_switch_turns_off_the_patch_too(unarmed, paths):
    run = unarmed.run("-c", WRAPPED, PYTHONPATH=paths, OPEN_CLIP_EXT=0)
    assert set(json.loads(run.stdout)) == {0}


def test_a_patched_upstream_without_plugins_still_parses(unarmed, patched):
    run = unarmed.run("-m", "open_clip_train.main", "--help", PYTHONPATH=patched)
    assert run.returncode == 0, run.stderr
    assert "--loss NAME" not in run.stdout


def test_a_patched_upstream_trains(unarmed, paths, model, csv_data, tmp_path):
    flags = ["--device", "cpu", "--model", model, "--train-data", csv_data, "--csv-separator", ","]
    flags += ["--workers", 0, "--batch-size", 8, "--epochs", 1, "--logs", tmp_path, "--name", "run"]
    run = unarmed.run("-m", "open_clip_train.main", *flags, "--loss", "degla", PYTHONPATH=paths)
    assert run.returncode == 0, run.stderr
    assert "loss=degla" in run.stderr
    assert (tmp_path / "run" / "checkpoints" / "epoch_1.pt").is_file()


def test_the_doctor_is_content_with_a_patched_upstream(unarmed, paths):
    doctor = unarmed.run("-m", "open_clip_ext.cli", "doctor", PYTHONPATH=paths)
    assert doctor.returncode == 0, doctor.stdout
