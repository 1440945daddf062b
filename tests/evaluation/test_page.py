"""The page stands alone, says what the report says, and shows what the rows hold."""

from __future__ import annotations

import base64
import io
import re
import tarfile
import zipfile
from html.parser import HTMLParser
from pathlib import Path

import pytest
import results
from PIL import Image

from open_clip_ext.evaluation.comparison import figures, page, paired, report, scatter


class Read(HTMLParser):
    """The visible words, the pictures, and everything that could load something."""

    def __init__(self, html):
        super().__init__()
        self.words, self.images, self.loads, self.open, self.texts = [], [], [], [], {}
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        names = dict(attrs)
        if tag == "img":
            self.images.append(names)
        self.loads += [
            v for k, v in attrs if k in ("src", "srcset", "data", "action", "poster", "xlink:href")
        ]
        self.loads += [names["href"]] if "href" in names else []
        if tag in ("script", "link", "iframe", "object", "embed"):
            self.loads.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        if not set(self.open) & {"style", "title"}:
            self.words.append(data)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    root = tmp_path_factory.mktemp("page")
    pictures = results.photo_folder(root / "photos")
    made = {
        "base <&": results.benchmarks(pictures),
        "negclip": results.benchmarks(pictures, 0.8, 0.7, model_seed=1),
        "degla": results.benchmarks(pictures, 0.75, 0.8, model_seed=2),
    }
    return paired.compare([results.write(root / name, entries) for name, entries in made.items()])


@pytest.fixture(scope="module")
def parts(found):
    return report.parts(found)


@pytest.fixture(scope="module")
def html(found, parts):
    return page.html(found, parts)


def numbers(text):
    return re.findall(r"\d+(?:[.,]\d+)*", text)


def test_nothing_is_loaded_from_anywhere(html):
    read = Read(html)
    assert not read.open, "everything is closed"
    assert all(load.startswith(("data:image/jpeg;base64,", "#")) for load in read.loads)
    assert "http" not in re.sub(r"base64,[\w+/=]+", "", html)
    assert "url(" not in html
    assert "@import" not in html


def test_every_number_of_the_report_is_on_the_page(found, parts, html):
    words = " ".join(Read(html).words)
    on_page = set(numbers(words))
    markdown = report.markdown(found, parts)
    assert len(numbers(markdown)) > 500
    assert set(numbers(markdown)) <= on_page
    for verdict in found.verdicts:
        assert verdict.reasons in words


def test_every_plot_has_its_table(found, parts, html):
    assert html.count("<figure>") == 2 + len(found.benchmarks)
    for part in parts:
        if part.key in ("trade-off", "differences") or part.key.startswith("groups/"):
            assert part.body
    # A plot's hints are numbers of its table.
    plots = [figures.differences(found), scatter.trade_off(found.picture, ["base &lt;&", "b", "c"])]
    plots += [figures.bars(one.groups, ["a", "b", "c"]) for one in found.benchmarks]
    words = " ".join(Read(html).words)
    for plot in plots:
        hints = re.findall(r"<title>.*?: (.*?)</title>", plot)
        assert hints
        for hint in hints:
            assert set(re.findall(r"\d+\.\d+", hint)) <= set(numbers(words)), hint


def test_the_template_and_the_published_numbers_are_in_the_wheel(wheel):
    inside = set(zipfile.ZipFile(wheel).namelist())
    names = ("page.html", "style.css", "published.json")
    assert {f"open_clip_ext/evaluation/comparison/{name}" for name in names} <= inside
    assert "open_clip_ext/study/page.html" in inside


def test_links_within_the_page_lead_somewhere(html):
    for target in re.findall(r'href="#([^"]+)"', html):
        assert f'id="{target}"' in html


def test_labels_and_captions_are_escaped(html):
    assert "base &lt;&amp;" in html
    assert "base <&" not in html
    assert "<b>replace" not in html
    assert "&lt;b&gt;replace" in html


