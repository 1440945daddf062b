"""Averages over benchmarks: vl_compo's own follow from its columns; none is given with a column missing."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import results

from open_clip_ext import plugins
from open_clip_ext.evaluation.comparison import means, paired, report
from open_clip_ext.evaluation.items import GROUP
from open_clip_ext.evaluation.scoring import aggregate, bootstrap, overall

PUBLISHED = json.loads(Path(__file__).with_name("vl_compo.json").read_text())["models"]
# ELEVATER's names of its sets, as vl_compo's file has them, where ours differ.
ELEVATER = {
    "cars": "stanfordcar", "eurosat": "eurosat-clip", "fgvc-aircraft": "fgvc-aircraft-2013b",
    "flowers": "flower102", "imagenet": "imagenet-1k", "pcam": "patchcamelyon", "pets": "oxford-iiit-pets",
    "renderedsst2": "rendered-sst2", "resisc45": "resisc45-clip", "voc2007": "voc2007classification",
}  # fmt: skip
PARTS = {
    average: [part for parts in one.columns.values() for part in parts]
    for average, one in overall.AVERAGES.items()
}


@pytest.mark.parametrize("model", PUBLISHED)
def test_published_averages_are_the_means_of_these_columns(model):
    published = PUBLISHED[model]["overall"]
    columns = overall.AVERAGES["comp12"].columns
    assert np.mean([PUBLISHED[model][c]["average"] for c in columns]) == pytest.approx(published["comp_avg"])
    sets = {ELEVATER.get(name, name) for name in overall.AVERAGES["zs21"].columns}
    assert sets == set(published["sets"])
    assert np.mean(list(published["sets"].values())) == pytest.approx(published["21_tasks_avg"])
    for direction in ("i2t", "t2i"):
        names = [
            f"{name.removesuffix('30k')}_{direction}" for name in overall.AVERAGES[f"{direction}_avg"].columns
        ]
        mean = np.mean([published["retrieval"][name] for name in names])
        assert mean == pytest.approx(published[f"{direction}_avg"], abs=0.005)


@pytest.mark.parametrize("model", PUBLISHED)
def test_aro_is_the_mean_of_its_four_parts(model):
    published = PUBLISHED[model]["aro"]
    assert len(overall.AVERAGES["comp12"].columns["aro"]) == len(published["subsets"]) == 4
    assert np.mean(list(published["subsets"].values())) == pytest.approx(published["average"])


def test_every_part_is_a_registered_benchmark():
    known = {overall.canonical(name) for name in plugins.entries(GROUP)}
    # Through clip-benchmark's shards, and named by the file.
    known |= {"kitti-distance", "karpathy-coco", "karpathy-flickr30k"}
    assert {name for parts in PARTS.values() for name, _ in parts} <= known


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("wds-vtab-pets", "pets"),
        ("wds-wds_vtab-pcam_test", "pcam"),
        ("wds-vtab-kitti_closest_vehicle_distance", "kitti-distance"),
        ("imagenet-val", "imagenet"),
        ("imagenet-sketch", "imagenet-sketch"),
        ("fgvc_aircraft", "fgvc-aircraft"),
        ("wds-mscoco_captions", "karpathy-coco"),
    ],
)
def test_one_set_has_one_name(name, expected):
    assert overall.canonical(name) == expected


@pytest.fixture(autouse=True, scope="module")
def few_draws():
    """Intervals are tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bootstrap.replicates, "__kwdefaults__", {"resamples": 200, "seed": 0})
        yield


def entry(name: str, aggregation: str, skill: float):
    """Thirty items in each group that an aggregation needs, on pictures of their own."""
    metric, _ = aggregate.split(aggregation)
    groups = aggregate.leaves(aggregate.plan(aggregation, {"one/i2t": 30, "two": 30}))
    draw = random.Random(f"{name}{skill}")
    rows = [
        results.row(
            f"{group}{n}", group, [f"{name}{n}.png"], ["a", "b"], {metric: int(draw.random() < skill)}, 0.1
        )
        for group in groups
        for n in range(30)
    ]
    family = {"auc": "zero-shot", "top1": "zero-shot"}.get(metric, "composition")
    return results.entry(name, "retrieval" if "R@1" in metric else family, rows, [aggregation])


def write(root: Path, parts: Iterable[tuple[str, str]]) -> list[Path]:
    parts = list(parts)
    return [
        results.write(root / label, {name: entry(name, shape, skill) for name, shape in parts})
        for label, skill in (("base", 0.5), ("tuned", 0.7))
    ]


