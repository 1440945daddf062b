"""Averages: those that were published follow from the published scores per subset."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from open_clip_ext.errors import InputError
from open_clip_ext.evaluation.scoring import aggregate

PUBLISHED = json.loads(Path(__file__).with_name("vl_compo.json").read_text())["models"]
# Items per subset, counted in the official files (SugarCrepe, VALSE, ImageCoDe).
SUGARCREPE = {
    "replace_obj": 1652, "replace_att": 788, "replace_rel": 1406, "swap_obj": 245, "swap_att": 666,
    "add_obj": 2062, "add_att": 692,
}  # fmt: skip
VALSE = {
    "existence": 505, "plurals": 851, "counting-hard": 868, "counting-small-quant": 900,
    "counting-adversarial": 691, "relations": 535, "action-replacement": 648, "actant-swap": 949,
    "coreference-standard": 708, "coreference-hard": 104, "foil-it": 943,
}  # fmt: skip


def average(name: str, percent: Mapping[str, float], sizes: Mapping[str, int] | None = None) -> float:
    """The average of subsets of `sizes` (equal ones by default), in percent."""
    sizes = sizes or dict.fromkeys(percent, 1)
    groups = list(percent)
    counts = np.array([sizes[group] for group in groups], float)
    sums = counts * np.array([percent[group] for group in groups])
    return float(aggregate.apply(aggregate.plan(name, sizes), groups, sums, counts))


def rows(correct: Mapping[str, list[int]], metric: str = "accuracy"):
    return [
        {"id": f"{group}{n}", "group": group, "correct": {metric: value}, "half": {metric: value}}
        for group, values in correct.items()
        for n, value in enumerate(values)
    ]


@pytest.mark.parametrize("model", PUBLISHED)
@pytest.mark.parametrize(
    ("benchmark", "name", "sizes", "rename"),
    [
        ("sugarcrepe", "sugarcrepe3", SUGARCREPE, {}),
        ("valse", "valse7", VALSE, {}),
        ("crepe", "macro", None, {}),
        ("eqben", "eqben5", None, {}),
        ("imagecode", "micro", {"videos": 1872, "static": 430}, {}),
        ("svo_probes", "macro", None, {}),
        ("mmvp_vlm", "macro", None, {}),
        ("vl_checklist", "vlchecklist3", None, {"_": "/"}),
        (
            "whatsup", "whatsup6", None,
            {"WhatsUp_": "", "_ONE": " one", "_TWO": " two", "COCO_": "COCO-", "VG_": "VG-"},
        ),
    ],
)  # fmt: skip
def test_the_averages_of_vl_compo_follow_from_its_scores_per_subset(model, benchmark, name, sizes, rename):
    published = PUBLISHED[model][benchmark]
    percent = {}
    for group, value in published["subsets"].items():
        for old, new in rename.items():
            group = group.replace(old, new)
        percent[group] = value
    assert average(name, percent, sizes) == pytest.approx(published["average"], abs=1e-6)


@pytest.mark.parametrize(
    ("model", "valse", "sugarcrepe"),
    [
        ("CLIP", (67.53, 65.82, 67.39), (73.03, 73.05, 76.55)),
        ("NegCLIP", (73.72, 71.79, 73.64), (83.69, 83.47, 85.66)),
        ("CE-CLIP", (76.73, 74.27, 75.98), (85.67, 85.90, 88.46)),
    ],
)
def test_one_set_of_predictions_has_averages_four_points_apart(model, valse, sugarcrepe):
    percent = PUBLISHED[model]["valse"]["subsets"]
    found = [average(name, percent, VALSE) for name in ("valse7", "valse11", "micro")]
    assert found == pytest.approx(valse, abs=0.005)
    percent = PUBLISHED[model]["sugarcrepe"]["subsets"]
    found = [average(name, percent, SUGARCREPE) for name in ("sugarcrepe3", "macro", "micro")]
    assert found == pytest.approx(sugarcrepe, abs=0.005)


def test_exchanged_words_alone():
    percent = {"swap_obj": 60.0, "swap_att": 80.0, "replace_obj": 100.0}
    assert average("swap", percent) == pytest.approx(70)


def test_vg_relation_leaves_out_the_157_relations_and_vg_attribution_the_rare_pairs():
    assert len(aggregate.DROPPED) == 157
    sizes = {"eating": 20, "next to": 900, "wearing": 10}
    assert average("aro_vgr", {"eating": 100.0, "next to": 0.0, "wearing": 50.0}, sizes) == 75
    sizes = {"red_round": 25, "old_wet": 24, "big_blue": 30}
    assert average("aro_vga", {"red_round": 100.0, "old_wet": 0.0, "big_blue": 50.0}, sizes) == 75


def test_the_mean_at_every_level_of_nested_groups():
    percent = {"a/x/1": 10.0, "a/x/2": 30.0, "a/y/1": 40.0, "b/x": 70.0}
    assert average("vlchecklist3", percent) == pytest.approx(((20 + 40) / 2 + 70) / 2)


def test_a_score_has_its_size_ties_and_what_lots_would_give():
    made = rows({"a": [1, 1, 0], "b": [1]})
    made[2]["half"]["accuracy"] = 0.5
    assert aggregate.score("micro", made) == {"value": 0.75, "n": 4, "ties": 1, "half": 0.875}
    assert aggregate.score("macro", made)["value"] == pytest.approx((2 / 3 + 1) / 2)


def test_an_average_takes_only_the_rows_that_have_its_metric():
    made = rows({"a": [1, 0]}) + rows({"a": [1, 1, 1]}, "text-only")
    assert aggregate.score("micro", made)["n"] == 2
    assert aggregate.score("text-only micro", made) == {"value": 1, "n": 3, "ties": 0, "half": 1}


def test_groups_without_a_row_are_named():
    made = rows({"replace_obj": [1], "swap_obj": [1]})
    gone = ["replace_att", "replace_rel", "swap_att", "add_obj", "add_att"]
    assert aggregate.absent("sugarcrepe3", made) == gone
    assert aggregate.absent("macro", made) == []
    assert aggregate.absent("aro_vga", made) == ["any group that counts"]


def test_averages_of_many_resampled_sums_at_once_are_those_of_each():
    rng = np.random.default_rng(0)
    groups = list(VALSE)
    counts = rng.integers(1, 50, (20, len(groups))).astype(float)
    sums = np.floor(counts * rng.random(counts.shape))
    for name in ("micro", "valse7", "valse11"):
        tree = aggregate.plan(name, VALSE)
        together = aggregate.apply(tree, groups, sums, counts)
        each = [float(aggregate.apply(tree, groups, s, c)) for s, c in zip(sums, counts, strict=True)]
        assert together == pytest.approx(each)


def test_an_unknown_average_names_the_nearest():
    with pytest.raises(InputError, match=r"aggregation valse8: no shape valse8 \(nearest: valse7"):
        aggregate.plan("valse8", {"a": 1})
