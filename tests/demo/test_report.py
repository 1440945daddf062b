from __future__ import annotations

import math
import random
import statistics
from dataclasses import replace

import pytest

from open_clip_ext.demo import evaluate, recipe, report, train, world
from open_clip_ext.demo.evaluate import Share
from open_clip_ext.demo.report import Row
from open_clip_ext.errors import InputError

NAMES = [
    *world.KINDS,
    *(f"zs/{name}" for name in world.CLASSES),
    *("r1/full", "r1/web"),
]


def scores(comp, kept, n=1000):
    """Every subset of composition at `comp` percent, all else at `kept`."""
    return {k: Share(round(n * (comp if k in world.KINDS else kept) / 100), n) for k in NAMES}


def row(loss, alpha, *bases, seconds=()):
    """A row from the composition and zero-shot of each base, in percent."""
    return Row(loss, alpha, [[scores(*figures)] for figures in bases], 300, seconds)


BASE = row("", 0.0, (60, 90), (62, 88))


def curve(loss, *bases, seconds=10.0):
    """A straight mixing curve from `BASE` to the figures of each base."""
    points = [BASE]
    for alpha in (0.6, 1.0):
        mixed = [
            (c0 + alpha * (c - c0), z0 + alpha * (z - z0))
            for (c0, z0), (c, z) in zip(((60, 90), (62, 88)), bases, strict=True)
        ]
        points.append(row(loss, alpha, *mixed, seconds=[seconds] if alpha == 1 else []))
    return points


def rows(curves):
    return [BASE, *(row for points in curves.values() for row in (points[2], points[1]))]


def courses(curves):
    """Each run reaches its end after half of the steps."""
    return {
        name: [
            {0: base[0], 150: end[0], 300: end[0]}
            for base, end in zip(BASE.scores, points[-1].scores, strict=True)
        ]
        for name, points in curves.items()
    }


def said(**figures):
    curves = {
        name.replace("_", "-"): curve(name.replace("_", "-"), *bases) for name, bases in figures.items()
    }
    return "\n".join(report.words(rows(curves), curves, courses(curves)))


def test_share():
    share = Share(30, 40) + Share(30, 60)
    assert share == Share(60, 100)
    assert share.percent == 60


def test_composition_is_the_exchanged_words_and_no_relation():
    values = scores(50, 50) | {"swap_obj": Share(900, 1000), "swap_att": Share(700, 1000)}
    assert evaluate.composition(values) == pytest.approx(80)
    assert evaluate.relations(values | {"swap_order": Share(800, 1000)}) == pytest.approx(65)


def test_the_spread_is_that_of_bases_not_of_seeds():
    # Each base's two seeds differ by 20 points, their means by 2.
    found = Row(
        "negclip", 1.0, [[scores(60, 90), scores(80, 90)], [scores(62, 90), scores(82, 90)]], 300, [1.0]
    )
    assert found.values(evaluate.composition) == pytest.approx([70, 72])
    assert found.value(evaluate.composition) == pytest.approx(71)
    assert found.spread(evaluate.composition) == pytest.approx(math.sqrt(2))
    text = report.text_tables([BASE, found])
    assert "71.0 ±1.4" in text
    assert "2 bases, 2 fine-tuning seeds each; ± standard deviation over bases" in text


def test_one_base_has_no_spread():
    assert "±" not in report.text_tables([row("", 0.0, (60, 90))])


def test_what_bases_do_to_every_model_alike_is_no_noise():
    assert report.noise([[50, 70, 60], [55, 75, 65], [80, 100, 90]]) == pytest.approx(0, abs=1e-9)


def test_noise_of_two_rows_is_the_paired_t_interval():
    a, b = [10.0, 14.0, 11.0], [7.0, 8.0, 9.0]
    differences = [x - y for x, y in zip(a, b, strict=True)]
    deviation = statistics.stdev(differences)
    assert report.noise([a, b]) == pytest.approx(4.30 * deviation / math.sqrt(3))


def test_one_base_tells_nothing_about_noise():
    assert report.noise([[50.0], [90.0]]) == math.inf