def test_pictures_are_small_and_those_of_the_items(found, parts, html):
    read = Read(html)
    shown = [path for part in parts for e in part.examples for path, _ in e.pictures]
    with_files = [path for path in shown if Path(path).is_file()]
    assert 0 < len(with_files) < len(shown)
    assert [image["alt"] for image in read.images] == with_files
    picture = Image.open(io.BytesIO(base64.b64decode(read.images[0]["src"].partition(",")[2])))
    assert picture.size == (220, 165)
    original = Image.open(with_files[0]).resize(picture.size)
    assert abs(picture.getpixel((5, 5))[0] - original.getpixel((5, 5))[0]) < 8
    assert html.count("picture not shown") == len(shown) - len(with_files)


def test_pictures_can_stay_out(found, parts):
    assert "data:image" not in page.html(found, parts, pictures=False)


def test_a_picture_in_a_shard(tmp_path):
    encoded = io.BytesIO()
    Image.new("RGB", (400, 100), "red").save(encoded, "png")
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        info = tarfile.TarInfo("a/1.png")
        info.size = len(encoded.getvalue())
        tar.addfile(info, io.BytesIO(encoded.getvalue()))
    assert page.thumbnail(str(tmp_path / "0.tar" / "a" / "1.png")).startswith("data:image/jpeg;base64,")
    for gone in ("0.tar/a/2.png", "none/a/1.png"):
        assert page.thumbnail(str(tmp_path / gone)) is None


def test_a_file_that_is_no_picture(tmp_path):
    (tmp_path / "broken.png").write_text("no picture")
    assert page.thumbnail(str(tmp_path / "broken.png")) is None


@pytest.mark.parametrize("family", ["composition", "zero-shot"])
def test_a_page_of_one_family(tmp_path, family):
    pictures = results.photo_folder(tmp_path / "photos", 4)
    folders = []
    for seed, name in enumerate(("base", "tuned")):
        made = results.benchmarks(pictures, model_seed=seed)
        kept = {key: entry for key, entry in made.items() if entry["family"] == family}
        folders.append(results.write(tmp_path / name, kept))
    found = paired.compare(folders)
    html = page.html(found, report.parts(found))
    assert "not shown" in html
    assert html.count("<figure>") == 2, "differences and subsets; no trade-off"


def test_the_true_one_is_marked(tmp_path):
    """Captions of one picture, pictures of one caption; nothing where it is not known."""
    rows = {
        "i2t": results.row("1", "g", ["a.png"], ["true", "false"], {"accuracy": 0}, -0.1) | {"truth": [0]},
        "t2i": results.row("2", "g", ["a.png", "b.png"], ["words"], {"accuracy": 0}, -0.1) | {"truth": [1]},
        "2x2": results.row("3", "g", ["a.png", "b.png"], ["c", "d"], {"accuracy": 0}, -0.1) | {"truth": []},
        "old": results.row("4", "g", ["a.png"], ["true", "false"], {"accuracy": 0}, -0.1),
    }
    folders = []
    for won, name in enumerate(("base", "tuned")):
        own = [row | {"correct": {"accuracy": won}, "margin": won - 0.5} for row in rows.values()]
        made = {"x": results.entry("x", "composition", own, ["micro"])}
        folders.append(results.write(tmp_path / name, made))
    found = paired.compare(folders)
    examples = {e.id: e for part in report.parts(found) for e in part.examples}
    assert examples["1"].captions == [("true", True), ("false", False)]
    assert examples["2"].pictures == [("a.png", False), ("b.png", True)]
    assert examples["2"].captions == [("words", None)]
    assert examples["3"].pictures == [("a.png", None), ("b.png", None)]
    assert examples["4"].captions == [("true", None), ("false", None)]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (-0.07, 0.13, [-0.05, 0, 0.05, 0.1]), (0.611, 0.613, None)],
)
def test_ticks(low, high, expected):
    found = figures.ticks(low, high)
    if expected:
        assert found == pytest.approx(expected)
    assert 3 <= len(found) <= 8
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in found)