def test_comp12_is_the_mean_over_columns_and_within_aro(tmp_path):
    found = paired.compare(write(tmp_path, PARTS["comp12"]))
    measure = found.averages["comp12"]
    for k, result in enumerate(found.results):
        stored = {
            name: next(iter(one["scores"].values()))["value"] for name, one in result.benchmarks.items()
        }
        aro = np.mean([value for name, value in stored.items() if name.startswith("aro-")])
        others = [value for name, value in stored.items() if not name.startswith("aro-")]
        assert measure.scores[k].value == pytest.approx(np.mean([aro, *others]), abs=1e-12)
    assert len(others) == 11
    change = measure.changes[0]
    assert change.low < change.value < change.high
    assert change.value == pytest.approx(measure.scores[1].value - measure.scores[0].value)
    assert not found.missing
    said = report.text(report.parts(found))
    assert f"comp12   tuned  {100 * measure.scores[0].value:.1f} [" in said


@pytest.mark.parametrize("average", ["i2t_avg", "t2i_avg"])
def test_retrieval_averages(tmp_path, average):
    found = paired.compare(write(tmp_path, PARTS[average]))
    for k, result in enumerate(found.results):
        stored = [next(iter(one["scores"].values()))["value"] for one in result.benchmarks.values()]
        assert found.averages[average].scores[k].value == pytest.approx(np.mean(stored))


@pytest.mark.parametrize(
    ("average", "left_out", "missing"),
    [
        ("comp12", ["valse", "aro-flickr-order"], "aro (no aro-flickr-order), valse"),
        ("zs21", ["hateful-memes"], "hateful-memes"),
        ("i2t_avg", ["karpathy-coco"], "coco"),
    ],
)
def test_an_average_with_a_column_missing_is_not_given(average, left_out, missing):
    have = {name: [shape] for name, shape in PARTS[average] if name not in left_out}
    found, gone = overall.find(average, have)
    assert ", ".join(gone) == missing
    assert len(found) == len(overall.AVERAGES[average].columns) - len(gone)
    assert overall.started(average, have)


def test_a_score_that_could_not_be_given_is_missing_too():
    """Such as sugarcrepe3, of which a group lacks its pictures."""
    _, gone = overall.find(
        "comp12", {name: [shape] for name, shape in PARTS["comp12"]} | {"sugarcrepe": ["micro"]}
    )
    assert gone == ["sugarcrepe (no score sugarcrepe3)"]


def test_the_first_of_two_forms_of_a_set_counts():
    have = {"cifar10": ["top1 micro"], "wds-cifar10": ["top1 micro"]}
    assert overall.find("zs21", have)[0] == {"cifar10": [("cifar10", "top1 micro")]}


def test_the_report_names_what_is_missing_and_only_of_averages_that_were_begun(tmp_path):
    parts = [part for part in PARTS["comp12"] if part[0] in ("valse", "crepe")]
    found = paired.compare(write(tmp_path, parts))
    said = report.text(report.parts(found))
    assert not found.averages
    assert "comp12 is not given, because it is the mean of vl_compo's 12 benchmarks of composition" in said
    assert (
        "Missing: aro, colorswap, eqben, imagecode, mmvp_vlm, sugarcrepe, svo_probes, vl_checklist," in said
    )
    assert "zs21" not in said
    stored = report.numbers(found)
    assert stored["averages"] == {}
    assert stored["missing"]["comp12"][:2] == ["aro", "colorswap"]


def test_means_on_common_draws_are_those_of_separate_draws(tmp_path):
    """Of the same benchmarks, whose clusters are then the same."""
    parts = [("valse", "valse7"), ("crepe", "macro")]
    found = paired.compare(write(tmp_path, parts)).benchmarks
    both = means.primaries(found)
    wanted = {"both": both, "one more column": [*both, both[0]]}
    together = means.measured(wanted)
    assert together == {name: means.measured({name: mean})[name] for name, mean in wanted.items()}
    assert together["both"].name == "mean of valse valse7, crepe macro"
    assert (together["both"].n, together["both"].images) == (30 * (11 + 2), 60)


def test_a_verdict_on_many_benchmarks_gives_their_number(tmp_path):
    parts = [(f"set{k}", "macro") for k in range(7)]
    few, many = (paired.compare(write(tmp_path / str(n), parts[:n])).verdicts[0].reasons for n in (6, 7))
    assert "(mean of set0 macro, set1 macro," in few
    assert "(mean of the primary scores of 7 benchmarks, 420 items, 210 images)" in many
