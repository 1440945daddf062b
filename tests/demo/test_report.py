from __future__ import annotations

import math

import pytest

from open_clip_ext.demo import evaluate, recipe, report, train, world
from open_clip_ext.demo.evaluate import Share
from open_clip_ext.demo.report import Row
from open_clip_ext.errors import InputError

NAMES = [
    *world.KINDS,
    *(f"zs/{name}" for name in (*world.UNMENTIONED, *world.NAMED)),
    *("r1/full", "r1/web"),
]


def scores(comp, kept, n=1000):
    """Every subset of composition at `comp` percent, all else at `kept`."""
    return {k: Share(round(n * (comp if k in world.KINDS else kept) / 100), n) for k in NAMES}


BASE = Row("", 0.0, [scores(60, 90)])


def curve(loss, comp, kept, seconds=10.0):
    points = [BASE]
    for alpha in (0.6, 1.0):
        mixed = scores(60 + alpha * (comp - 60), 90 + alpha * (kept - 90))
        points.append(Row(loss, alpha, [mixed], 300, [seconds] if alpha == 1 else []))
    return points


def rows(curves):
    return [BASE, *(row for points in curves.values() for row in (points[2], points[1]))]


def test_share():
    share = Share(30, 40) + Share(30, 60)
    assert share == Share(60, 100)
    assert share.percent == 60
    assert share.error == pytest.approx(100 * math.sqrt(0.6 * 0.4 / 100))


def test_composition_is_the_mean_of_families():
    values = scores(50, 50)
    for kind in ("add_obj", "add_att"):
        values[kind] = Share(800, 1000)
    assert evaluate.composition(values) == pytest.approx((50 + 50 + 80) / 3)


def test_item_error():
    values = scores(60, 90)
    one = values["zs/count"].error
    assert report.item_error(report.one("zs/count"), values) == pytest.approx(one, rel=1e-6)
    sets = len(world.UNMENTIONED)
    assert report.item_error(evaluate.unmentioned, values) == pytest.approx(one / math.sqrt(sets), rel=1e-6)


def test_seeds_add_to_the_error():
    row = Row("negclip", 1.0, [scores(60, 90), scores(70, 90)], 300, [1.0, 3.0])
    assert row.value(evaluate.composition) == pytest.approx(65)
    assert row.spread(evaluate.composition) == pytest.approx(math.sqrt(50))
    assert row.error(evaluate.composition) > math.sqrt(50) / math.sqrt(2)
    assert "±" in report.text_tables([BASE, row])


def test_tables_are_aligned():
    text = report.text_tables(rows({"clip": curve("clip", 70, 60), "degla": curve("degla", 70, 85)}))
    for block in text.split("\n\n")[1::2]:
        lines = block.splitlines()
        rule = next(line for line in lines if set(line) == {"-"})
        assert all(len(line) <= len(rule) for line in lines)
        assert len(rule) <= 120
    assert "0.6 degla + 0.4 base" in text
    assert "75.0" not in text
    assert "70.0" in text


def test_along_a_curve():
    points = curve("negclip", 80, 70)
    assert report.along(points, 80) == pytest.approx((70, -1))
    assert report.along(points, 95) is None


@pytest.mark.parametrize(
    ("degla", "expected"),
    [((80, 88), "degla is above this control"), ((62, 88), "degla is not above this control")],
)
def test_words_follow_the_numbers(degla, expected):
    curves = {"negclip": curve("negclip", 80, 70), "degla": curve("degla", *degla, seconds=30.0)}
    said = "\n".join(report.words(rows(curves), curves))
    assert expected in said
    assert "degla 3.0 times as long" in said
    assert "one fine-tuning seed" in said
    assert "composition higher by 20.0" in said


def test_words_of_equal_models_find_nothing():
    curves = {name: curve(name, 60, 90) for name in ("clip", "negclip")}
    said = "\n".join(report.words(rows(curves), curves))
    assert "higher" not in said
    assert "lower" not in said
    assert "within noise" in said


