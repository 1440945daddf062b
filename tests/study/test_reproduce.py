"""`launch/studies` and docs/reproduce.md on a drawn stand-in of their data."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from pathlib import Path

import pytest
import stand_in

from open_clip_ext import cli
from open_clip_ext.evaluation import catalogue
from open_clip_ext.study import disk, parts, settings

PAGE = (Path(stand_in.__file__).parents[2] / "docs" / "reproduce.md").read_text()
FILES = sorted(stand_in.STUDIES.glob("*.toml"))
FILE = stand_in.STUDIES / "coco-b32.toml"
CAPTIONS = 414_113  # of COCO train2014


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with the stand-in, the stores that the page's commands make, and the study."""
    folder = tmp_path_factory.mktemp("coco")
    stand_in.write(folder)
    (folder / "stores").mkdir()
    for file in FILES:
        (folder / file.name).write_text(stand_in.small(file.read_text()))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for words in stand_in.commands(PAGE):
            assert cli.main(words) == 0, words
    return folder


@pytest.mark.parametrize(("name", "trainings"), [("coco-b32", 33), ("flickr30k-b32", 14)])
def test_the_study_can_start(place, capsys, name, trainings):
    """Flags, stores with enough companions, pictures: all that `plan` looks at before anything runs."""
    assert cli.main(["study", "plan", str(place / f"{name}.toml")]) == 0
    assert re.search(rf"^trainings +{trainings} .* {trainings}$", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize(("name", "sets"), [("coco-b32", 21), ("flickr30k-b32", 11)])
def test_every_benchmark_has_its_items(place, monkeypatch, name, sets):
    monkeypatch.chdir(place)
    study = settings.read(place / f"{name}.toml")
    families: dict[str, int] = {}
    for _, benchmark in catalogue.read(catalogue.sources(study.reported)).values():
        assert len(benchmark.items) >= 4, benchmark.name
        families[benchmark.family] = families.get(benchmark.family, 0) + 1
    assert families == {"composition": 9, "retrieval": 2, "zero-shot": sets}


def test_captions_csv_has_every_caption_of_coco(place):
    captions = json.loads((place / "data/coco/annotations/captions_train2014.json").read_text())
    rows = (place / "data/captions.csv").read_text().splitlines()[1:]
    assert len(rows) == len(captions["annotations"]) == 48


@pytest.mark.parametrize("name", ["degla.store", "ce-clip.store", "edits.store", "units.store"])
def test_without_a_store_the_study_does_not_start(place, tmp_path, capsys, name):
    for path in place.iterdir():
        if path.name not in ("stores", FILE.name):
            (tmp_path / path.name).symlink_to(path)
    shutil.copy(place / FILE.name, tmp_path)
    shutil.copytree(place / "stores", tmp_path / "stores", ignore=shutil.ignore_patterns(name))
    with pytest.raises(SystemExit) as stopped:
        cli.main(["study", "plan", str(tmp_path / FILE.name)])
    assert stopped.value.code == 2
    assert f"stores/{name}" in capsys.readouterr().err


def test_the_real_study_needs_room_for_the_real_model():
    """33 trainings, two files of each, four copies of 151 million weights in a file; nothing is loaded."""
    study = settings.read(FILE)
    assert disk.weights(study.bases[0]) == 4 * 151_277_313
    assert round(disk.needed(study, FILE.parent / "none") / 1e9) == 160


def test_only_the_model_and_the_speed_of_the_study_are_changed():
    old, new = tomllib.loads(FILE.read_text()), tomllib.loads(stand_in.small(FILE.read_text()))
    changed = {
        "bases.openai.model", "bases.openai.pretrained", "train.precision", "train.device",
        "train.log-every-n-steps", "train.batch-size", "train.epochs", "train.warmup", "train.workers",
        "methods.tsvlc.flags.batch-size", "methods.tsvlc.flags.warmup",
        "methods.cs-clip.flags.batch-size", "methods.cs-clip.flags.warmup",
    }  # fmt: skip
    assert {key for key in flat(old) | flat(new) if flat(old).get(key) != flat(new).get(key)} == changed


def test_settings_are_those_of_the_recipes():
    study = settings.read(FILE)
    compared = set()
    for method in study.methods:
        recipe = stand_in.STUDIES.parent / "settings" / f"{method.loss}.sh"
        if not recipe.exists():  # of clip
            continue
        wanted = dict(re.findall(r'"\$\{(\w+):=(.*?)\}"', recipe.read_text()))
        flags = {**study.train, **method.flags}
        for name, flag in (("LR", "lr"), ("WD", "wd"), ("GLOBAL_BATCH", "batch-size"), ("EPOCHS", "epochs")):
            assert flags[flag] == float(wanted[name]), (method.name, flag)
        assert flags["warmup"] == float(wanted.get("WARMUP", 3 * (CAPTIONS // 128))), method.name
        if not method.name.endswith("-on-degla"):
            assert " ".join(flags["companions"]) == wanted["COMPANIONS"], method.name
        options = {key: value for key, value in method.options.items() if key != "tgc"}
        if "awk" in wanted.get("LOSS_CFG", ""):  # of degla: for the global batch
            assert options == {"distill_weight": 0.005}
        else:
            assert options == {
                key: float(value)
                for key, value in (word.split("=") for word in wanted.get("LOSS_CFG", "").split())
            }
        compared.add(method.loss)
    assert compared == {"negclip", "ce-clip", "degla", "anchored", "fsc-clip", "tsvlc", "cs-clip"}


def flat(table: dict, before: str = "") -> dict:
    found = {}
    for key, value in table.items():
        if isinstance(value, dict):
            found |= flat(value, f"{before}{key}.")
        else:
            found[f"{before}{key}"] = value
    return found


# Percent, of DeGLA's tables: VALSE, SugarCrepe by subset, ARO, the eleven.
PUBLISHED = {
    "ce-clip": (72.2, (93.1, 88.8, 79.0, 72.8, 77.0, 92.4, 93.4), (83.9, 76.4, 80.9, 83.7),
                (80.5, 54.1, 57.6, 59.0, 30.1, 49.2, 22.8, 27.6, 74.4, 9.1, 38.1)),
    "degla": (74.1, (94.5, 92.6, 84.2, 81.6, 82.1, 93.8, 95.7), (81.6, 74.3, 93.8, 94.7),
              (86.5, 59.5, 75.6, 76.0, 52.8, 59.5, 45.7, 38.1, 84.0, 14.1, 54.5)),
}  # fmt: skip


def test_the_headlines_are_those_of_the_paper_if_the_scores_are(tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    scope: dict = {}
    exec(compile(code.partition("\ndef ")[0], "headlines.py", "exec"), scope)
    study = settings.read(FILE)
    for part in parts.sweeps(study, tmp_path / "coco-b32", {}):
        valse, sugarcrepe, aro, eleven = PUBLISHED.get(part.method.removesuffix("-released"), [None] * 4)
        if valse is None:
            continue
        names = ("valse", "sugarcrepe", *scope["ARO"], *scope["ELEVEN"])
        values = (valse, 0.0, *aro, *eleven)
        found = {
            name: {"primary": "micro", "scores": {"micro": {"value": value / 100}}}
            for name, value in zip(names, values, strict=True)
        }
        subsets = [name for group in scope["PARTS"] for name in group]
        found["sugarcrepe"]["subsets"] = {
            name: {"accuracy": {"value": value / 100}}
            for name, value in zip(subsets, sugarcrepe, strict=True)
        }
        (part.folder / "alpha-1").mkdir(parents=True)
        (part.folder / "alpha-1" / "result.json").write_text(json.dumps({"benchmarks": found}))
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "headlines.py", "exec"), {})
    printed = capsys.readouterr().out
    assert "degla: composition +3.6 ± 0.0 against ce-clip" in printed
    assert "degla: zero-shot +13.1 ± 0.0" in printed or "degla: zero-shot +13.0 ± 0.0" in printed
