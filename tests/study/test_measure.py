"""`study plan --measure`: speeds from a few steps of the trainer, used until there are real ones."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import drawn_results
import pytest
import studies
import support
from studies import Fork, call, small

from open_clip_ext.study import disk, measure, parts, settings, timing, trainer


@pytest.fixture
def command(monkeypatch):
    made = type("Own", (drawn_results.Command,), {"started": []})
    monkeypatch.setattr(trainer, "Process", made)
    return made


def plan(file: Path, *flags: str) -> int:
    """Without a look at the data, which are not there."""
    return call("plan", file, "--no-check", *flags)


def left(place: Path) -> set[str]:
    return {path.name for path in (place / "small").iterdir()} - {"study.json", "lock"}


@pytest.mark.trainer
def test_a_training_is_begun_timed_stopped_and_removed(tmp_path, monkeypatch, capsys):
    class Stopped(Fork):
        """It is asked to stop, as `trainer.Process` does."""

        statuses: list[int] = []

        def stop(self):
            if self._process.poll() is None:
                self._process.send_signal(signal.SIGTERM)
                self.statuses.append(self._process.wait(60))

    support.server()
    monkeypatch.setattr(trainer, "Process", Stopped)
    studies.write_data(tmp_path)
    # It would take hours, and logs rarely.
    text = small().replace("epochs = 1", "epochs = 100_000").replace("log-every-n-steps = 1", "")
    file = studies.write(tmp_path, text)
    assert call("plan", file, "--measure") == 0
    printed = capsys.readouterr().out
    assert Stopped.statuses == [85, 85]  # asked to stop, and saved
    assert left(tmp_path) == {"measured.json"}
    told = json.loads((tmp_path / "small/measured.json").read_text())
    assert [name[:11] for name in told] == ["train-clip-", "train-negcl"]
    for rate in told.values():
        # Two steps in an epoch of 16 photos.
        assert rate["hours"] == pytest.approx(rate["step"] * 2 * 100_000 / 3600, rel=0.05)
    assert printed.count(" s per step (measured), ") == 2
    assert "evaluations: 2 left, not measured and in no estimate" in printed
    assert "no estimate for" not in printed
    assert call("plan", file) == 0
    assert capsys.readouterr().out == printed


def test_waiting_for_data_counts_and_the_first_steps_do_not(tmp_path):
    study = settings.read(studies.write(tmp_path, small()))
    part = parts.training(study, tmp_path, study.methods[0], study.bases[0], 0, {})
    assert timing.measured(part, 2) is None
    log = part.folder / "run/out.log"
    log.parent.mkdir(parents=True)
    seconds = [9.0, 9.0, 0.1, 0.1, 0.1, 3.7]
    lines = [
        f"Train Epoch: 0 [{8 * n}/4800 ({n}%)] Data (t): 0.1 Batch (t): {s:.3f}, {8 / s:#g}/s, "
        for n, s in enumerate(seconds, 1)
    ]
    log.write_text("\n".join(lines))
    rate = timing.measured(part, 2)
    assert rate.step == pytest.approx(1.0)
    assert rate.hours == pytest.approx(600 * 1.0 / 3600)
    # Of a training that was over before, the second half.
    assert timing.measured(part, 100).step == pytest.approx((0.1 + 0.1 + 3.7) / 3)


def test_ctrl_c_leaves_nothing_but_what_was_measured(tmp_path, command, monkeypatch, capsys):
    ended = []

    def interrupted(self, seconds):
        if len(self.started) == 2:
            raise KeyboardInterrupt
        return 0

    monkeypatch.setattr(command, "wait", interrupted)
    monkeypatch.setattr(command, "stop", lambda self: ended.append(len(self.started)))
    file = studies.write(tmp_path, small())
    assert plan(file, "--measure") == 130
    assert ended == [1, 2]  # no process goes on
    assert left(tmp_path) == {"measured.json"}
    monkeypatch.undo()
    monkeypatch.setattr(trainer, "Process", command)
    assert plan(file, "--measure") == 0
    assert [drawn_results.of(words, "--loss") for words in command.started] == ["clip", "negclip", "negclip"]
    assert capsys.readouterr().out.count("0.5 s per step (measured), 0.000278 h per training") == 2


def test_bases_that_differ_in_their_weights_alone_are_timed_once(tmp_path, command, monkeypatch, capsys):
    monkeypatch.setattr(disk, "problem", lambda study, out: "")  # of what is free here
    bases = "".join(
        f'[bases.{name}]\nmodel = "{model}"\npretrained = "{name}.pt"\nactivation = "gelu"\n'
        for name, model in (("one", "ViT-B-32"), ("two", "ViT-B-32"), ("large", "ViT-L-14"))
    )
    file = studies.write(tmp_path, small().replace('[bases.a]\nmodel = "local-dir:base-a"\n', bases))
    assert plan(file, "--measure") == 0
    timed = [(drawn_results.of(w, "--loss"), drawn_results.of(w, "--pretrained")) for w in command.started]
    assert timed == [(loss, base) for loss in ("clip", "negclip") for base in ("one.pt", "large.pt")]
    hour = 3 / 3600  # 16 samples at 16 per second, three bases
    assert f"trainings left in all: {2 * hour:.3g} h" in capsys.readouterr().out


def test_speeds_are_of_their_settings_and_real_ones_come_first(tmp_path, command, capsys):
    file = studies.write(tmp_path, small())
    assert plan(file, "--measure") == 0
    told = tmp_path / "small/measured.json"
    told.write_text(told.read_text().replace("0.5", "7.5"))
    assert plan(file) == 0
    assert capsys.readouterr().out.count("7.5 s per step (measured)") == 2
    # A training has begun: its own speed counts.
    study = settings.read(file)
    words = parts.training(study, tmp_path / "small", study.methods[0], study.bases[0], 0, {}).words
    drawn_results.train(words)
    next(tmp_path.glob("small/parts/train-clip-*/run/checkpoints/epoch_1.pt")).unlink()
    command.started.clear()
    assert plan(file, "--measure") == 0
    assert command.started == []
    printed = capsys.readouterr().out
    assert "negclip: 7.5 s per step (measured)" in printed
    # Another setting is another training.
    studies.write(tmp_path, small().replace("batch-size = 8", "batch-size = 4"))
    assert plan(file) == 0
    said = capsys.readouterr().out
    assert "no estimate for clip, negclip" in said
    assert "`study plan --measure` times some steps" in said


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        ("failing", "--measure: train negclip, a, seed 0: it does not work; try something else (status 2)"),
        ("silent", "--measure: train negclip, a, seed 0: it ended before its first step (status 0)"),
        ("plain", "--measure: train negclip, a, seed 0: it was trained without --loss: the plugin is not"),
    ],
)
def test_a_training_that_cannot_be_timed_is_named(tmp_path, command, monkeypatch, capsys, broken, sentence):
    def train(words):
        if broken == "plain" or "negclip" not in words:
            real(words)
        if broken == "plain" and "negclip" in words:
            Path(drawn_results.of(words, "--logs"), "run/params.txt").write_text("loss_dist_impl: clip\n")

    real = drawn_results.train
    monkeypatch.setattr(drawn_results, "train", train)
    command.failing = "train-negclip" if broken == "failing" else ""
    assert plan(studies.write(tmp_path, small()), "--measure") == 1
    printed = capsys.readouterr().err
    assert sentence in printed
    assert len(printed.strip().splitlines()) == 1
    assert left(tmp_path) == {"measured.json"}  # of clip


@pytest.mark.parametrize("content", ["{", "[]", '{"a": {}}', '{"a": {"step": "x", "hours": 1}}'])
def test_broken_speeds_are_named_with_what_to_do(tmp_path, command, capsys, content):
    file = studies.write(tmp_path, small())
    assert plan(file, "--measure") == 0
    (tmp_path / "small/measured.json").write_text(content)
    capsys.readouterr()
    assert plan(file) == 2
    printed = capsys.readouterr().err
    assert f"{tmp_path / 'small' / measure.FILE}: broken (" in printed
    assert "; remove it, and `study plan --measure` writes it again" in printed
