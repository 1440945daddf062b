from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import support
import torch
from safetensors.torch import load_file

from open_clip_ext import _startup
from open_clip_ext.demo import methods, models, recipe, run, study_file
from open_clip_ext.errors import InputError, TrainingError
from open_clip_ext.study import parts, settings, trainer


@pytest.fixture(autouse=True)
def _armed() -> None:
    """As in an interpreter of its own: a run in this process has used the trigger up."""
    _startup.arm()


def test_the_package_imports_nothing_heavy():
    code = "import sys, open_clip_ext.demo, open_clip_ext.demo.run as r, argparse;"
    code += "r.add_arguments(argparse.ArgumentParser());"
    code += "print(sorted({'torch', 'numpy', 'PIL', 'matplotlib', 'open_clip'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seeds": 0}, "--seeds 0"),
        ({"bases": 0}, "--bases 0"),
        ({"losses": ["no-such-loss"]}, "no-such-loss"),
        ({"quick": True, "recipe_file": "x"}, "leave out"),
        ({"recipe_file": Path("nowhere.json")}, r"--recipe nowhere.json: cannot be read \(.*No such file"),
        (
            {"recipe_file": Path(sys.executable)},
            r"cannot be read \(.*decode.*\); give a copy of a recipe.json",
        ),
        ({"world_seed": -1}, "--world-seed -1: give a number from 0 to 4000000"),
        ({"world_seed": 4_000_001}, "--world-seed 4000001: give a number from 0 to 4000000"),
    ],
)
def test_wrong_calls(tmp_path, options, words):
    with pytest.raises(InputError, match=words):
        run.run(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_without_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match="pip install"):
        run.run(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_else(tmp_path):
    (tmp_path / "letter.txt").write_text("dear all")
    with pytest.raises(InputError, match="not empty"):
        run.run(tmp_path, quick=True)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


@pytest.mark.parametrize("inside", ["letter.txt/out", "letter.txt"])
def test_a_folder_that_cannot_be(tmp_path, inside):
    (tmp_path / "letter.txt").write_text("dear all")
    with pytest.raises(
        InputError, match=rf"^--out {tmp_path / inside}: (cannot be used|not a folder).*; name"
    ):
        run.run(tmp_path / inside, quick=True)


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    def full(path, text):
        raise OSError("no space left")

    monkeypatch.setattr(run, "write_text", full)
    with pytest.raises(InputError, match=r"cannot be written \(no space left\); name another folder"):
        run.run(tmp_path, quick=True)


def test_a_recipe_that_is_no_text_is_another_demo(tmp_path):
    (tmp_path / "recipe.json").write_bytes(b"\xff")
    with pytest.raises(InputError, match=r"a demo of another version \(.*decode.*\); name another"):
        run.run(tmp_path, quick=True)


def test_a_demo_with_other_settings(tmp_path):
    (tmp_path / "recipe.json").write_text(recipe.to_json(recipe.Recipe()))
    with pytest.raises(InputError, match="other settings"):
        run.run(tmp_path, quick=True)


def test_a_demo_of_another_version(tmp_path):
    (tmp_path / "recipe.json").write_text(json.dumps({"no_such": 1}))
    with pytest.raises(InputError, match=r"a demo of another version \(.*no_such.*\); name another"):
        run.run(tmp_path, quick=True)


def test_siglips_are_another_demo(tmp_path):
    (tmp_path / "recipe.json").write_text(recipe.to_json(recipe.QUICK))
    with pytest.raises(InputError, match="other settings"):
        run.run(tmp_path, quick=True, siglip=True)


def test_a_recipe_that_names_not_every_setting_is_continued(tmp_path):
    settings = json.loads(recipe.to_json(recipe.QUICK))
    del settings["siglip"]
    (tmp_path / "recipe.json").write_text(json.dumps(settings))
    run._claim(tmp_path, recipe.QUICK)
    assert (tmp_path / "recipe.json").read_text() == recipe.to_json(recipe.QUICK)


def test_another_world_seed_is_another_demo(tmp_path):
    (tmp_path / "recipe.json").write_text(recipe.to_json(recipe.QUICK))
    with pytest.raises(InputError, match="other settings"):
        run.run(tmp_path, quick=True, world_seed=1)


class Failing:
    """In place of `trainer.Process`: it prints an error and ends."""

    def __init__(self, words, cwd, output, lock):
        print("open_clip_ext: no room on this disk", file=output, flush=True)

    def wait(self, seconds):
        return 2

    def stop(self):
        pass


SHORT = recipe.Schedule(samples=64, epochs=1, batch=32, lr=1e-3, warmup=1)
SMALL = replace(recipe.QUICK, pretraining=SHORT, fine_tuning=SHORT, shards=1, test_size=20)


def test_a_failed_pretraining_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "QUICK", SMALL)
    monkeypatch.setattr(trainer, "Process", Failing)
    with pytest.raises(TrainingError, match=r"pretraining train-pretraining-base-0-0-.* no room") as error:
        run.run(tmp_path / "out", quick=True, bases=1)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out/base-0/models/base").exists()
    assert not (tmp_path / "out" / study_file.FILE).exists()


