"""What came out: means, spread, and paired differences against the same sums in loops."""

from __future__ import annotations

import copy
import statistics
from itertools import product

import drawn_results
import numpy as np
import pytest
import studies

from open_clip_ext.errors import InputError
from open_clip_ext.evaluation import result_folder
from open_clip_ext.evaluation.comparison import measures
from open_clip_ext.evaluation.scoring import bootstrap
from open_clip_ext.study import figures, local, report, settings
from open_clip_ext.study.results import Difference, Results

RUNS = list(product("ab", (0, 1)))


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> Results:
    folder = tmp_path_factory.mktemp("study")
    study = settings.read(studies.write(folder))
    local.run(study, folder / "out", type("Command", (drawn_results.Command,), {"started": []}))
    return Results(study, folder / "out")


def rows(model, run, benchmark):
    folder = model.folders[run]
    return result_folder.read_rows(folder, result_folder.read(folder)["benchmarks"][benchmark])


def test_rows_are_the_base_and_each_method_with_its_mixture(found):
    assert [model.name for model in found.models] == [
        "base",
        "clip",
        "clip, mixed",
        "negclip",
        "negclip, mixed",
    ]
    base, clip, mixed, *_ = found.models
    assert set(base.folders) == {("a", 0), ("b", 0)}
    assert set(clip.folders) == set(mixed.folders) == set(RUNS)
    assert set(mixed.weights.values()) == {0.5}


def test_columns_are_families_then_benchmarks(found):
    assert found.columns == {
        "composition": ["sugarcrepe"],
        "zero-shot": ["cifar10"],
        "sugarcrepe": ["sugarcrepe"],
        "cifar10": ["cifar10"],
    }


def test_a_score_is_the_mean_over_runs(found):
    for model in found.models:
        values = []
        for run in model.folders:
            correct = [row["correct"]["accuracy"] for row in rows(model, run, "sugarcrepe")]
            values.append(sum(correct) / len(correct))
        score = found.score(model, "sugarcrepe")
        assert score.mean == pytest.approx(statistics.fmean(values))
        assert score.deviation == pytest.approx(statistics.stdev(values))


def test_a_subset_s_score_is_the_mean_over_runs_of_its_items(found):
    metric, scores = found.subsets("sugarcrepe")
    assert metric == "accuracy"
    assert set(scores) == {row["group"] for row in rows(found.models[0], ("a", 0), "sugarcrepe")}
    for model, (name, own) in product(found.models, scores.items()):
        values = []
        for run in model.folders:
            right = [
                row["correct"]["accuracy"] for row in rows(model, run, "sugarcrepe") if row["group"] == name
            ]
            values.append(sum(right) / len(right))
        assert own[model.name].mean == pytest.approx(statistics.fmean(values))
        assert own[model.name].deviation == pytest.approx(statistics.stdev(values))


def test_of_many_subsets_those_that_changed_most_are_shown(found, monkeypatch):
    _, scores = found.subsets("sugarcrepe")
    changes = {
        name: max(abs(own[m.name].mean - own["base"].mean) for m in found.models)
        for name, own in scores.items()
    }
    monkeypatch.setattr(measures, "GROUPS", 2)
    part = report.subsets(found, "sugarcrepe")
    assert set(part.head[1:]) == set(sorted(changes, key=changes.get)[-2:])
    assert part.text == ["The 2 of 5 subsets that changed most."]


def test_only_subsets_that_every_result_has_are_shown(found, monkeypatch):
    key = ("negclip", ("b", 1))
    changed = copy.deepcopy(found._reported[key])
    del changed["sugarcrepe"]["subsets"]["swap_att"]
    for name in ("square", "circle"):
        del changed["cifar10"]["subsets"][name]
    monkeypatch.setitem(found._reported, key, changed)
    assert "swap_att" not in report.subsets(found, "sugarcrepe").head
    assert report.subsets(found, "cifar10") is None  # one is left, and it says nothing more


def test_chosen_values_are_told(found):
    (part,) = report.chosen(found)
    assert part.body == [["negclip", "a", "lr 0.001"], ["negclip", "b", "lr 0.001"]]


