"""A study on one machine: what runs, in which order, and what an interruption or a failure leaves."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter
from itertools import pairwise

import drawn_results
import pytest
import studies

from open_clip_ext.study import local, parts, report, results, settings, status, trainer


@pytest.fixture
def study(tmp_path):
    return settings.read(studies.write(tmp_path))


@pytest.fixture
def command(monkeypatch):
    class Own(drawn_results.Command):
        started: list[list[str]] = []

    return Own


def kinds(started) -> Counter[str]:
    def kind(words):
        return "train" if "open_clip_train.main" in words else "sweep" if "wiseft" in words else "dev"

    return Counter(map(kind, started))


def test_everything_is_done_once(study, tmp_path, command):
    assert local.run(study, tmp_path / "out", command) == {}
    assert kinds(command.started) == {"train": 10, "dev": 4, "sweep": 8}
    assert results.chosen(study, tmp_path / "out") == {("negclip", b): {"lr": 1e-3} for b in "ab"}
    command.started.clear()
    assert local.run(study, tmp_path / "out", command) == {}
    assert command.started == []


def test_an_interrupted_study_goes_on_where_it_was(study, tmp_path, command):
    done: list[list[str]] = []
    for end in range(3, 23, 3):
        command.dying = end - len(done)
        with pytest.raises(KeyboardInterrupt):
            local.run(study, tmp_path / "out", command)
        done += command.started
        command.started.clear()
    command.dying = -1
    local.run(study, tmp_path / "out", command)
    done += command.started
    assert kinds(done) == {"train": 10, "dev": 4, "sweep": 8}
    assert report.markdown(results.Results(study, tmp_path / "out")) == undisturbed(
        tmp_path / "whole", command
    )


def test_a_study_killed_at_ten_moments_ends_with_the_same_table(study, tmp_path, command):
    class Slow(command):
        def wait(self, seconds):
            time.sleep(0.05)
            return self._status

    rng = random.Random(0)
    for _ in range(10):
        child = os.fork()
        if not child:
            with contextlib.suppress(BaseException):
                local.run(study, tmp_path / "out", Slow)
            os._exit(0)
        time.sleep(rng.uniform(0.1, 0.4))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert local.run(study, tmp_path / "out", command) == {}
    assert len(command.started) < 22  # something was done before
    assert report.markdown(results.Results(study, tmp_path / "out")) == undisturbed(
        tmp_path / "whole", command
    )


def undisturbed(folder, command) -> str:
    study = settings.read(studies.write(folder))
    local.run(study, folder / "out", command)
    return report.markdown(results.Results(study, folder / "out"))


def test_a_failed_part_is_named_and_the_others_go_on(study, tmp_path, command, capsys):
    command.failing = "train-clip-a-0"
    failed = local.run(study, tmp_path / "out", command)
    ((folder, why),) = failed.items()
    assert folder.name.startswith("train-clip-a-0-")
    assert "it does not work; try something else (status 2" in why
    assert "failed: train clip, a, seed 0" in capsys.readouterr().err
    found = results.Results(study, tmp_path / "out")
    runs = {model.name: set(model.folders) for model in found.models}
    assert runs["clip"] == {("a", 1), ("b", 0), ("b", 1)}
    assert len(runs["negclip"]) == 4
    # The next run tries it again, and nothing else but what depends on it.
    command.failing = ""
    command.started.clear()
    assert local.run(study, tmp_path / "out", command) == {}
    assert kinds(command.started) == {"train": 1, "sweep": 1}


def test_the_estimate_has_the_seeds_that_wait_for_a_value(study, tmp_path, command):
    command.failing = "train-negclip-a-0-lr-0.001"  # nothing can be chosen on this base
    local.run(study, tmp_path / "out", command)
    chosen = results.chosen(study, tmp_path / "out")
    lines = list(status.estimate(study, chosen, parts.every(study, tmp_path / "out", chosen), {}))
    hour = 1 / 3600  # 16 samples at 16 per second
    assert lines[0].endswith(f"{hour:.3g} h per training, {2 * hour:.3g} h left")
    assert lines[1].startswith(f"trainings left in all: {2 * hour:.3g} h")


def test_a_training_without_the_plugin_counts_as_failed(study, tmp_path, command, monkeypatch):
    def plain(words):
        # At once: a training that had its loss for a moment would be evaluated.
        train(["another" if before == "--loss" else word for before, word in pairwise(["", *words])])

    train = drawn_results.train
    monkeypatch.setattr(drawn_results, "train", plain)
    failed = local.run(study, tmp_path / "out", command)
    assert len(failed) == 8  # of all but the seeds whose value is not chosen
    every = parts.every(study, tmp_path / "out", {})
    assert not any(part.done for part in every)
    every[0].product.parent.mkdir(parents=True)
    every[0].product.touch()
    assert not every[0].done  # nor without the settings of its run
    assert all("the plugin is not armed; see `open-clip-ext doctor`" in why for why in failed.values())


def test_a_part_that_a_killed_study_left_at_work_is_waited_for(study, tmp_path, command, monkeypatch):
    part = parts.every(study, tmp_path / "out", {})[0]
    part.folder.mkdir(parents=True)
    with (part.folder / trainer.LOCK).open("w") as held:
        assert trainer.locked(held.fileno())
        assert status.state(part) == "at work"
        ended = iter([False, False, True])
        assert trainer.run(part.words, tmp_path, part.folder, start=command, stopped=lambda: next(ended)) == 1
        assert command.started == []
    assert status.state(part) == "stopped"
    assert trainer.run(part.words, tmp_path, part.folder, start=command) == 0
    assert status.state(part) == "done"
