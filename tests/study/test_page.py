"""The page: every number of the report is on it, and plots of what is there."""

from __future__ import annotations

import dataclasses
import random
import re
from itertools import combinations
from xml.etree import ElementTree

import drawn_results
import pytest
import studies

from open_clip_ext.evaluation.comparison import labels
from open_clip_ext.study import figures, local, page, report, settings
from open_clip_ext.study.results import Difference, Model, Results, Score


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> Results:
    folder = tmp_path_factory.mktemp("study")
    study = settings.read(studies.write(folder))
    local.run(study, folder / "out", type("Command", (drawn_results.Command,), {"started": []}))
    return Results(study, folder / "out")


def test_every_cell_of_the_report_is_on_the_page(found):
    text = re.sub(r"<[^>]+>", "", page.html(found))
    for part in (one for whole in report.parts(found) for one in (whole, *whole.folded)):
        assert part.title in text
        for cell in (cell.strip() for line in part.body for cell in line):
            assert cell in text
    assert "open_clip_train.main" in text
    assert "choose = { lr = [1e-3, 1e-4] }" in text


def test_subsets_are_folded_below_the_benchmarks(found):
    text = page.html(found)
    for name in ("sugarcrepe by subset (accuracy)", "cifar10 by subset (top1)"):
        assert text.count(f"<details><summary>{name}</summary>") == 1
        assert f"<details><summary>{name}</summary>\n\n|  | " in report.markdown(found)


def test_it_begins_with_the_title_and_the_notes(found, monkeypatch):
    told = dataclasses.replace(found.study, title="A & B", notes=["Read this.", "And this."])
    monkeypatch.setattr(found, "study", told)
    assert report.markdown(found).startswith("# A & B\n\nRead this.\n\nAnd this.\n\n## Summary")
    html = page.html(found)
    assert "<title>A &amp; B</title>" in html
    assert html.index("<p>Read this.</p>") < html.index("<h2>Summary</h2>")


def test_a_difference_that_is_not_shown_has_no_colour(found, monkeypatch):
    assert 'class="up"' in page.html(found)
    monkeypatch.setattr(Difference, "word", "not shown")
    assert 'class="up"' not in page.html(found)


def test_the_study_s_file_may_be_gone_by_then(found):
    file = found.study.file
    file.rename(file.with_name("other"))
    try:
        assert "choose = { lr = [1e-3, 1e-4] }" in page.html(found)
    finally:
        file.with_name("other").rename(file)


def test_both_files_are_written(found):
    page.write(found)
    assert (found.out / "study.html").read_text() == page.html(found)
    assert (found.out / "study.md").read_text() == report.markdown(found)


def test_the_curve_has_a_mark_for_each_weight_of_each_method(found):
    drawn = ElementTree.fromstring(figures.curves(found, "zero-shot", "composition"))
    hints = [one.text or "" for one in drawn.iter("title")]
    assert len(hints) == 1 + 2 * 2  # the base; weights 0.5 and 1 of two methods
    assert sum(hint.startswith("0.5 negclip + 0.5 base: ") for hint in hints) == 1
    base, clip, _, negclip, _ = found.models
    for model in (base, clip, negclip):
        across, up = (100 * found.score(model, family).mean for family in ("zero-shot", "composition"))
        assert f"{model.name}: {across:.1f} zero-shot, {up:.1f} composition" in hints


class Drawn:
    """The curves of ten methods, in place of `Results`: bent, from the base to ends that lie together."""

    def __init__(self, spread: float) -> None:
        draw = random.Random(0)
        self.start = {"zero-shot": 0.64, "composition": 0.55}
        self.ways = {}
        for n in range(10):
            end = (0.58 + draw.gauss(0, spread), 0.66 + draw.gauss(0, spread))
            bend = draw.uniform(-0.02, 0.05)
            self.ways["method" + n * "x"] = [
                (
                    t,
                    [
                        a + (b - a) * t + bend * t * (1 - t)
                        for a, b in zip(self.start.values(), end, strict=True)
                    ],
                )
                for t in (0, 0.2, 0.4, 0.6, 0.8, 1)
            ]
        self.models = [Model(name, False, {}, {}) for name in ("base", *self.ways)]

    def curve(self, method, columns):
        return self.ways[method]

    def score(self, model, column):
        return Score(self.start[column], 0)


@pytest.mark.parametrize("spread", [0.001, 0.005, 0.02])
def test_the_names_of_ten_methods_do_not_overlap(spread):
    drawn = ElementTree.fromstring(figures.curves(Drawn(spread), "zero-shot", "composition"))
    names = [one for one in drawn.iter("text") if one.get("class") == "name"]
    assert len(names) == 11
    boxes = [
        (x := float(one.get("x")), y := float(one.get("y")) - 11, x + 8 * len(one.text), y + 14)
        for one in names
    ]
    for one, other in combinations(boxes, 2):
        assert labels.overlap(one, other) == 0
    for left, top, right, bottom in boxes:
        assert 0 <= left < right <= figures.WIDTH
        assert 0 <= top < bottom <= figures.HEIGHT


def test_a_difference_shows_its_interval_and_its_runs():
    drawn = figures.differences("composition", [("degla", 1, Difference(0.1, 0.05, 0.2, [0.08, 0.12]))])
    hints = [one.text for one in ElementTree.fromstring(drawn).iter("title")]
    assert hints == ["degla, one run: +8.0", "degla, one run: +12.0", "degla: +10.0 [+5.0, +20.0]"]
