"""What a comparison says, what it refuses, and that its numbers are those of the rows."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import results

from open_clip_ext.errors import InputError
from open_clip_ext.evaluation.comparison import measures, paired, report
from open_clip_ext.evaluation.comparison.measures import Change, Measure, Score
from open_clip_ext.evaluation.comparison.paired import IMPROVED, NOT_SHOWN, WORSE
from open_clip_ext.evaluation.scoring import aggregate, bootstrap


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return results.photo_folder(tmp_path_factory.mktemp("photos"))


@pytest.fixture
def two(tmp_path, pictures):
    base = results.write(tmp_path / "base", results.benchmarks(pictures))
    tuned = results.write(tmp_path / "tuned", results.benchmarks(pictures, 0.75, 0.79, model_seed=1))
    return [base, tuned]


# --- numbers --------------------------------------------------------------------------------------


def test_numbers_are_those_of_the_rows(two):
    found = paired.compare(two)
    sugarcrepe = found.benchmarks[0]
    base, tuned = ([row["correct"]["accuracy"] for row in own] for own in sugarcrepe.rows)
    primary = sugarcrepe.primary
    assert (primary.name, primary.n, primary.images) == ("micro", 300, 24)
    assert [s.value for s in primary.scores] == pytest.approx([np.mean(base), np.mean(tuned)])
    assert primary.changes[0].value == pytest.approx(np.mean(tuned) - np.mean(base))
    assert sugarcrepe.flips[0].wins == sum(b < t for b, t in zip(base, tuned, strict=True))
    assert sugarcrepe.flips[0].losses == sum(b > t for b, t in zip(base, tuned, strict=True))
    assert sugarcrepe.measures[1].name == "macro"
    assert sugarcrepe.measures[1].scores[1].value == pytest.approx(
        aggregate.score("macro", sugarcrepe.rows[1])["value"]
    )
    recorded = found.results[1].benchmarks["sugarcrepe"]["scores"]["micro"]
    assert [primary.scores[1].low, primary.scores[1].high] == recorded["interval"]
    for group in sugarcrepe.groups:
        own = [row["correct"]["accuracy"] for row in sugarcrepe.rows[1] if row["group"] == group.name]
        assert (group.n, group.scores[1].value) == (len(own), pytest.approx(np.mean(own)))


def test_pairs_of_an_area_under_the_curve_are_not_counted_as_items(tmp_path, pictures):
    folders = []
    for seed, name in enumerate(("base", "tuned")):
        rows = results.composition(pictures, 0.6, seed)
        for row in rows:
            row["correct"], row["half"] = (
                {"auc": row["correct"]["accuracy"]},
                {"auc": row["half"]["accuracy"]},
            )
        made = {"memes": results.entry("memes", "zero-shot", rows, ["auc micro"])}
        folders.append(results.write(tmp_path / name, made))
    part = report.differences(paired.compare(folders))
    (line,) = part.body
    shown = dict(zip(part.head, line, strict=True))
    assert shown["won / lost"] == shown["p McNemar"] == ""
    assert shown["p"]


def test_intervals_are_paired(two):
    """The interval of a difference is narrower than two models on other items would have it."""
    change, *_ = paired.compare(two).benchmarks[0].primary.changes
    base, tuned = paired.compare(two).benchmarks[0].primary.scores
    assert change.low < change.value < change.high
    assert change.high - change.low < 0.9 * np.hypot(base.high - base.low, tuned.high - tuned.low)


def test_the_same_checkpoint_twice_changes_nothing(tmp_path, pictures):
    made = results.benchmarks(pictures)
    found = paired.compare([results.write(tmp_path / name, made) for name in ("a", "b")])
    for one in found.benchmarks:
        for measure in (*one.measures, *one.groups, *found.families.values()):
            assert measure.changes == [Change(0, 0, 0, 1)]
        assert (one.flips[0].wins, one.flips[0].losses, one.flips[0].p) == (0, 0, 1)
    assert found.verdicts[0].word == NOT_SHOWN


def test_the_order_of_rows_does_not_matter(two, tmp_path, pictures):
    made = results.benchmarks(pictures, 0.75, 0.79, model_seed=1)
    for entry in made.values():
        random.Random(0).shuffle(entry["rows"])
    shuffled = results.write(tmp_path / "shuffled" / "tuned", made)
    one, other = paired.compare(two), paired.compare([two[0], shuffled])
    assert one.families == other.families
    assert [b.primary for b in one.benchmarks] == [b.primary for b in other.benchmarks]


def test_a_family_is_the_mean_of_its_benchmarks(tmp_path, pictures):
    """Of unequal size, with pictures in common; the mean is of benchmarks, not of items."""
    folders = []
    for name, skill, seed in (("base", 0.6, 0), ("tuned", 0.8, 1)):
        made = results.benchmarks(pictures, skill, model_seed=seed)
        rows = results.composition(pictures, skill + 0.1, seed + 5, n=90)
        made["valse"] = results.entry("valse", "composition", rows, ["macro"])
        folders.append(results.write(tmp_path / name, made))
    found = paired.compare(folders)
    family = found.families["composition"]
    parts = [one.primary for one in found.benchmarks if one.family == "composition"]
    assert family.name == "mean of sugarcrepe micro, valse macro"
    assert (family.n, family.images) == (390, 24)
    for m in range(2):
        assert family.scores[m].value == pytest.approx(np.mean([p.scores[m].value for p in parts]))
    assert min(p.changes[0].low for p in parts) < family.changes[0].low < family.changes[0].high


def test_a_benchmark_may_be_called_as_a_family(tmp_path, pictures):
    """Its scores and the family's stay apart."""
    found = {}
    for name in ("composition", "other"):
        folders = []
        for seed, model in enumerate(("base", "tuned")):
            made = results.benchmarks(pictures, 0.5 + 0.1 * seed, 0.8, model_seed=seed)
            rows = results.composition(pictures, 0.3 + 0.1 * seed, seed + 5)
            made[name] = results.entry(name, "composition", rows, ["micro"])
            folders.append(results.write(tmp_path / name / model, made))
        found[name] = paired.compare(folders)
    for one, other in zip(*(own.families.items() for own in found.values()), strict=True):
        assert one[0] == other[0]
        assert (one[1].scores, one[1].changes) == (other[1].scores, other[1].changes)
    assert [one.primary for one in found["composition"].benchmarks] == [
        one.primary for one in found["other"].benchmarks
    ]