def test_sigterm_ends_pretraining_with_its_trainings(tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "QUICK", SMALL)
    sent, told, waited = [], [], []

    class Long(Failing):
        def wait(self, seconds):
            if told:
                return -signal.SIGTERM
            if waited and not sent:  # no sooner: its thread may still be starting
                sent.append(os.kill(os.getpid(), signal.SIGTERM))
            waited.append(self)
            time.sleep(0.2)

        def stop(self):
            told.append(self)

    monkeypatch.setattr(trainer, "Process", Long)
    with pytest.raises(SystemExit) as stopped:
        run.run(tmp_path / "out", quick=True, bases=1)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert told


def test_a_base_that_fails_the_gate_is_not_fine_tuned(tmp_path, monkeypatch):
    file = tmp_path / "recipe.json"
    file.write_text(recipe.to_json(SMALL))

    class Pretrained:
        def __init__(self, words, cwd, output, lock):
            folder = Path(words[words.index("--logs") + 1], parts.RUN)
            (folder / "checkpoints").mkdir(parents=True)
            (folder / "params.txt").write_text("loss: clip\n")
            model = Path(cwd, words[words.index("--model") + 1].removeprefix("local-dir:"))
            state = load_file(model / models.WEIGHTS)  # as it was before
            torch.save({"state_dict": state}, folder / "checkpoints/epoch_1.pt")

        wait = staticmethod(lambda seconds: 0)
        stop = staticmethod(lambda: None)

    monkeypatch.setattr(trainer, "Process", Pretrained)
    with pytest.raises(TrainingError, match=r"a base fails the gate \(background, texture") as error:
        run.run(tmp_path / "out", bases=1, recipe_file=file)
    assert f"a copy of {tmp_path / 'out/recipe.json'} and --recipe" in str(error.value)
    assert not (tmp_path / "out" / study_file.FILE).exists()


def folders(out: Path) -> dict[str, list[int]]:
    """The parts of a demo's study that are done, and when their folders were written."""
    study = settings.read(out / study_file.FILE)
    known = parts.every(study, out / "study", {})
    assert all(part.done for part in known)
    return {part.folder.name: [part.product.stat().st_mtime_ns] for part in known}


@pytest.mark.trainer
def test_quick_demo_through_the_real_trainer(tmp_path, capsys, monkeypatch):
    support.server()  # before threads ask for it
    monkeypatch.setattr(trainer, "Process", support.Fork)
    monkeypatch.setattr(recipe, "QUICK", SMALL)
    parser = argparse.ArgumentParser()
    run.add_arguments(parser)
    out = tmp_path / "out"
    words = ["--quick", "--out", str(out), "--losses", "negclip+images"]

    # One base and one method; another of each is added afterwards.
    assert run.main(parser.parse_args([*words, "--bases", "1"])) == 0
    printed = capsys.readouterr().out
    for name in (
        "before fine-tuning",
        "swap_att",
        "numbers are meaningless",
        "1 base",
        "negclip+images, mixed",
    ):
        assert name in printed
    base = {path: path.read_bytes() for path in out.glob("base-0/models/*/*")}
    first = folders(out)
    assert len(first) == 2
    assert run.main(parser.parse_args([*words, "degla", "--bases", "2"])) == 0
    printed = capsys.readouterr().out
    for name in ("base 1", "2 bases", "degla, mixed", "composition", "R@1 web"):
        assert name in printed
    both = folders(out)
    assert len(both) == 8
    assert both.items() >= first.items()
    assert all(path.read_bytes() == content for path, content in base.items())

    # The page, and the run's own record: the loss was there, and it made a difference.
    page = (out / "study/study.html").read_text()
    for text in (study_file.TITLE, study_file.MEANINGLESS, "drawn-unmentioned", "swap_order"):
        assert text in page
    (degla,) = out.glob("study/parts/train-degla-base-0-0-*")
    assert "loss: degla" in (degla / "run/params.txt").read_text().splitlines()
    assert "Distill_loss" in (degla / "run/out.log").read_text()
    weights = {path.read_bytes() for path in out.glob("base-*/models/*/open_clip_model.safetensors")}
    assert len(weights) == 4  # untrained and base, of two bases


@pytest.mark.trainer
def test_siglips_through_the_real_trainer(tmp_path, capsys, monkeypatch):
    support.server()
    monkeypatch.setattr(trainer, "Process", support.Fork)
    monkeypatch.setattr(recipe, "QUICK", SMALL)
    out = tmp_path / "out"
    assert run.run(out, quick=True, bases=1, losses=["fsc-clip"], siglip=True) == 0
    assert "fsc-clip, mixed" in capsys.readouterr().out
    assert json.loads((out / "recipe.json").read_text())["siglip"]
    assert "Tiny SigLIPs" in (out / "study/study.md").read_text()
    start, base = (bias(out / "base-0/models" / name) for name in ("untrained", "base"))
    (checkpoint,) = out.glob("study/parts/train-*/run/checkpoints/epoch_1.pt")
    tuned = torch.load(checkpoint, weights_only=True)["state_dict"]["logit_bias"].item()
    assert start == pytest.approx(-3.43)  # -log(32 - 1)
    assert len({start, base, tuned}) == 3


def bias(folder: Path) -> float:
    return float(load_file(folder / models.WEIGHTS)["logit_bias"].item())


def test_names_of_all_methods_are_names_in_a_study():
    for method in methods.methods(["all", "negclip+images", "con-clip+images"]):
        assert settings.NAME.fullmatch(method.name)