def test_the_interval_holds_95_percent_of_new_bases():
    # Five models and two bases, all as good: what the noise calls a difference is an error.
    rng = random.Random(0)
    errors = 0
    for _ in range(2000):
        table = [[rng.gauss(0, 2) for _ in range(2)] for _ in range(5)]
        errors += abs(statistics.fmean(table[0]) - statistics.fmean(table[1])) > report.noise(table)
    assert errors / 2000 == pytest.approx(0.05, abs=0.015)


def test_a_verdict_needs_every_base():
    assert report.verdict([80, 90], [70, 70], half=5) == "higher"
    assert report.verdict([70, 70], [80, 90], half=5) == "lower"
    assert report.verdict([80, 90], [70, 70], half=20) == "within noise"
    assert report.verdict([69, 120], [70, 70], half=5) == "within noise"


def test_tables_are_aligned():
    curves = {"clip": curve("clip", (70, 60), (70, 62)), "degla": curve("degla", (70, 85), (70, 83))}
    text = report.text_tables(rows(curves))
    for block in text.split("\n\n")[1::2]:
        lines = block.splitlines()
        rule = next(line for line in lines if set(line) == {"-"})
        assert all(len(line) <= len(rule) for line in lines)
        assert len(rule) <= 120
    assert "0.6 degla + 0.4 base" in text
    assert "75.0" not in text
    assert "70.0" in text


def test_along_a_curve():
    points = [(90, 60), (80, 70), (70, 80)]
    assert report.along(points, 75) == pytest.approx(75)
    assert report.along(points, 95) is None


def test_words_compare_with_the_base_and_give_figures_against_clip():
    text = said(clip=[(62, 60), (63, 58)], negclip=[(90, 59), (93, 59)])
    assert "Composition, against the base. Higher: negclip (+30.5). Noise ±3.0." in text
    assert "fine-tuning on the same pictures: negclip +29.0. Noise ±3.0." in text
    assert "Unmentioned zero-shot, against the base. Lower: clip (-30.0), negclip (-30.0)." in text
    assert "Of the methods, none keeps more of it than every other (clip +0.0 to negclip)." in text


def test_words_name_the_method_that_keeps_the_most():
    text = said(negclip=[(90, 50), (90, 52)], ce_clip=[(90, 40), (90, 41)], degla=[(85, 75), (86, 74)])
    assert "Of the methods, degla keeps the most of it: 23.5 more than any other." in text
    assert "Composition, against degla, if the weights" in text


def test_a_control_that_does_as_well_differs_by_nothing():
    # On negclip's straight curve from its base, so mixing gives the same.
    text = said(negclip=[(80, 50), (82, 48)], degla=[(70, 70), (72, 68)])
    assert "mixed with the base until it keeps as much zero-shot: negclip +0.0. Noise" in text


def test_words_of_equal_models_find_nothing():
    text = said(clip=[(60, 90), (62, 88)], negclip=[(60, 90), (62, 88)])
    assert "igher" not in text
    assert "ower" not in text
    assert "Within noise" in text


def test_one_base_compares_nothing():
    before, after = row("", 0.0, (60, 90)), row("negclip", 1.0, (90, 50))
    curves = {"negclip": [before, after]}
    text = report.words([before, after], curves, {"negclip": [{0: before.scores[0][0]}]})
    assert text == [
        "There is only one base, so the noise is unknown and nothing is compared: give --bases 2."
    ]


def test_a_run_that_had_not_settled_is_named():
    found = {"negclip": [{0: scores(60, 90), 200: scores(70, 80), 300: scores(95, 60)}]}
    assert "negclip +25.0" in report._settled(found)


def test_the_course_is_a_table_from_the_lowest_to_the_highest_base():
    curves = {"negclip": curve("negclip", (90, 50), (80, 51))}
    text = report.course_table(courses(curves))
    assert text.splitlines()[0] == "| steps | 0 | 150 | 300 |"
    assert text.splitlines()[-1] == "| negclip | 60 to 62 | 80 to 90 | 80 to 90 |"