@pytest.mark.parametrize("other", [0, 1])
def test_a_difference_is_paired_by_run_and_by_image_and_bases_share_the_images(found, other):
    """The base, whose noise is that of its images alone, and a method."""
    negclip, other = found.models[3], found.models[other]
    pairs = [
        [
            rows(negclip, run, "sugarcrepe"),
            rows(other, run if run in other.folders else (run[0], 0), "sugarcrepe"),
        ]
        for run in negclip.folders
    ]
    right = [[[row["correct"]["accuracy"] for row in own] for own in pair] for pair in pairs]
    by_run = [statistics.fmean(one) - statistics.fmean(two) for one, two in right]
    difference = found.difference(negclip, other, "composition")
    assert difference.mean == pytest.approx(statistics.fmean(by_run))
    assert difference.runs == pytest.approx(by_run)
    pictures = [row["pictures"][0] for row in pairs[0][0]]
    gain = dict.fromkeys(pictures, 0.0)
    for one, two in right:
        for picture, a, b in zip(pictures, one, two, strict=True):
            gain[picture] += (a - b) / len(pairs)
    totals, sizes = np.array([[gain[picture], pictures.count(picture)] for picture in gain]).T
    draws = np.random.default_rng(5).integers(len(gain), size=(10_000, len(gain)))
    expected = bootstrap.interval(totals[draws].sum(1) / sizes[draws].sum(1))
    assert (difference.low, difference.high) == pytest.approx(expected, abs=0.003)
    assert difference.word == "higher"


def test_the_base_is_compared_with_each_of_its_runs(found):
    base, clip, *_ = found.models
    difference = found.difference(clip, base, "zero-shot")
    assert len(difference.runs) == len(RUNS)
    assert difference.mean == pytest.approx(
        found.score(clip, "zero-shot").mean - found.score(base, "zero-shot").mean
    )


@pytest.mark.parametrize(
    ("low", "high", "by_run", "word"),
    [
        (0.1, 0.3, [0.1, 0.3], "higher"),
        (0.1, 0.3, [-0.1, 0.5], "not shown"),
        (-0.1, 0.3, [0.1, 0.1], "not shown"),
        (-0.3, -0.1, [-0.1, -0.3], "lower"),
        (-0.3, -0.1, [0.1, -0.5], "not shown"),
    ],
)
def test_a_word_needs_the_interval_and_every_run(low, high, by_run, word):
    assert Difference(0.0, low, high, by_run).word == word


def test_the_report_tells_the_table_and_each_comparison(found):
    text = report.markdown(found)
    assert "Percent, 2 bases, 2 seeds of the trainer each; ± standard deviation over runs." in text
    assert "Composition, against clip. Higher: negclip (" in text
    assert "## Against itself, mixed" in text
    assert "| negclip | a | 1 | 1 |" in text
    # 0.5 s per step and 16 samples per second, as the drawn logs say.
    assert "| 0.5 | 0.00028 |" in text


def test_nothing_is_reported_before_there_is_a_result(tmp_path):
    study = settings.read(studies.write(tmp_path))
    assert Results(study, tmp_path / "out").models == []


def test_runs_without_a_result_are_named_and_the_base_stays_at_its_place(tmp_path):
    study = settings.read(studies.write(tmp_path))
    own = type("Command", (drawn_results.Command,), {"started": [], "failing": "train-clip-a-0"})
    local.run(study, tmp_path / "out", own)
    found = Results(study, tmp_path / "out")
    assert found.missing == {"clip": [("a", 0)]}
    said = "Without a result yet: clip (a seed 0). Rows of this table are means over different runs"
    assert said in report.markdown(found)
    assert said in report.text(found)
    base = found.models[0]
    assert list(base.folders) == [("a", 0), ("b", 0)]
    across, up = (100 * found.score(base, family).mean for family in ("zero-shot", "composition"))
    hint = f"base: {across:.1f} zero-shot, {up:.1f} composition"
    assert hint in figures.curves(found, "zero-shot", "composition")


def test_a_method_without_a_chosen_value_is_named(tmp_path):
    study = settings.read(studies.write(tmp_path))
    own = type("Command", (drawn_results.Command,), {"started": [], "failing": "train-negclip-a"})
    local.run(study, tmp_path / "out", own)
    found = Results(study, tmp_path / "out")
    assert found.missing == {"negclip": [("a", 0), ("a", 1)]}


def test_a_broken_result_is_named_with_what_to_do(tmp_path):
    study = settings.read(studies.write(tmp_path))
    local.run(study, tmp_path / "out", type("Command", (drawn_results.Command,), {"started": []}))
    product = next(tmp_path.glob("out/parts/sweep-clip-*/wiseft.json"))
    product.write_text("")
    with pytest.raises(InputError, match=r"cannot be read .* remove its folder"):
        Results(study, tmp_path / "out")


def test_a_benchmark_that_only_one_base_reports_is_left_out_and_named(tmp_path, monkeypatch):
    write = drawn_results.drawn.write

    def other(folder, made):
        of_b = "-b-" in str(folder)
        write(folder, {f"{name}-b" if of_b and name == "cifar10" else name: made[name] for name in made})

    monkeypatch.setattr(drawn_results.drawn, "write", other)
    study = settings.read(studies.write(tmp_path))
    local.run(study, tmp_path / "out", type("Command", (drawn_results.Command,), {"started": []}))
    found = Results(study, tmp_path / "out")
    assert list(found.benchmarks) == ["sugarcrepe"]
    assert "Left out, because not every base reports them: cifar10, cifar10-b." in report.markdown(found)
