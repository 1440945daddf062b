"""The picture of many models: its front, its axes, published models behind it, its names and colours."""

from __future__ import annotations

import csv
import json
import math
import random
import re
from itertools import combinations, pairwise, product
from pathlib import Path

import numpy as np
import pytest
import results

from open_clip_ext import cli
from open_clip_ext.errors import InputError
from open_clip_ext.evaluation.comparison import field, labels, page, paired, report, scatter
from open_clip_ext.evaluation.comparison.measures import Measure, Score
from open_clip_ext.evaluation.comparison.picture import Axis, Picture, Point, front
from open_clip_ext.evaluation.scoring import bootstrap


def axis(name, values):
    return Axis(name, Measure(name, 100, 100, [Score(v, v - 0.01, v + 0.01) for v in values], []))


def picture_of(points, published=()):
    across, up = axis("zero-shot", [a for a, _ in points]), axis("composition", [b for _, b in points])
    return Picture(across, up, front(across.measure, up.measure), published)


@pytest.fixture(autouse=True, scope="module")
def few_draws():
    """Intervals are tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bootstrap.replicates, "__kwdefaults__", {"resamples": 200, "seed": 0})
        yield


# --- the front ------------------------------------------------------------------------------------


def test_the_front_is_what_no_other_model_beats():
    draw = random.Random(0)
    for count in range(1, 9):
        # Few values, so that scores are equal at times.
        points = [(draw.randrange(5) / 5, draw.randrange(5) / 5) for _ in range(count)]
        expected = []
        for k, one in enumerate(points):
            beaten = False
            for other in points:
                as_good = other[0] >= one[0] and other[1] >= one[1]
                beaten = beaten or (as_good and (other[0] > one[0] or other[1] > one[1]))
            if not beaten:
                expected.append(k)
        assert list(picture_of(points).front) == expected


def test_the_line_of_the_front_goes_down_in_steps_over_its_points():
    shown = picture_of([(0.5, 0.5), (0.3, 0.8), (0.4, 0.4), (0.7, 0.2)])
    svg = scatter.trade_off(shown, list("abcd"))
    [line] = re.findall(r'<polyline points="([^"]+)" class="front"', svg)
    corners = [tuple(map(float, corner.split(","))) for corner in line.split()]
    marks = centres(svg)
    assert [marks[k] for k in (1, 0, 3)] == [pytest.approx(corners[i]) for i in (2, 4, 6)]
    for (x0, y0), (x1, y1) in pairwise(corners):
        assert x0 == x1 or y0 == y1
        assert x1 >= x0
        assert y1 >= y0


def centres(svg):
    """The middle of the whiskers of each model, which are drawn in their order."""
    ends = [
        [float(v) for v in re.findall(r'[xy][12]="([\d.]+)"', line)]
        for line in re.findall(r"<line [^>]*thin[^>]*>", svg)
    ]
    return [((h[0] + h[2]) / 2, h[1]) for h in ends[::2]]


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 5, 12, 20])
@pytest.mark.parametrize("spread", [0.02, 0.3])
def test_names_cover_neither_each_other_nor_a_point(count, spread):
    draw = random.Random(count)
    points = [
        (300 + 800 * spread * draw.gauss(0, 0.4), 200 + 500 * spread * draw.gauss(0, 0.4))
        for _ in range(count)
    ]
    points = [(min(max(x, 70), 540), min(max(y, 40), 370)) for x, y in points]
    names = ["model" + "x" * draw.randrange(12) for _ in points]
    area = (60, 22, 560, 376)
    found = labels.place(names, points, area)
    for one, other in combinations(found, 2):
        assert labels.overlap(one.box, other.box) == 0
    for label in found:
        left, top, right, bottom = label.box
        assert left >= area[0]
        assert top >= area[1]
        assert right <= area[2]
        assert bottom <= area[3]
        for x, y in points:
            assert labels.overlap(label.box, (x - 6, y - 6, x + 6, y + 6)) == 0


@pytest.mark.parametrize("seed", range(3))
def test_a_line_to_a_name_runs_over_no_other_name(seed):
    """Ten points that lie together, with room around them."""
    draw = random.Random(seed)
    points = [(300 + draw.gauss(0, 15), 200 + draw.gauss(0, 15)) for _ in range(10)]
    found = labels.place(["model" + "x" * draw.randrange(9) for _ in points], points, (60, 22, 560, 376))
    far = [(one, label) for one, label in zip(points, found, strict=True) if label.far]
    assert len(far) >= 2
    for (point, label), other in product(far, found):
        left, top, right, bottom = other.box
        (x0, y0), (x1, y1) = point, label.nearest(point)
        for t in np.linspace(0, 1, 100)[:-1]:
            x, y = x0 + t * (x1 - x0), y0 + t * (y1 - y0)
            assert not (left + 2 < x < right - 2 and top + 2 < y < bottom - 2)


def test_a_name_that_has_to_go_away_is_tied_to_its_point():
    points = [(0.5 + 0.001 * k, 0.5 + 0.001 * (k % 5)) for k in range(15)]
    svg = scatter.trade_off(picture_of([*points, (0.2, 0.2)]), [f"model-{k}" for k in range(16)])
    assert svg.count('class="leader"') >= 8
    assert all(f">model-{k}</text>" in svg for k in range(16))


# --- axes, and published models -------------------------------------------------------------------


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    root = tmp_path_factory.mktemp("two")
    pictures = results.photo_folder(root / "photos")
    folders = []
    for k, name in enumerate(("base", "tuned")):
        made = {
            "sugarcrepe": results.entry(
                "sugarcrepe", "composition", results.composition(pictures, 0.6 + 0.1 * k, k),
                ["micro", "sugarcrepe3"],
            ),
            "other": results.entry(
                "other", "composition", results.composition(pictures, 0.3, k + 5), ["micro"]
            ),
            "imagenet-val": results.entry(
                "imagenet-val", "zero-shot", results.classification(pictures, 0.6, k), ["top1 micro"]
            ),
        }  # fmt: skip
        folders.append(results.write(root / name, made))
    return folders


def write_field(path: Path, count: int = 5, **changes: str) -> Path:
    """A file of vl_compo's form with made-up models."""
    columns = [*field.COMPOSITION, *field.RECOGNITION.values()]
    rows = [
        {"": n, "arch": f"ViT-{n}", "pretrained": "laion", "family": "OpenCLIP"}
        | {column: str(20 + 10 * n + k / 10) for k, column in enumerate(columns)}
        for n in range(count)
    ]
    rows[-1].update(changes)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_the_axes_are_the_families_without_the_averages(two):
    shown = paired.compare(two).picture
    assert (shown.up.name, shown.across.name) == ("composition", "zero-shot")
    assert shown.up.measure.name == "mean of sugarcrepe micro, other micro"


