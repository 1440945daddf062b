"""`study run`, `plan` and `status` as a user calls them, and a sentence for what cannot start."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import drawn_results
import pytest
import studies
import support
import torch
from studies import call, small

from open_clip_ext.evaluation import catalogue
from open_clip_ext.study import disk, folder, parts, settings, trainer


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("data")
    studies.write_data(made)
    return made


@pytest.fixture
def place(data, tmp_path) -> Path:
    """A folder with all that a study's file names."""
    for path in data.iterdir():
        (tmp_path / path.name).symlink_to(path)
    return tmp_path


@pytest.fixture
def command(monkeypatch):
    made = type("Own", (drawn_results.Command,), {"started": []})
    monkeypatch.setattr(trainer, "Process", made)
    return made


def test_sigterm_ends_a_study_as_ctrl_c_does(place, command, monkeypatch):
    """Batch systems send it, and trainings must not go on without the study."""
    ended, sent, waited = [], [], []

    def wait(self, seconds):
        if self in ended:
            return -signal.SIGTERM
        # Not at once: the study may still be starting the thread of the second, and would not wait for it.
        if len(set(waited)) == 2 and waited.count(self) > 1 and not sent:
            sent.append(os.kill(os.getpid(), signal.SIGTERM))
        waited.append(self)
        time.sleep(0.2)

    monkeypatch.setattr(command, "wait", wait)
    monkeypatch.setattr(command, "stop", lambda self: ended.append(self))
    before = signal.getsignal(signal.SIGTERM)
    assert call("run", studies.write(place)) == 143
    assert len(set(ended)) == len(command.started) == 2
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.trainer
def test_a_study_through_the_real_commands(place, monkeypatch, capsys):
    support.server()  # before threads ask for it
    monkeypatch.setattr(trainer, "Process", support.Fork)
    file = studies.write(place, small())
    assert call("run", file) == 0
    printed = capsys.readouterr().out
    for words in ("Percent, 1 base, 1 seed", "negclip, mixed", "Composition, against clip.", "study.md"):
        assert words in printed
    assert call("status", file) == 0
    shown = capsys.readouterr().out
    assert [line.split()[-5:] for line in shown.splitlines()[2:4]] == [["2", "2", "0", "0", "0"]] * 2
    assert call("plan", file) == 0
    assert "no estimate" not in capsys.readouterr().out

    # An edited file: what is not used now is told, and stays.
    studies.write(place, small().replace("warmup = 1", "warmup = 2"))
    assert call("status", file) == 0
    shown = capsys.readouterr().out
    assert [line.split()[-5:] for line in shown.splitlines()[2:4]] == [["2", "0", "0", "0", "2"]] * 2
    assert "of other settings, not used now: sweep-clip-a-0-" in shown


def test_plan_shows_what_would_run(place, capsys):
    file = studies.write(place)
    assert call("plan", file, "--commands") == 0
    printed = capsys.readouterr().out
    assert "known when values are chosen" in printed
    assert "no estimate for clip, negclip: no training of it has shown its speed yet" in printed
    assert "# train negclip, a, seed 0, lr 0.0001" in printed
    assert printed.count("open_clip_train.main") == 8
    assert not (place / "small").exists()


def test_a_disk_that_would_not_hold_it_is_named(place, monkeypatch, capsys, command):
    monkeypatch.setattr(disk, "free", lambda out: 10**6)
    file = studies.write(place, small())
    assert call("plan", file) == 1
    sentence = (
        "the checkpoints of this study need up to 0.1 GB, and 0.0 GB are free; name a folder on another disk"
    )
    assert sentence in capsys.readouterr().out
    assert call("run", file) == 0
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("loss", "options", "copies"),
    [
        ("clip", {}, 4),
        ("degla", {}, 4),
        ("clip", {"text_anchor": 1.0}, 4),
        ("degla", {"text_anchor": 1.0}, 5),
        ("anchored", {"image_anchor": 2}, 4),
    ],
)
def test_a_checkpoint_holds_a_teacher_and_the_base_of_anchors(loss, options, copies):
    assert disk.copies(settings.Method(loss, loss, options, {}, {})) == copies


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("[methods.clip]", "[methods.clap]\n[methods.clip]", "[methods.clap] on a: --loss clap: "),
        ("[methods.clip]", "[methods.clip]\noptions = { x = 1 }",
         "[methods.clip] on a: --loss-cfg x: --loss clip has no such option"),
        ("[methods.clip]", "[methods.clip]\nflags = { nothing = 1 }\n[methods.dummy]", "--nothing"),
        ("workers = 0", 'workers = 0\nnegatives = "a.store"',
         "leave it out (negatives is in [train], for all methods)"),
        ("data/photos.csv", "data/none.csv", "--train-data data/none.csv: there is no such file"),
        ("local-dir:base-a", "local-dir:none", "local-dir:none"),
        ('"image-folder"', '"image-folders"', "[[reported]] image-folders"),
        ('images = "colours"', 'images = "none"', "none"),
        ('annotations = "test"\nimages = "test"', 'annotations = "dev"\nimages = "dev"', "items are in both"),
    ],
)  # fmt: skip
def test_what_cannot_start_is_refused_before_anything_runs(place, command, capsys, old, new, sentence):
    text = small()
    assert old in text
    text = text.replace(old, new, 1)
    if "dummy" in new:
        text = text.replace("[methods.dummy]\nflags = { lr = 1e-3 }\n", "")
    file = studies.write(place, text)
    assert call("run", file) == 2
    printed = capsys.readouterr().err
    assert sentence in printed
    assert str(file) in printed
    assert len(printed.strip().splitlines()) == 1
    assert command.started == []