def test_plot_and_markdown(tmp_path):
    pytest.importorskip("matplotlib")
    curves = {name: curve(name, (70, 60), (72, 61)) for name in ("clip", "mine")}
    report.plot_tradeoff(tmp_path / "plot.png", curves, 0.6)
    report.plot_courses(tmp_path / "course.png", courses(curves))
    for name in ("plot.png", "course.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    checks = [[evaluate.Check("zs/count", 40.0, 62.5, 97.0)], [evaluate.Check("zs/count", 80.0, 62.5, 97.0)]]

    def markdown(settings):
        return report.markdown(
            recipe=settings, rows=rows(curves), curves=curves, courses=courses(curves), checks=checks,
            options=[{"clip": {}, "mine": {"weight": 0.02}}] * 2, scales=[20.0, 21.0],
            stages={"drawing": (1.0, 2.0)}, quick=True,
        )  # fmt: skip

    text = markdown(recipe.QUICK)
    assert "Tiny CLIPs" in text
    assert "igLIP" not in text
    assert "62.5 to 97.0  NOT MET 40.0    80.0" in text
    assert "base 1, mine: `weight=0.02`" in text
    assert "drawing: 1 s, 2 s of CPU time" in text
    assert "numbers are meaningless" in text
    text = markdown(replace(recipe.QUICK, siglip=True))
    assert "Tiny SigLIPs" in text
    assert "have their defaults.\n* The models have a logit bias, which starts at -4.14: " in text


def test_gate_limits():
    limits = {check.name: check for check in evaluate.gate(scores(50, 70), share=0.5, ceiling=97, band=10)}
    assert limits["zs/count"].low == pytest.approx(62.5)
    assert limits["zs/count"].passed
    assert limits["swap_obj"].passed


def test_the_gate_refuses_a_set_near_chance():
    limits = {check.name: check for check in evaluate.gate(scores(70, 60), share=0.5, ceiling=97, band=10)}
    assert not limits["zs/count"].passed
    assert not limits["swap_obj"].passed


def test_the_gate_refuses_a_set_at_its_ceiling():
    limits = {check.name: check for check in evaluate.gate(scores(50, 98), share=0.5, ceiling=97, band=10)}
    assert not limits["zs/count"].passed
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
    assert recipe.tuned_options(default, "ahnpl", 20.0) == {"threshold_cap": 2.0}
    options = recipe.tuned_options(default, "degla", 20.0)
    assert options["distill_weight"] == pytest.approx(0.005 * 256 / default.fine_tuning.batch)
    assert options["ema_decay"] ** default.fine_tuning.steps == pytest.approx(0.0394, abs=1e-3)
    assert recipe.tuned_options(default, "clip", 20.0) == {}


def test_a_siglip_starts_at_the_share_of_right_pairs(tmp_path):
    settings = recipe.Recipe(siglip=True)
    train.untrained(tmp_path / "m", settings.model, 0)
    model = train.load(tmp_path / "m")
    assert model.logit_scale.exp().item() == pytest.approx(10)
    assert model.logit_bias.sigmoid().item() == pytest.approx(1 / settings.pretraining.batch, rel=1e-2)
    assert "init_logit_bias" not in recipe.MODEL["model_cfg"]


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
        logs="logs", loss="degla", options={"ema_decay": 0.9},
    )  # fmt: skip
    text = recipe.shown(words)
    assert text.splitlines()[0] == "python -m open_clip_train.main \\"
    assert text.splitlines()[-1].strip() == "--loss-cfg ema_decay=0.9"


def test_mixing(tmp_path):
    import torch

    for seed in (0, 1):
        train.untrained(tmp_path / f"m{seed}", recipe.MODEL, seed)
    a, b = (train.load(tmp_path / f"m{seed}").state_dict() for seed in (0, 1))
    mixed = train.mix(tmp_path / "m0", tmp_path / "m1", 0.25).state_dict()
    for key, value in mixed.items():
        torch.testing.assert_close(value, 0.75 * a[key] + 0.25 * b[key])


@pytest.mark.parametrize("others", [0, 4, 5, 20])
def test_every_method_has_a_colour_of_its_own(others):
    names = [*report.COLOURS, *map(str, range(others))]
    colours = report._colours(names)
    assert list(colours) == names
    assert len(set(colours.values())) == len(names)
    assert {name: colours[name] for name in report.COLOURS} == report.COLOURS
