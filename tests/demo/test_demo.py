from __future__ import annotations

import argparse
import json
import subprocess
import sys

import pytest

from open_clip_ext.demo import recipe, run
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


@pytest.mark.slow
def test_quick_demo_through_the_real_trainer(tmp_path, capsys):
    parser = argparse.ArgumentParser()
    run.add_arguments(parser)
    out = tmp_path / "out"
    words = ["--quick", "--losses", "negclip", "degla", "--out", str(out)]
    args = parser.parse_args(words)
    assert run.main(args) == 0
    printed = capsys.readouterr().out
    for name in ("base", "negclip", "degla", "0.6 degla + 0.4 base", "swap_att", "R@1"):
        assert name in printed
    assert (out / "tradeoff.png").read_bytes().startswith(b"\x89PNG")
    text = (out / "report.md").read_text()
    assert "numbers mean nothing" in text
    commands = (out / "commands.sh").read_text()
    assert commands.count("open_clip_train.main") == 3
    assert "--loss degla" in commands
    subprocess.run(["bash", "-n", str(out / "commands.sh")], check=True)
    # The run's own record and weights: the loss was there, and it made a difference.
    assert "loss: degla" in (out / "logs/degla-seed0/params.txt").read_text().splitlines()
    log = (out / "logs/degla-seed0/out.log").read_text()
    assert "Distill_loss" in log
    weights = {
        name: (out / "models" / name / "open_clip_model.safetensors").read_bytes()
        for name in ("base", "negclip-seed0", "degla-seed0")
    }
    assert len(set(weights.values())) == 3
    scores = json.loads((out / "scores.json").read_text())
    assert [row["loss"] for row in scores] == ["", "negclip", "negclip", "degla", "degla"]

    # A second call finds every stage done and says the same.
    before = (out / "models/base/run.json").stat().st_mtime_ns
    assert run.main(args) == 0
    assert (out / "models/base/run.json").stat().st_mtime_ns == before
    assert json.loads((out / "scores.json").read_text()) == scores


def test_a_failing_trainer_is_one_sentence(tmp_path):
    from open_clip_ext.demo import train

    train.untrained(tmp_path / "m", 0)
    words = recipe.command(
        recipe.QUICK, name="x", model="m", data="no-such-folder",
        schedule=recipe.QUICK.fine_tuning, seed=0, loss="negclip", options={"no_such_option": 1.0},
    )  # fmt: skip
    with pytest.raises(TrainingError, match="no_such_option") as error:
        train.run(tmp_path, words, 8, 64, "x", tmp_path / "target")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "target").exists()
