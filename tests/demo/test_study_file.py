"""The study that the demo writes: what is trained and evaluated, and that an extension repeats nothing."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest

from open_clip_ext.demo import methods, recipe, run, study_file
from open_clip_ext.study import parts, settings

RECIPE = recipe.Recipe(world_seed=7)


def study(tmp_path, losses=run.LOSSES, bases=2, seeds=1, settings_of=RECIPE, **options):
    scales = [20.0, 16.0, 18.0][:bases]
    file = tmp_path / study_file.FILE
    file.write_text(study_file.text(settings_of, methods.methods(losses), scales, seeds, **options))
    return settings.read(file)


def trainings(found, choice=None) -> dict[tuple[str, str], parts.Part]:
    return {
        (m.name, b.name): parts.training(found, Path("out"), m, b, 0, choice or {})
        for m in found.methods
        for b in found.bases
    }


def test_a_training_has_the_command_of_the_published_figures(tmp_path):
    part = trainings(study(tmp_path))["ce-clip", "base-1"]
    folder = str(part.folder)
    words = f"""
        -m open_clip_train.main --model local-dir:base-1/models/base --loss ce-clip
        --loss-cfg threshold_cap=1.6 --dataset-type webdataset --train-num-samples 2560 --epochs 8
        --batch-size 32 --workers 1 --lr 0.0006 --warmup 20 --wd 0.1 --beta1 0.9 --beta2 0.98 --eps 1e-06
        --grad-clip-norm 1.0 --aug-cfg scale=(1.0,1.0) --device cpu --precision fp32 --log-every-n-steps 5
        --train-data base-1/shards/fine-tuning/{{0000..0007}}.tar --seed 0
        --save-frequency 0 --save-most-recent --resume latest --logs {folder} --name run
    """
    assert list(part.words) == [sys.executable, *words.split()]


def test_a_base_is_pretrained_by_the_command_of_the_published_figures(tmp_path):
    part = run.pretraining(tmp_path, RECIPE, 1)
    words = " ".join(part.words)
    for flags in (
        "--model local-dir:base-1/models/untrained --loss clip --dataset-type webdataset",
        "--train-num-samples 12800 --epochs 5 --batch-size 64 --workers 1 --lr 0.002 --warmup 60 --wd 0.1",
        "--train-data base-1/shards/pretraining/{0000..0007}.tar --seed 7001",
    ):
        assert flags in words
    assert part.folder.parent == tmp_path / "pretraining/parts"


def test_options_follow_the_base_and_the_schedule(tmp_path):
    found = study(tmp_path)
    options = {
        key: dict(m.on(b).options) for m in found.methods for b in found.bases for key in [(m.name, b.name)]
    }
    assert options["ce-clip", "base-0"] == {"threshold_cap": 2.0}
    assert options["ce-clip", "base-1"] == {"threshold_cap": 1.6}
    degla = {"distill_weight": 0.04, "ema_decay": pytest.approx(0.9996 ** (5 * 1617 / 640), abs=1e-6)}
    assert options["degla", "base-0"] == options["degla", "base-1"] == degla
    assert options["negclip", "base-0"] == {}


def test_a_method_has_the_shards_of_its_companions(tmp_path):
    found = trainings(study(tmp_path, ["negclip", "cs-clip", "negclip+images"]))

    def flag(method, name):
        words = list(found[method, "base-1"].words)
        return words[words.index(name) + 1]

    assert flag("negclip", "--train-data") == "base-1/shards/fine-tuning/{0000..0007}.tar"
    assert flag("cs-clip", "--train-data") == "base-1/shards/fine-tuning-phrase-foil/{0000..0007}.tar"
    assert "hard_image" in flag("negclip+images", "--train-data")
    assert "--companions hard=1 hard_neg=1 --companion-images hard=1" in " ".join(
        found["negclip+images", "base-1"].words
    )


def test_each_base_has_evaluation_seeds_of_its_own_and_dev_is_not_reported(tmp_path):
    base = study(tmp_path).bases[1]
    assert base.dev == [
        ["drawn-composition", "seeds=7001001", "size=400"],
        ["drawn-unmentioned", "seeds=7001001", "size=400"],
    ]
    assert [words[0] for words in base.reported] == [
        *(
            "drawn-composition",
            "drawn-unmentioned",
            "drawn-relations",
            "drawn-shape",
            "drawn-full",
            "drawn-web",
        ),
    ]
    assert {words[1] for words in base.reported} == {"seeds=7001011,7001012"}


def test_learning_rates_are_chosen_on_dev_if_asked(tmp_path):
    own = recipe.Recipe(world_seed=7, lr={"negclip": 1e-3})
    clip, negclip, *_ = study(tmp_path, settings_of=own).methods
    assert (clip.flags, negclip.flags) == ({}, {"lr": 1e-3})
    for method in study(tmp_path, settings_of=own, select=True).methods:
        assert method.choices() == [{"lr": 5e-4}, {"lr": 1e-3}, {"lr": 2e-3}]
        assert not method.flags


def test_an_extended_demo_repeats_nothing(tmp_path):
    def known(**options) -> set[Path]:
        found = study(tmp_path, **options)
        return {part.folder for part in parts.every(found, Path("out"), {})}

    first = known(losses=["negclip", "ce-clip"], bases=1)
    assert len(first) == 4
    for options in ({"losses": ["all"], "bases": 1}, {"bases": 3}, {"bases": 1, "seeds": 3}, {"quick": True}):
        assert known(**options) >= first
    # Choosing a rate makes trainings with these rates, beside those that are there.
    assert known(select=True).isdisjoint(first)


def test_controls_are_those_that_are_compared(tmp_path):
    assert study(tmp_path).reference == ["clip", "negclip"]
    assert study(tmp_path, ["degla", "clip"]).reference == ["clip"]
    assert study(tmp_path, ["degla"]).reference == []


def test_readers_are_told_what_they_see(tmp_path):
    found = study(tmp_path)
    assert found.title == study_file.TITLE
    assert "Tiny CLIPs" in found.notes[0]
    assert study_file.MEANINGLESS not in found.notes
    assert study(tmp_path, quick=True).notes[0] == study_file.MEANINGLESS
    siglip = study(tmp_path, settings_of=recipe.Recipe(siglip=True))
    assert "Tiny SigLIPs" in siglip.notes[0]
    assert "starts at -4.14" in siglip.notes[-1]


def test_remarks_are_comments(tmp_path):
    text = study(tmp_path, remarks="one\n\ntwo = 2").text
    assert text.startswith("# one\n#\n# two = 2\n\ntitle = ")


def test_values_and_names_of_all_kinds_are_read_back():
    content = {
        "text": 'a "b" \\ \n {0..1} é', "number": 3, "small": 1e-06, "yes": True, "none": [],
        "list": [0.5, 2],
        "long": ["x" * 60, "y" * 60],
        "table": {"of tables": {"a+b": {"x": 1}, "empty": {}}, "list": [{"a": 1}, {"b": "c"}]},
    }  # fmt: skip
    assert tomllib.loads("\n".join(study_file._lines(content))) == content