def test_ceilings_are_named():
    base = Row("", 0.0, [scores(60, 90) | {"replace_att": Share(999, 1000)}])
    curves = {"negclip": [base, *curve("negclip", 70, 80)[1:]]}
    said = "\n".join(report.words([base, curves["negclip"][-1]], curves))
    assert "replace_att 99.9" in said


def test_plot_and_markdown(tmp_path):
    pytest.importorskip("matplotlib")
    curves = {"clip": curve("clip", 70, 60), "mine": curve("mine", 75, 80)}
    report.plot(tmp_path / "plot.png", curves, 0.6)
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    checks = [evaluate.Check("zs/count", 40.0, 62.5, 100.0)]
    text = report.markdown(
        recipe=recipe.QUICK, rows=rows(curves), curves=curves, checks=checks,
        options={"clip": {}, "mine": {"weight": 0.02}}, base_scale=20.0,
        stages={"drawing": 1.0}, quick=True,
    )  # fmt: skip
    assert "NOT MET" in text
    assert "`weight=0.02`" in text
    assert "numbers mean nothing" in text


def test_gate_limits():
    found = evaluate.gate(scores(50, 70), seed=1, size=10, share=0.5, band=10)
    limits = {check.name: check for check in found}
    assert limits["zs/count"].low == pytest.approx(62.5)
    assert limits["zs/count"].passed
    assert not limits["zs/size"].passed
    assert limits["swap_obj"].passed


def test_recall_does_not_count_ties_and_equal_captions():
    import torch

    eye = torch.eye(3)
    assert evaluate._recall(eye, eye, ["a", "b", "c"]) == Share(6, 6)
    same = torch.ones(3, 2)
    assert evaluate._recall(same, same, ["a", "b", "c"]) == Share(0, 6)
    assert evaluate._recall(eye[[0, 0, 1]], eye[[0, 0, 1]], ["a", "a", "b"]) == Share(6, 6)


def test_options_follow_the_base_and_the_schedule():
    default = recipe.Recipe()
    assert recipe.tuned_options(default, "ce-clip", 20.0) == {"threshold_cap": 2.0}
    options = recipe.tuned_options(default, "degla", 20.0)
    assert options["distill_weight"] == pytest.approx(0.005 * 256 / default.batch)
    steps = default.fine_tuning.steps(default.batch)
    assert options["ema_decay"] ** steps == pytest.approx(0.0394, abs=1e-3)
    assert recipe.tuned_options(default, "clip", 20.0) == {}


def test_recipe_round_trip():
    default = recipe.Recipe(lr={"degla": 1e-3})
    assert recipe.from_json(recipe.to_json(default), "x") == default
    assert default.schedule("degla").lr == 1e-3
    assert default.schedule("clip").lr == default.fine_tuning.lr


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"no_such": 1}', '{"pretraining": 3}', '{"pretraining": {"steps": 3}}']
)
def test_broken_recipe(text):
    with pytest.raises(InputError, match=r"my\.json"):
        recipe.from_json(text, "my.json")


def test_commands_can_be_read():
    words = recipe.command(
        recipe.QUICK, name="x", model="m", data="d", schedule=recipe.QUICK.fine_tuning, seed=3,
        loss="degla", options={"ema_decay": 0.9},
    )  # fmt: skip
    assert words[:7] == [
        *("torchrun", "--standalone", "--nproc-per-node", "1", "-m", "--", "open_clip_train.main"),
    ]
    text = recipe.shown(words)
    assert text.splitlines()[0].startswith("torchrun --standalone")
    assert text.splitlines()[-1].strip() == "--loss-cfg ema_decay=0.9"


def test_mixing(tmp_path):
    import torch

    for seed in (0, 1):
        train.untrained(tmp_path / f"m{seed}", seed)
    a, b = (train.load(tmp_path / f"m{seed}").state_dict() for seed in (0, 1))
    mixed = train.mix(tmp_path / "m0", tmp_path / "m1", 0.25).state_dict()
    for key, value in mixed.items():
        torch.testing.assert_close(value, 0.75 * a[key] + 0.25 * b[key])
