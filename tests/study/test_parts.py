"""What a study has to do, and what a changed setting makes anew."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import studies

from open_clip_ext.study import parts, settings

CHOSEN = {("negclip", base): {"lr": 1e-4} for base in "ab"}


def known(tmp_path, chosen=CHOSEN, old="", new="") -> list[parts.Part]:
    study = settings.read(studies.write(tmp_path, studies.TOML.replace(old, new, 1)))
    return parts.every(study, tmp_path / "out", chosen)


def folders(found, kind="") -> set[Path]:
    return {part.folder for part in found if kind in part.kind}


def test_each_part_is_there_once_after_what_it_needs(tmp_path):
    found = known(tmp_path)
    # 2 bases: clip with 2 seeds; negclip with 2 values, and the chosen one with another seed.
    assert Counter(part.kind for part in found) == {"train": 10, "dev": 4, "sweep": 8}
    assert len(folders(found)) == len(found)
    for place, part in enumerate(found):
        assert all(need in found[:place] for need in part.needs)


def test_before_a_value_is_chosen_the_other_seeds_are_not_known(tmp_path):
    found = known(tmp_path, {})
    assert Counter(part.kind for part in found) == {"train": 8, "dev": 4, "sweep": 4}
    study = settings.read(studies.write(tmp_path))
    assert len(found) + parts.unknown(study, {}) == len(known(tmp_path)) + parts.unknown(study, CHOSEN)


@pytest.mark.parametrize(
    ("old", "new", "again"),
    [
        ("epochs = 1", "epochs = 2", {"train": 10, "dev": 4, "sweep": 8}),
        ("lr = 1e-3 }", "lr = 2e-3 }", {"train": 4, "sweep": 4}),  # of clip alone
        ('[bases.a]\nmodel = "local-dir:base-a"', '[bases.a]\nmodel = "local-dir:c"',
         {"train": 5, "dev": 2, "sweep": 4}),
        ("[train]", "[bases.b.methods.negclip]\noptions = { a = 1 }\n\n[train]",
         {"train": 3, "dev": 2, "sweep": 2}),
        ("[train]", "[bases.b.methods.clip]\nflags = { wd = 0.2 }\n\n[train]", {"train": 2, "sweep": 2}),
        ("[train]", "[bases.b.methods.clip]\n\n[train]", {}),
        # A demo that is extended: what is there stays.
        ("[train]", '[bases.c]\nmodel = "local-dir:base-c"\n\n[train]', {"train": 4, "dev": 2, "sweep": 2}),
        ("[[dev]]", "[methods.degla]\n\n[[dev]]", {"train": 4, "sweep": 4}),
        ("weights = [0.5]", "weights = [0.4]", {"sweep": 8}),
        ('annotations = "dev"', 'annotations = "dev2"', {"dev": 4, "sweep": 8}),
        ('annotations = "test"', 'annotations = "test2"', {"sweep": 8}),
        ("seeds = [0, 1]", "seeds = [0, 1, 2]", {"train": 4, "sweep": 4}),
        ("at_once = 2", "at_once = 1", {}),
        ('reference = ["clip"]', "", {}),
    ],
)  # fmt: skip
def test_a_changed_setting_makes_anew_what_depends_on_it_and_nothing_else(tmp_path, old, new, again):
    before = folders(known(tmp_path))
    changed = [part for part in known(tmp_path, old=old, new=new) if part.folder not in before]
    assert Counter(part.kind for part in changed) == again


def test_a_training_is_upstream_s_command(tmp_path):
    part = next(p for p in known(tmp_path) if p.kind == "train" and p.method == "negclip")
    words = " ".join(part.words)
    assert (
        "-m open_clip_train.main --model local-dir:base-a --loss negclip --train-data data/photos.csv"
        in words
    )
    assert "--lr 0.001 --seed 0 --save-frequency 0 --save-most-recent --resume latest" in words
    assert part.product == part.folder / "run/checkpoints/epoch_1.pt"


def test_what_a_base_changes_of_a_method_is_in_the_command(tmp_path):
    table = "[bases.b.methods.clip]\noptions = { a = 1 }\nflags = { lr = 2e-3 }\n\n[train]"
    found = {p.base: p for p in known(tmp_path, old="[train]", new=table) if p.method == "clip"}
    assert "--loss clip --loss-cfg a=1" in " ".join(found["b"].needs[0].words)
    assert "--lr 0.002" in " ".join(found["b"].needs[0].words)
    assert "--loss-cfg" not in found["a"].needs[0].words
    assert "--lr 0.001" in " ".join(found["a"].needs[0].words)


def test_several_processes_are_started_by_torchrun(tmp_path):
    found = known(tmp_path, old="at_once = 2", new="processes = 4")
    words = " ".join(found[0].words)
    assert "-m torch.distributed.run --standalone --nproc-per-node 4 -m -- open_clip_train.main" in words


@pytest.mark.parametrize(
    ("value", "words"),
    [(True, ["--x"]), (False, []), ([1, "b"], ["--x", "1", "b"]), (1e-6, ["--x", "1e-06"])],
)
def test_values_of_flags(value, words):
    assert parts._words({"x": value}) == words


def test_a_value_that_is_a_path_gives_the_name_of_one_folder(tmp_path):
    values = '["stores/a.store", "other stores/a.store"]'
    found = known(tmp_path, {}, "lr = [1e-3, 1e-4]", f"negatives = {values}")
    tried = [part for part in found if part.method == "negclip"]
    assert {part.folder.parent for part in tried} == {tmp_path / "out/parts"}
    assert len(folders(tried)) == len(tried)
