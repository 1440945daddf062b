from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import support

from open_clip_ext.demo import recipe, run, train, vocabulary
from open_clip_ext.errors import InputError, TrainingError


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


def test_a_demo_with_other_settings(tmp_path):
    (tmp_path / "recipe.json").write_text(recipe.to_json(recipe.Recipe()))
    with pytest.raises(InputError, match="other settings"):
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


def test_a_trainer_tells_its_status_and_what_it_took(tmp_path):
    code = "import os; print(os.getcwd(), flush=True); sum(range(10**7)); exit(3)"
    with (tmp_path / "output").open("w") as output:
        trainer = train.Trainer(["python", "-c", code], tmp_path, output)
        while not (ended := trainer.poll()):
            time.sleep(0.01)
        trainer.stop()
    status, seconds = ended
    assert status == 3
    assert 0.05 < seconds < 60
    assert (tmp_path / "output").read_text() == f"{tmp_path}\n"


def test_a_trainer_can_be_stopped(tmp_path):
    with (tmp_path / "output").open("w") as output:
        trainer = train.Trainer(["python", "-c", "import time; time.sleep(60)"], tmp_path, output)
        assert trainer.poll() is None
        trainer.stop()


class Fork:
    """`train.Trainer`, but a fork of the tests' server."""

    def __init__(self, words, folder, output):
        _, *words = recipe.runnable(words)
        self._process = support.server().start(words, output, output, support.ENVIRONMENT, folder)

    def poll(self):
        status = self._process.poll()
        return None if status is None else (status, self._process.cpu_seconds)

    def stop(self):
        support.end(self._process)


@pytest.mark.trainer
def test_quick_demo_through_the_real_trainer(tmp_path, capsys, monkeypatch):
    support.server()  # before threads ask for it
    monkeypatch.setattr(train, "Trainer", Fork)
    parser = argparse.ArgumentParser()
    run.add_arguments(parser)
    out = tmp_path / "out"
    words = ["--quick", "--losses", "negclip+images", "degla", "--out", str(out)]

    # One base, and nothing is compared; another is added to it afterwards.
    assert run.main(parser.parse_args([*words, "--bases", "1"])) == 0
    assert "nothing is compared" in capsys.readouterr().out
    first = {path: path.read_bytes() for path in out.glob("base-0/models/*/*")}
    args = parser.parse_args(words)
    assert run.main(args) == 0
    printed = capsys.readouterr().out
    for name in ("base 1", "negclip+images", "degla", "0.6 degla + 0.4 base", "swap_att", "R@1", "2 bases"):
        assert name in printed
    for name in ("tradeoff.png", "course.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    text = (out / "report.md").read_text()
    assert "numbers are meaningless" in text
    commands = (out / "commands.sh").read_text()
    assert commands.count("open_clip_train.main") == 6
    assert commands.count("--loss degla") == 2
    assert commands.count("--companion-images hard=1") == 2
    assert '--logs "base-1/$LOGS"' in commands
    subprocess.run(["bash", "-n", str(out / "commands.sh")], check=True)
    assert all(path.read_bytes() == content for path, content in first.items())

    # The run's own record and weights: the loss was there, and it made a difference.
    assert "loss: degla" in (out / "base-1/logs/degla-seed0/params.txt").read_text().splitlines()
    assert "Distill_loss" in (out / "base-1/logs/degla-seed0/out.log").read_text()
    weights = {path.read_bytes() for path in out.glob("base-*/models/*/open_clip_model.safetensors")}
    assert len(weights) == 8  # untrained, base and two methods, of two bases
    epochs = recipe.QUICK.fine_tuning.epochs
    assert len(list(out.glob("base-0/models/degla-seed0/epoch_*.safetensors"))) == epochs - 1
    assert not list(out.glob("base-*/logs/*/checkpoints"))
    scores = json.loads((out / "scores.json").read_text())
    assert [row["loss"] for row in scores["models"]] == ["", *("negclip+images",) * 2, "degla", "degla"]
    assert [len(row["scores"]) for row in scores["models"]] == [2] * 5
    steps = [str(8 * epoch) for epoch in range(epochs + 1)]
    assert [list(course) for course in scores["courses"]["degla"]] == [steps, steps]

    # The tokenizer is found by upstream from the folder that the commands run in.
    code = "import open_clip; print(open_clip.get_tokenizer('local-dir:base-0/models/base').vocab_size)"
    monkeypatch.chdir(out)
    (tmp_path / "code.py").write_text(code)
    assert support.python(tmp_path / "code.py").stdout.strip() == "665"

    # A demo that was stopped in its second base, between two stages: it does what is missing and no more.
    shutil.rmtree(out / "base-1" / "models" / "degla-seed0")
    before = (out / "base-0/models/degla-seed0/run.json").stat().st_mtime_ns
    assert run.main(args) == 0
    assert (out / "base-0/models/degla-seed0/run.json").stat().st_mtime_ns == before
    assert json.loads((out / "scores.json").read_text())["models"][0] == scores["models"][0]
    again = json.loads((out / "scores.json").read_text())["models"]
    assert [row["scores"] for row in again] == [row["scores"] for row in scores["models"]]


@pytest.mark.trainer
def test_siglips_through_the_real_trainer(tmp_path, capsys, monkeypatch):
    support.server()
    monkeypatch.setattr(train, "Trainer", Fork)
    short = recipe.Schedule(samples=64, epochs=1, batch=32, lr=1e-3, warmup=1)
    settings = replace(recipe.QUICK, pretraining=short, fine_tuning=short, shards=1, test_size=20)
    monkeypatch.setattr(recipe, "QUICK", settings)
    out = tmp_path / "out"
    assert run.run(out, quick=True, bases=1, losses=["fsc-clip", "degla"], siglip=True) == 0
    assert "0.6 fsc-clip + 0.4 base" in capsys.readouterr().out
    assert json.loads((out / "recipe.json").read_text())["siglip"]
    assert "Tiny SigLIPs" in (out / "report.md").read_text()
    start, *trained = (
        train.load(out / "base-0/models" / name) for name in ("untrained", "base", "degla-seed0")
    )
    assert start.logit_bias.item() == pytest.approx(-3.43)  # -log(32 - 1)
    assert all(model.logit_bias.item() != start.logit_bias.item() for model in trained)


def test_a_failing_trainer_is_one_sentence(tmp_path):
    train.untrained(tmp_path / "m", recipe.MODEL, 0)
    words = recipe.command(
        recipe.QUICK, name="x", model="m", data="no-such-folder",
        schedule=recipe.QUICK.fine_tuning, seed=0, logs="logs", loss="negclip",
        options={"no_such_option": 1.0},
    )  # fmt: skip
    (tmp_path / vocabulary.FILE).write_bytes(vocabulary.content())
    with pytest.raises(TrainingError, match="no_such_option") as error:
        train.run(tmp_path, words, recipe.QUICK.fine_tuning, "x", tmp_path / "target")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "target").exists()