def test_published_models_are_on_the_axes_of_the_columns_that_there_are(two, tmp_path):
    """Composition by vl_compo's averages of its own benchmarks alone, recognition by ImageNet."""
    found = paired.compare(two, published=write_field(tmp_path / "field.csv"))
    shown = found.picture
    assert (shown.up.name, shown.across.name) == ("composition, 1 of 12", "imagenet")
    assert shown.up.measure.name == "sugarcrepe sugarcrepe3"
    k = field.COMPOSITION.index("sugarcrepe")
    recognition = len(field.COMPOSITION) + 1
    assert shown.published[2] == Point(
        "ViT-2 laion", pytest.approx((40 + recognition / 10) / 100), pytest.approx((40 + k / 10) / 100)
    )
    made = report.parts(found)
    html = page.html(found, made)
    assert html.count('class="field"') == 5
    assert "<title>ViT-2 laion: " in html
    [part] = [part for part in made if part.key == "trade-off"]
    assert "composition, 1 of 12" in part.head
    assert "Grey: 5 models of vl_compo, as published." in " ".join(part.text)
    # Every measured number of the picture is in its table.
    for hint in re.findall(
        r"<title>(?:base|tuned): (.*?)</title>", scatter.trade_off(shown, ["base", "tuned"])
    ):
        cells = " ".join(cell for line in part.body for cell in line)
        assert set(re.findall(r"\d+\.\d", hint)) <= set(re.findall(r"\d+\.\d", cells))


def test_the_mean_of_published_columns():
    model = field.Model("m", {"valse": 0.5, "crepe": 0.3, "aro": 0.9})
    assert model.mean(["valse", "crepe"]) == pytest.approx(np.mean([0.5, 0.3]))


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda path: path.unlink(), "FILE: it cannot be read (No such file or directory)"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "FILE: it is UTF-16 text; convert it to UTF-8"),
        (lambda path: path.write_text("arch,aro\nx,1\n"), "FILE: has no column colorswap, crepe, eqben,"),
        (lambda path: path.write_text(path.read_text() + '"'), "FILE, line 7: the quote that begins a field"),
        (lambda path: path.write_text(path.read_text() + "x\n"), "FILE, row 6: aro is not a number: ''"),
        (lambda path: write_field(path, valse="high"), "FILE, row 5: valse is not a number: 'high'"),
        (lambda path: write_field(path, valse=""), "FILE, row 5: valse is not a number: ''"),
        (lambda path: write_field(path, valse="140"), "FILE, row 5: valse is 140, not a percentage"),
        (lambda path: write_field(path, valse="nan"), "FILE, row 5: valse is nan, not a percentage"),
        (lambda path: path.write_text(path.read_text().splitlines()[0]), "FILE: has no row below its header"),
    ],
)
def test_a_file_of_published_models_that_is_wrong(tmp_path, spoil, sentence):
    path = write_field(tmp_path / "field.csv")
    spoil(path)
    with pytest.raises(InputError) as error:
        field.read(path)
    assert str(error.value).replace(str(path), "FILE").startswith(f"--published {sentence}")


