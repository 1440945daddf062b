"""A study's file: what it says, and a sentence for each way in which it can be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import studies

from open_clip_ext import registry
from open_clip_ext.errors import InputError
from open_clip_ext.study import settings

DOCS = Path(__file__).parents[2] / "docs" / "studies.md"


def test_it_is_read(tmp_path):
    study = settings.read(studies.write(tmp_path))
    assert study.folder == tmp_path
    assert (study.seeds, study.weights, study.at_once, study.processes) == ([0, 1], [0.5], 2, 1)
    assert [(base.name, base.model, base.pretrained) for base in study.bases] == [
        ("a", "local-dir:base-a", ""), ("b", "local-dir:base-b", ""),
    ]  # fmt: skip
    clip, negclip = study.methods
    assert (clip.loss, clip.flags, clip.choices()) == ("clip", {"lr": 1e-3}, [{}])
    assert negclip.choices() == [{"lr": 1e-3}, {"lr": 1e-4}]
    assert study.dev == [["sugarcrepe", "annotations=dev", "images=dev"]]
    assert [benchmark[0] for benchmark in study.reported] == ["sugarcrepe", "image-folder"]


def test_the_example_of_the_docs_is_read_and_gives_negatives_to_losses_that_use_them(tmp_path):
    text = DOCS.read_text().split("```toml\n")[1].split("```")[0]
    study = settings.read(studies.write(tmp_path, text))
    for method in study.methods:
        uses = bool(registry.load(method.loss).companions)
        assert uses == ("negatives" in {**study.train, **method.flags})


def test_a_report_may_have_a_title_and_notes(tmp_path):
    study = settings.read(studies.write(tmp_path))
    assert (study.title, study.notes) == ("small", [])
    study = settings.read(
        studies.write(tmp_path, f'title = "Two"\nnotes = ["One.", "Three."]\n{studies.TOML}')
    )
    assert (study.title, study.notes) == ("Two", ["One.", "Three."])


def test_flags_may_be_written_as_the_trainer_shows_them(tmp_path):
    text = studies.TOML.replace("batch-size = 8", "--batch-size = 8").replace(
        "csv-separator", "csv_separator"
    )
    flags = settings.read(studies.write(tmp_path, text)).train
    assert flags["batch-size"] == 8
    assert flags["csv-separator"] == ","


def test_a_base_may_have_data_and_benchmarks_of_its_own(tmp_path):
    own = '[bases.b]\nmodel = "local-dir:base-b"\ntrain = { train-data = "other.csv" }\n'
    own += '[[bases.b.reported]]\nbenchmark = "imagenet"\nimages = "val"\n'
    text = studies.TOML.replace('[bases.b]\nmodel = "local-dir:base-b"\n', own)
    base = settings.read(studies.write(tmp_path, text)).bases[1]
    assert base.flags == {"train-data": "other.csv"}
    assert base.reported == [["imagenet", "images=val"]]


def test_a_base_may_change_options_and_flags_of_a_method(tmp_path):
    text = studies.TOML.replace("[methods.negclip]", '[methods."neg+"]\noptions = { a = 1, b = 2 }')
    text = text.replace(
        "[train]", '[bases.b.methods."neg+"]\noptions = { b = 3 }\nflags = { wd = 0.2 }\n[train]'
    )
    study = settings.read(
        studies.write(tmp_path, text.replace("choose =", "flags = { wd = 0.1, x = 1 }\nchoose ="))
    )
    a, b = (study.methods[1].on(base) for base in study.bases)
    assert (a.options, a.flags) == ({"a": 1, "b": 2}, {"wd": 0.1, "x": 1})
    assert (b.options, b.flags) == ({"a": 1, "b": 3}, {"wd": 0.2, "x": 1})
    assert study.methods[0].on(study.bases[1]) == study.methods[0]


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("seeds = [0, 1]", "seeds = [0, 1", "broken TOML"),
        ("seeds = [0, 1]", "seeds = []", "seeds = []: give at least one, each once"),
        ("seeds = [0, 1]", "seeds = [0, 0]", "give at least one, each once"),
        ("seeds = [0, 1]", "seeds = [0, -1]", "seeds = [0, -1]: a seed is at least 0"),
        ("seeds = [0, 1]", "seeds = [0.5]", "seeds: must be a list of int"),
        ("seeds = [0, 1]", "seed = [0, 1]", "seed: unknown (nearest: seeds"),
        ("weights = [0.5]", "weights = [1.5]", "weights: 1.5 is not between 0 (the base) and 1"),
        ("weights = [0.5]", "weights = [0.5, 0.5]", "give each once, with three digits at most"),
        ("weights = [0.5]", "weights = [0.9999]", "give each once, with three digits at most"),
        ("[methods.clip]", "[methods.base]", "[methods.base]: the models to start from have this name"),
        ('reference = ["clip"]', 'reference = ["clip", "clip"]', "give each once"),
        ("lr = [1e-3, 1e-4]", "lr = [1e-3, 0.001]", "choose: lr: give each value once"),
        ('reference = ["clip"]', 'reference = ["clap"]', "reference: no method clap (nearest: clip"),
        ("at_once = 2", "at_once = 0", "at_once: 0 is not a whole number of at least 1"),
        ("flags = { lr = 1e-3 }", "flags = 1", "methods.clip.flags must be a table"),
        ("[bases.a]", '[bases.a]\nactivation = "relu"', "[bases.a] activation: 'relu' is neither gelu nor"),
        ("[bases.a]", '[bases."../a"]', "[bases.../a]: a name has letters, digits"),
        ('"local-dir:base-a"', '"ViT-B-32"', "[bases.a] pretrained: missing; a base is a trained model"),
        ('"local-dir:base-a"', "3", "[bases.a] model: 3 is not a text"),
        ('model = "local-dir:base-a"', "", "[bases.a] model: missing"),
        ("warmup = 1", "seed = 1", "[train] seed: set by `seeds`; leave it out"),
        ("warmup = 1", 'name = "x"', "[train] name: set by the study itself"),
        ("warmup = 1", "warmup = { a = 1 }", "[train] warmup: must be text, a number, true or false"),
        ("[methods.clip]", "[methods.clip]\nloss = 1", "[methods.clip] loss: 1 is not a text"),
        ("[methods.clip]", "[methods.clip]\noption = 1", "[methods.clip] option: unknown (nearest: options"),
        ("lr = [1e-3, 1e-4]", "lr = 1e-3", "[methods.negclip] choose: lr must be a list of at least two"),
        ("lr = [1e-3, 1e-4]", "lr = [1, 2], wd = [1, 2]", "choose: lr, wd: choose one flag at a time"),
        ("[train]", "[bases.b.methods.negclap]\n[train]",
         "[bases.b.methods.negclap]: no method negclap (nearest"),
        ("[train]", "[bases.b.methods.clip]\nflags = { seed = 1 }\n[train]",
         "[bases.b.methods.clip.flags] seed: set by `seeds`; leave it out"),
        ("choose =", "flags = { lr = 1 }\nchoose =",
         "[methods.negclip] flags: lr: its value is chosen by `choose`; leave one of the two out"),
        ("[train]", "[bases.b.methods.negclip]\nflags = { lr = 1 }\n[train]",
         "[bases.b.methods.negclip.flags] lr: its value is chosen by `choose`; leave one of the two out"),
        ("[train]", "[bases.b.methods.clip]\nflag = {}\n[train]",
         "[bases.b.methods.clip] flag: unknown (nearest: flags"),
        ("[[dev]]", "[[development]]", "development: unknown"),
        ('[[dev]]\nbenchmark = "sugarcrepe"', "[[dev]]", 'dev: each has benchmark = "NAME"'),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused(tmp_path, old, new, sentence):
    assert old in studies.TOML
    file = studies.write(tmp_path, studies.TOML.replace(old, new, 1))
    with pytest.raises(InputError) as caught:
        settings.read(file)
    assert sentence in str(caught.value)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("part", ["bases", "methods"])
def test_one_base_and_one_method_must_be_named(tmp_path, part):
    kept = [line for line in studies.TOML.split("\n\n") if not line.startswith(f"[{part}.")]
    text = "\n\n".join(kept).replace('reference = ["clip"]', "")
    with pytest.raises(InputError, match=rf"no \[{part}.NAME\]: name at least one"):
        settings.read(studies.write(tmp_path, text))


@pytest.mark.parametrize("part", ["dev", "reported"])
def test_benchmarks_to_choose_on_and_to_report_must_be_named(tmp_path, part):
    kept = [line for line in studies.TOML.split("\n\n") if not line.startswith(f"[[{part}]]")]
    with pytest.raises(InputError, match=rf"no \[\[{part}\]\]: name at least one benchmark"):
        settings.read(studies.write(tmp_path, "\n\n".join(kept)))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        settings.read(tmp_path / "none.toml")