def test_holm_is_over_everything_shown(two, tmp_path, pictures):
    third = results.write(tmp_path / "third", results.benchmarks(pictures, 0.62, 0.8, model_seed=3))
    found = paired.compare([*two, third])
    ps = [change.p for one in found.benchmarks for change in one.primary.changes]
    assert [p for one in found.benchmarks for p in one.holm] == bootstrap.holm(ps)
    assert len(ps) == 4


def test_rows_that_do_not_count_are_not_counted(tmp_path, pictures):
    """An average over some groups has their items alone: in n, in the images, in the flips."""
    folders = []
    for seed, name in enumerate(("base", "tuned")):
        rows = results.composition(pictures, 0.6, seed)
        rare = [
            results.row(f"rare{i}", "rare_pair", [f"rare{i}.png"], ("a", "b"), {"accuracy": seed}, 0.1)
            for i in range(24)
        ]
        made = {"pairs": results.entry("pairs", "composition", rows + rare, ["aro_vga"])}
        folders.append(results.write(tmp_path / name, made))
    [one] = paired.compare(folders).benchmarks
    assert (one.primary.n, one.primary.images) == (300, 24)
    assert "rare_pair" not in [group.name for group in one.groups]
    lucky = sum(
        b["correct"]["accuracy"] < t["correct"]["accuracy"]
        for b, t in zip(*one.rows, strict=True)
        if b["group"] != "rare_pair"
    )
    assert one.flips[0].wins == lucky