@pytest.mark.parametrize(
    ("keep", "sentence"),
    [
        (
            ["other", "imagenet-val"],
            "--published: no benchmark of composition in all results is one of the file's",
        ),
        (
            ["sugarcrepe"],
            "--published: the file has ImageNet and the mean of 21 sets; the results have no imagenet",
        ),
    ],
)
def test_results_that_share_no_axis_with_the_file(two, tmp_path, keep, sentence, capsys):
    folders = []
    for folder in two:
        content = json.loads((folder / "result.json").read_text())
        content["benchmarks"] = {name: content["benchmarks"][name] for name in keep}
        copy = tmp_path / folder.name
        (copy / "items").mkdir(parents=True)
        (copy / "result.json").write_text(json.dumps(content))
        for name in keep:
            (copy / f"items/{name}.jsonl").write_bytes((folder / f"items/{name}.jsonl").read_bytes())
        folders.append(str(copy))
    given = ["--published", str(write_field(tmp_path / "field.csv")), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match="2"):
        cli.main(["eval", "compare", *folders, *given])
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_command_draws_and_stores(two, tmp_path, capsys):
    given = ["--published", str(write_field(tmp_path / "field.csv")), "--out", str(tmp_path / "out")]
    assert cli.main(["eval", "compare", *map(str, two), *given]) == 0
    stored = json.loads((tmp_path / "out/compare.json").read_text())
    assert stored["results"] == {folder.name: str(folder) for folder in two}
    assert stored["families"]["zero-shot"]["scores"]["tuned"]["value"] == pytest.approx(
        paired.compare(two).families["zero-shot"].scores[1].value
    )
    assert stored["missing"]["comp12"][0] == "aro"
    assert "comp12 is not given" in capsys.readouterr().out
    assert 'class="field"' in (tmp_path / "out/compare.html").read_text()


def test_the_picture_of_many_models_comes_first(two, tmp_path):
    pictures = results.photo_folder(tmp_path / "photos", 4)
    folders = [
        results.write(tmp_path / f"m{k}", results.benchmarks(pictures, 0.5 + 0.03 * k, 0.8, k))
        for k in range(6)
    ]
    found = paired.compare(folders)
    html = page.html(found, report.parts(found))
    assert html.index('id="trade-off"') < html.index('class="cards"')
    assert html.count('id="trade-off"') == 1
    assert "<h1>5 models against m0</h1>" in html
    few = paired.compare(two)
    html = page.html(few, report.parts(few))
    assert html.index('class="cards"') < html.index('id="trade-off"')


# --- colours --------------------------------------------------------------------------------------

# Machado, Oliveira and Fernandes, "A Physiologically-based Model for Simulation of Color Vision Deficiency",
# IEEE TVCG 2009: what is seen without one kind of cone, of linear RGB.
SEEN = {
    "all": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039],
    ],
}  # fmt: skip


def linear(colour):
    values = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    """CIELAB of linear sRGB, D65."""
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = np.cbrt(np.array(to_xyz) @ np.clip(rgb, 0, 1) / [0.9505, 1, 1.089])
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_colours_of_models_are_apart_for_colour_blind_readers_too(theme):
    styles = Path(page.__file__).with_name("style.css").read_text()
    palette = re.findall(r"--m\d: (#\w{6})", styles)[6 * theme : 6 * theme + 6]
    card = re.findall(r"--card: (#\w{6})", styles)[theme]
    assert len(palette) == 6
    for matrix in SEEN.values():
        seen = [lab(np.array(matrix) @ linear(colour)) for colour in palette]
        assert min(math.dist(one, other) for one, other in combinations(seen, 2)) > 25
    luminance = [float(linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (card, *palette)]
    for one in luminance[1:]:
        low, high = sorted((one, luminance[0]))
        assert (high + 0.05) / (low + 0.05) > 3  # of graphics, WCAG 2.2, 1.4.11


def test_twelve_models_differ_in_shape_or_colour():
    svg = scatter.trade_off(
        picture_of([(k / 20, 0.5 + (k % 3) / 20) for k in range(12)]), [str(k) for k in range(12)]
    )
    shapes = re.findall(r'<(circle|polygon) [^>]*class="(m\d)"', svg)
    corners = [len(points.split()) for points in re.findall(r'<polygon points="([^"]+)"', svg)]
    assert len(shapes) == 12
    assert sorted(corners) == [3] * 3 + [4] * 6
    assert {(k % 4, k % 6) for k in range(12)} == {(k % 4, k % scatter.COLOURS) for k in range(12)}
    assert len({(k % 4, k % 6) for k in range(12)}) == 12