def test_a_benchmark_called_as_a_family_is_refused(place, command, monkeypatch, capsys):
    """It would take the family's column; a package of one's own may call it so."""

    def read(chosen):
        return {"composition" if "folder" in name else name: own for name, own in real(chosen).items()}

    real = catalogue.read
    monkeypatch.setattr(catalogue, "read", read)
    file = studies.write(place, small())
    assert call("run", file) == 2
    assert capsys.readouterr().err.strip() == (
        f"open_clip_ext: {file}: [[reported]] image-folder: its benchmark is called composition, and so is a "
        "family in the report; give it another name"
    )
    assert command.started == []


@pytest.mark.parametrize(
    ("base", "sentence"),
    [
        ("", "[bases.a] --pretrained other.pt: it is unknown with which activation it was trained"),
        (
            'activation = "quickgelu"',
            "[bases.a] it has quickgelu, but its trainings would not: name the model",
        ),
        (
            'activation = "gelu"\ntrain = { force-quick-gelu = true }',
            "[bases.a] it has gelu, but its trainings",
        ),
        ('activation = "gelu"', ""),
    ],
)
def test_the_activation_of_a_file_is_known_before_anything_runs(place, command, capsys, base, sentence):
    torch.save({"logit_scale": torch.zeros(())}, place / "other.pt")
    named = f'model = "ViT-S-32-alt"\npretrained = "other.pt"\n{base}'
    file = studies.write(place, small().replace('model = "local-dir:base-a"', named))
    assert call("plan", file, "--commands") == (2 if sentence else 0)
    printed = capsys.readouterr()
    assert sentence in printed.err
    assert ("--model ViT-S-32-alt --activation gelu" in printed.out) == (not sentence)


def test_a_failed_part_ends_the_command_with_status_1(place, command, capsys):
    command.failing = "sweep-clip"
    assert call("run", studies.write(place, small())) == 1
    printed = capsys.readouterr().err
    assert (
        "1 part(s) of the study failed, and are tried again by the next `study run`: sweep-clip-a-0-"
        in printed
    )
    assert (place / "small" / "study.md").is_file()


def test_two_studies_do_not_share_a_folder(place, command, capsys):
    assert call("run", studies.write(place, small()), "--out", place / "out") == 0
    other = place / "other.toml"
    shutil.copy(place / "small.toml", other)
    assert call("run", other, "--out", place / "out") == 2
    assert f"holds the study {place / 'small.toml'}; give each its own folder" in capsys.readouterr().err


def test_a_folder_of_something_else_is_refused(place, command, capsys):
    (place / "small").mkdir()
    (place / "small" / "thesis.tex").touch()
    assert call("run", studies.write(place, small())) == 2
    assert "is not empty and holds no study; name another folder" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_refused(place, command, capsys):
    (place / "file").touch()
    assert call("run", studies.write(place, small()), "--out", place / "file" / "out") == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_broken_note_says_what_to_write_into_it(place, capsys):
    file = studies.write(place, small())
    (place / "small").mkdir()
    note = place / "small" / folder.NOTE
    for broken in ("{", "{}", "[]"):
        note.write_text(broken)
        assert call("status", file) == 2
        said = capsys.readouterr().err
        assert f"{note}: broken" in said
    note.write_text(said.split("write ")[1].split(" into it")[0])
    assert call("status", file) == 0


def test_a_study_that_was_killed_before_its_note_is_begun_again(place, capsys):
    file = studies.write(place, small())
    (place / "small").mkdir()
    (place / "small" / folder.LOCK).touch()
    assert call("status", file) == 0


def test_two_processes_do_not_work_on_one_study(place, command, capsys):
    file = studies.write(place, small())
    (place / "small").mkdir()
    (place / "small" / folder.NOTE).write_text('{"file": "../small.toml"}')
    with (place / "small" / folder.LOCK).open("w") as lock:
        assert trainer.locked(lock.fileno())
        assert call("run", file) == 2
    assert "another `study run` is at work there; wait for it, or end it" in capsys.readouterr().err
    assert call("run", file) == 0


def test_slurm_without_its_script_or_sbatch_is_refused(place, capsys, monkeypatch):
    file = studies.write(place, small())
    assert call("run", file, "--launch", place, "--slurm") == 2
    assert "no study.slurm in it; name the launch folder" in capsys.readouterr().err
    monkeypatch.setenv("PATH", str(place))
    assert call("run", file, "--slurm") == 2
    assert "there is no sbatch here; run it where jobs are submitted" in capsys.readouterr().err


def test_a_killed_process_of_a_study_is_told_from_one_at_work(place):
    part = parts.every(folder.settings.read(studies.write(place, small())), place / "small", {})[0]
    part.folder.mkdir(parents=True)
    assert trainer.run(["sh", "-c", "kill -9 $$"], place, part.folder) == -9
    assert os.path.exists(part.folder / trainer.LOCK)