def test_many_subsets_show_those_that_changed_most(tmp_path, pictures):
    def rows(tuned):
        return [
            results.row(
                f"{g}-{i}", f"class {g}", [f"{g}-{i}.png"], ("a", "b"),
                {"accuracy": int(i < 5 + (g if tuned and g > 90 else 0) // 40)}, 0.1,
            )
            for g in range(100)
            for i in range(10)
        ]  # fmt: skip

    folders = [
        results.write(tmp_path / name, {"x": results.entry("x", "composition", rows(tuned), ["micro"])})
        for name, tuned in (("base", False), ("tuned", True))
    ]
    found = paired.compare(folders)
    [one] = found.benchmarks
    assert {f"class {g}" for g in range(91, 100)} <= {group.name for group in one.groups}
    assert (len(one.groups), one.left) == (24, 76)
    assert "76 are left out" in report.markdown(found, report.parts(found))


def test_unseen_images_are_set_apart(tmp_path, pictures):
    """Where one result knows what was trained on, the unseen part has a line of its own."""
    base, tuned = results.benchmarks(pictures), results.benchmarks(pictures, 0.75, model_seed=1)
    seen = {str(path) for path in pictures[:12]}
    for row in tuned["sugarcrepe"]["rows"]:
        row["seen"] = row["pictures"][0] in seen
    found = paired.compare([results.write(tmp_path / "a", base), results.write(tmp_path / "b", tuned)])
    unseen = found.benchmarks[0].measures[-1]
    kept = [row["correct"]["accuracy"] for row in tuned["sugarcrepe"]["rows"] if not row["seen"]]
    assert unseen.name == "micro, unseen images"
    assert (unseen.n, unseen.scores[1].value) == (len(kept), pytest.approx(np.mean(kept)))


def test_extremes_are_flipped_items_by_margin(two):
    one = paired.compare(two).benchmarks[0]
    lost, won = measures.extremes(one, 0, 5)
    margins = [[own[i]["margin"] for own in one.rows] for i in won]
    assert all(base <= 0 < tuned for base, tuned in margins)
    assert [t - b for b, t in margins] == sorted((t - b for b, t in margins), reverse=True)
    assert all(one.rows[0][i]["correct"]["accuracy"] > one.rows[1][i]["correct"]["accuracy"] for i in lost)


# --- the verdict ----------------------------------------------------------------------------------


def measure(low, high, name="sugarcrepe micro"):
    return Measure(name, 7511, 1560, [Score(0.5, 0.4, 0.6)] * 2, [Change((low + high) / 2, low, high, 0.5)])


@pytest.mark.parametrize(
    ("composition", "zero_shot", "word"),
    [
        ((0.01, 0.05), (-0.005, 0.01), IMPROVED),
        ((0.01, 0.05), (-0.009, -0.001), IMPROVED),  # lower, but surely by less than the margin
        ((0.01, 0.05), (-0.01, 0.01), NOT_SHOWN),
        ((0.01, 0.05), (-0.02, -0.005), NOT_SHOWN),
        ((0.01, 0.05), (-0.05, -0.01), WORSE),
        ((0.0, 0.05), (0.0, 0.01), NOT_SHOWN),
        ((-0.02, 0.05), (0.0, 0.01), NOT_SHOWN),
        ((-0.02, 0.0), (0.0, 0.01), NOT_SHOWN),
        ((-0.05, -0.01), (0.0, 0.01), WORSE),
        ((-0.05, -0.01), (-0.05, -0.02), WORSE),
        ((0.0, 0.0), (0.0, 0.0), NOT_SHOWN),
        ((0.01, 0.05), None, NOT_SHOWN),
        ((-0.05, -0.01), None, WORSE),
        (None, (0.0, 0.01), NOT_SHOWN),
        (None, (-0.05, -0.02), WORSE),
        (None, None, NOT_SHOWN),
    ],
)
def test_verdict(composition, zero_shot, word):
    parts = [ends and measure(*ends) for ends in (composition, zero_shot)]
    assert paired.judged(*parts, margin=0.01).word == word


def test_the_margin_decides():
    up, down = measure(0.01, 0.03), measure(-0.018, 0.0)
    assert paired.judged(up, down, margin=0.01).word == NOT_SHOWN
    assert paired.judged(up, down, margin=0.02).word == IMPROVED


def test_a_verdict_names_its_grounds():
    said = paired.judged(measure(0.01, 0.03), measure(-0.002, 0.004, "imagenet top1 micro"), 0.015).reasons
    assert said == (
        "Composition improved: +2.00 [+1.00, +3.00] points (sugarcrepe micro, 7,511 items, 1,560 images); "
        "zero-shot is kept within the 1.5-point margin: +0.10 [-0.20, +0.40] points (imagenet top1 micro, "
        "7,511 items, 1,560 images)."
    )
    assert paired.judged(None, None, 0.01).reasons == (
        "No composition benchmark was run; no zero-shot benchmark was run."
    )


def test_verdicts_of_models_that_differ(tmp_path, pictures):
    made = {
        "base": results.benchmarks(pictures),
        "better": results.benchmarks(pictures, 0.8, 0.95, model_seed=1),
        "forgot": results.benchmarks(pictures, 0.8, 0.5, model_seed=2),
    }
    found = paired.compare([results.write(tmp_path / name, entries) for name, entries in made.items()])
    assert [verdict.word for verdict in found.verdicts] == [IMPROVED, WORSE]


# --- what is refused ------------------------------------------------------------------------------


def edit(folder, change, name="sugarcrepe"):
    """Change a benchmark's entry in result.json."""
    path = folder / "result.json"
    content = json.loads(path.read_text())
    change(content["benchmarks"][name])
    path.write_text(json.dumps(content))


def edit_rows(folder, change, name="sugarcrepe"):
    path = folder / "items" / f"{name}.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows = change(rows)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def first(**changes):
    return lambda rows: [rows[0] | changes, *rows[1:]]


def rename(two):
    """Benchmarks that only one of the results has."""
    for own, folder in zip("ab", two, strict=True):
        path = folder / "result.json"
        content = json.loads(path.read_text())
        content["benchmarks"] = {f"{own}-{name}": e for name, e in content["benchmarks"].items()}
        path.write_text(json.dumps(content))


def files(**changes):
    return lambda entry: entry["files"].update(
        {f"{name}.json": value * 64 for name, value in changes.items()}
    )


REFUSED = {
    "other file": (
        lambda two: edit(two[1], lambda e: e.update(files={"x/sugarcrepe.json": "f" * 64})),
        r"sugarcrepe: base and tuned were not evaluated on the same sugarcrepe.json \(sha256 sugarcrepe-h "
        r"and ffffffffffff\); evaluate both on one file",
    ),
    "a file more": (
        lambda two: edit(two[1], files(more="f")),
        r"not evaluated on the same more.json \(sha256 none and ffffffffffff\)",
    ),
    "other templates": (
        lambda two: edit(two[1], lambda e: e.update(notes=["3 classes, 80 templates"]), "cifar10"),
        r"cifar10: the notes of base and tuned differ \(\['3 classes, 1 templates'\] and "
        r"\['3 classes, 80 templates'\]\); evaluate both with the same",
    ),
    "other ties": (
        lambda two: edit(two[1], lambda e: e.update(ties="argmax")),
        r"sugarcrepe: the treatment of ties of base and tuned differ \(strict and argmax\)",
    ),
    "items missing": (
        lambda two: edit_rows(two[1], lambda rows: rows[3:]),
        r"sugarcrepe: 3 items of base are not in tuned \(first: 0\); evaluate both on the same items, with "
        r"the same pictures there",
    ),
    "items more": (
        lambda two: edit_rows(two[0], lambda rows: rows[:-1]),
        r"sugarcrepe: 1 items of tuned are not in base \(first: 299\)",
    ),
    "other captions": (
        lambda two: edit_rows(two[1], first(captions=["x", "y"])),
        r"sugarcrepe: item 0 has other captions in base \(\['a <b>\w+</b> caption 0 & more', .*\]\) than in "
        r"tuned \(\['x', 'y'\]\); evaluate both again with one version",
    ),
    "other group": (lambda two: edit_rows(two[1], first(group="x")), "item 0 has other group in base"),
    "other picture": (lambda two: edit_rows(two[1], first(pictures=["x"])), "item 0 has other pictures in"),
    "other metric": (lambda two: edit_rows(two[1], first(correct={"a": 1})), "item 0 has other metrics in"),
    "no benchmark in common": (
        rename,
        r"compare: no benchmark is in all results \(base has a-sugarcrepe, a-cifar10; tuned has "
        r"b-sugarcrepe, b-cifar10\)",
    ),
    "a score that is not that of the rows": (
        lambda two: edit(two[1], lambda e: e["scores"]["macro"].update(value=0.9)),
        r"tuned: sugarcrepe macro is 0.900000 in result.json and 0.7\d+ by its rows; evaluate again",
    ),
    "an entry without a field": (
        lambda two: edit(two[1], lambda e: e.pop("primary")),
        r"tuned/result.json, sugarcrepe: no primary in it; evaluate again",
    ),
    "a row without fields": (
        lambda two: edit_rows(two[1], lambda rows: [rows[0], {"id": "1", "group": "add_obj"}, *rows[2:]]),
        r"tuned/items/sugarcrepe.jsonl, line 2: no pictures, captions, correct, margin in it; evaluate again",
    ),
    "a result without a field": (
        lambda two: (two[1] / "result.json").write_text('{"format": 1, "benchmarks": {}}'),
        r"tuned/result.json: no model, versions, created in it; evaluate again",
    ),
    "no rows": (
        lambda two: (two[1] / "items/sugarcrepe.jsonl").unlink(),
        "no such file; the result folder is not whole",
    ),
    "no result": (
        lambda two: (two[1] / "result.json").unlink(),
        "tuned: no result of `open-clip-ext eval run`",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_compared_is_refused(two, case):
    spoil, sentence = REFUSED[case]
    spoil(two)
    with pytest.raises(InputError, match=sentence):
        paired.compare(two)


def test_folders_are_refused(two):
    with pytest.raises(InputError, match="give at least two result folders, the base first"):
        paired.compare(two[:1])
    with pytest.raises(InputError, match="are the same folder"):
        paired.compare([two[0], two[0] / ".." / "base"])


def test_the_same_files_elsewhere_are_the_same(two):
    """Another machine has other paths."""
    edit(two[1], lambda e: e.update(files={f"/elsewhere/{Path(f).name}": h for f, h in e["files"].items()}))
    edit_rows(
        two[1], lambda rows: [r | {"pictures": [f"/x/{Path(p).name}" for p in r["pictures"]]} for r in rows]
    )
    assert paired.compare(two).benchmarks[0].primary.images == 24


def test_the_nearest_wrong_ones_may_differ(two, tmp_path, pictures):
    """Retrieval rows name what came nearest, of all captions or pictures: that is not what was asked."""
    folders = []
    for m, name in enumerate("ab"):
        rows = [
            results.row(f"{i}/i2t", "i2t", [f"{i}.png"], [f"caption {i}", f"rival {m}"], {"i2t R@1": m}, 0.1)
            for i in range(9)
        ]
        rows += [
            results.row(f"{i}/t2i", "t2i", [f"{i}.png", f"{m}.png"], [f"caption {i}"], {"t2i R@1": 1}, 0.1)
            for i in range(9)
        ]
        made = results.entry("karpathy", "retrieval", rows, ["i2t R@1 micro", "t2i R@1 micro"])
        folders.append(results.write(tmp_path / name, {"karpathy": made}))
    [one] = paired.compare(folders).benchmarks
    assert [measure.changes[0].value for measure in one.measures] == [1, 0]
    edit_rows(folders[1], first(pictures=["other.png"]), "karpathy")
    with pytest.raises(InputError, match="karpathy: item 0/i2t has other pictures in a"):
        paired.compare(folders)


def test_notes(two, tmp_path, pictures):
    """What only some results have, and what differs besides the weights, is said."""
    made = results.benchmarks(pictures)
    del made["cifar10"]
    other = results.write(
        tmp_path / "other", made, activation="GELU", precision="bf16", name="ViT-L-14", config={"width": 1024}
    )
    notes = " ".join(paired.compare([two[0], other]).notes)
    assert "cifar10 is left out: not in other." in notes
    assert "The activation differs: base QuickGELU, other GELU." in notes
    assert "The architecture differs: base ViT-B-32, other ViT-L-14." in notes
    assert "preprocessing" not in notes
    assert "The precision differs: base fp32, other bf16." in notes


def test_few_images_are_said(two):
    assert any("24 images" in note for note in paired.compare(two).notes)


def test_folders_of_one_name_are_told_apart(two, tmp_path, pictures):
    other = results.write(tmp_path / "deeper" / "base", results.benchmarks(pictures))
    found = paired.compare([two[0], other])
    assert [result.label for result in found.results] == [str(two[0]), str(other)]


# --- the command ----------------------------------------------------------------------------------


def command(*words):
    return subprocess.run(
        [sys.executable, "-m", "open_clip_ext.cli", "eval", "compare", *map(str, words)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_command(two, tmp_path):
    done = command(*two, "--out", tmp_path / "out", "--margin", "3")
    assert done.returncode == 0, done.stderr
    assert "tuned against base: " in done.stdout
    assert "3-point margin" in done.stdout
    made = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert made == ["compare.html", "compare.json", "compare.md"]
    found = paired.compare(two, 0.03)
    assert (tmp_path / "out" / "compare.md").read_text() == report.markdown(found, report.parts(found))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--margin", "-1"], "--margin -1: give percentage points from 0 to 100"),
        (["--margin", "nan"], "--margin nan: give percentage points from 0 to 100"),
        (["--out", "FILE"], "FILE: not a folder; name another"),
    ],
)
def test_bad_calls(two, tmp_path, words, sentence):
    (tmp_path / "FILE").write_text("")
    words = [str(tmp_path / word) if word == "FILE" else word for word in words]
    done = command(*two, "--out", tmp_path / "out", *words)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert (tmp_path / "FILE").read_text() == ""


def test_the_example_of_the_docs_runs(tmp_path, pictures, monkeypatch, capsys):
    for name, skill in (("base", 0.6), ("degla", 0.8)):
        results.write(tmp_path / "results" / name, results.benchmarks(pictures, skill))
    docs = Path(__file__).parents[2] / "docs" / "comparing.md"
    [code] = re.findall(r"```python\n(.*?)```", docs.read_text(), flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, docs.name, "exec"), {})
    assert "# degla against base" in capsys.readouterr().out
