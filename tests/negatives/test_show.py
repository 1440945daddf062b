"""The page, as a real browser has it, and the view in the terminal."""

from __future__ import annotations

import base64
import html
import io
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from support import ENVIRONMENT

from open_clip_ext.cli import main
from open_clip_ext.negatives.records import Candidate
from open_clip_ext.negatives.show import draw
from open_clip_ext.negatives.store import Store, Writer

HOSTILE = '<script>document.title = "hacked"</script><img src=x onerror=alert(1)> "quoted" & {{ 7 * 7 }}'


@pytest.fixture
def store(tmp_path) -> Path:
    Image.new("RGB", (900, 600), (200, 30, 30)).save(tmp_path / "red.png")
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    with Writer(tmp_path / "n.store", "test", "1", {}, ["swap_adj", "replace_noun"]) as writer:
        writer.add(
            "A black cat on a white sofa .",
            [
                Candidate("swap_adj", "A white cat on a black sofa ."),
                Candidate("replace_noun", "A black dog on a white sofa ."),
                Candidate("replace_noun", "A black kitty on a white sofa .", kind="pos"),
                Candidate("replace_noun", "A black cat", reason="length"),
            ],
            ["broken.jpg", "red.png"],
        )
        writer.add("Nothing .", [])
        writer.add(HOSTILE, [Candidate("swap_adj", f"{HOSTILE} too")], ["none.png"])
    return tmp_path / "n.store"


@pytest.fixture
def page(store, tmp_path, capsys):
    def write(*flags: str) -> str:
        path = tmp_path / "page.html"
        call = ["negatives", "show", str(store), "--html", str(path), "--images", str(tmp_path), *flags]
        assert main(call) == 0
        assert capsys.readouterr().out.startswith(f"{path}: ")
        return path.read_text()

    return write


def rows(page: str) -> list[tuple[str, str, str]]:
    """Status, type and marked text of each row."""
    found = re.findall(
        r'<li class="(\w+)" data-status="\1" data-type="(\w+)".*?class="text">(.*?)</span></li>', page, re.S
    )
    return [(status, type, re.sub(r"\s+", " ", text)) for status, type, text in found]


def test_the_changed_words_are_marked(page):
    assert rows(page())[:3] == [
        (
            "neg",
            "swap_adj",
            'A <mark title="the caption has: black">white</mark> cat on a '
            '<mark title="the caption has: white">black</mark> sofa .',
        ),
        (
            "neg",
            "replace_noun",
            'A black <mark title="the caption has: cat">dog</mark> on a white sofa .',
        ),
        (
            "pos",
            "replace_noun",
            'A black <mark title="the caption has: cat">kitty</mark> on a white sofa .',
        ),
    ]


def test_rejected_texts_only_when_asked_for(page):
    assert "rejected" not in {status for status, *_ in rows(page())}
    (row,) = [row for row in rows(page("--rejected")) if row[0] == "rejected"]
    assert row[2] == (
        'A black cat <del>on a white sofa .</del> <span class="reason" '
        'title="more than twice or less than half as many words">rejected: length</span>'
    )


def test_the_first_picture_that_can_be_read_is_inside_and_small(page):
    (encoded,) = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page())
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as picture:
        assert picture.size == (400, 267)
        assert picture.getpixel((5, 5))[0] > 150


def test_the_page_needs_nothing_else_and_runs_nothing_of_a_caption(page):
    written = page()
    assert not re.search(r'(src|href)="(?!data:)|@import|url\(', written)
    assert written.count("<script>") == 1
    assert html.escape(HOSTILE, quote=False).split('"')[0] in written


def test_types_and_captions_can_be_chosen(page):
    assert {type for _, type, _ in rows(page("--type", "swap_adj"))} == {"swap_adj"}
    assert page("--find", "WHITE").count("<article>") == 1
    assert page("--limit", "2").count("<article>") == 2


# --- in the browser

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync --dump-dom""".split()  # noqa: SIM905


def browse(path: Path, script: str, tmp_path: Path, *flags: str) -> str:
    """The document after a script of ours ran in the page."""
    if not BROWSER:
        pytest.skip("no Chromium here")
    probe = tmp_path / "probe.html"
    probe.write_text(path.read_text().replace("</body>", f"<script>{script}</script></body>"))
    command = [BROWSER, *FLAGS, *flags, f"--user-data-dir={tmp_path / 'profile'}", probe.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.parametrize(
    ("script", "left"),
    [
        ("", "5 texts of 3 captions"),
        ("document.querySelector('[value=rejected]').click()", "4 texts of 3 captions"),
        ("document.querySelector('[value=swap_adj]').click()", "3 texts of 2 captions"),
        (
            "form.find.value = 'sofa'; form.find.dispatchEvent(new Event('input', {bubbles: true}))",
            "4 texts of 1 captions",
        ),
    ],
    ids=["all", "status", "type", "words"],
)
def test_the_filters(page, tmp_path, script, left):
    page("--rejected")
    # What is shown is what has a size.
    count = (
        "; const seen = s => [...document.querySelectorAll(s)].filter(e => e.getClientRects().length).length;"
        "document.body.dataset.seen = `${seen('li')} texts of ${seen('article')} captions`;"
        "document.body.dataset.said = document.querySelector('output').value"
    )
    seen = browse(tmp_path / "page.html", script + count, tmp_path)
    assert f'data-seen="{left}"' in seen
    assert f'data-said="{left}"' in seen
    assert "<title>n.store</title>" in seen  # no caption changed it


@pytest.mark.parametrize(("width", "zoom"), [(500, 1.4), (1280, 1)], ids=["phone", "desk"])
def test_nothing_sticks_out_sideways(page, tmp_path, width, zoom):
    page("--rejected")
    script = (  # a window has at least 500 pixels
        f"const root = document.documentElement; root.style.zoom = {zoom};"
        "const narrow = matchMedia('(max-width: 44rem)').matches;"
        "document.body.dataset.wide = [root.clientWidth, root.scrollWidth, narrow]"
    )
    seen = browse(tmp_path / "page.html", script, tmp_path, f"--window-size={width},900")
    there, needed, narrow = re.search(r'data-wide="(\d+),(\d+),(\w+)"', seen).groups()
    assert int(needed) <= int(there) <= width
    assert narrow == ("true" if width == 500 else "false")


# --- in the terminal


def test_the_terminal_marks_in_brackets_where_there_is_no_colour(store, capsys):
    assert main(["negatives", "show", str(store), "--find", "sofa", "--rejected"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "A black cat on a white sofa .",
        "  \u2260 swap_adj      A [white] cat on a [black] sofa .",
        "  \u2260 replace_noun  A black [dog] on a white sofa .",
        "  \u2248 replace_noun  A black [kitty] on a white sofa .",
        "  \u2715 replace_noun  A black cat  (length)",
    ]


def test_a_caption_cannot_steer_the_terminal(tmp_path, capsys):
    with Writer(tmp_path / "n.store", "test", "1", {}, ["swap"]) as writer:
        writer.add("a \x1b[2J b \u202e c", [Candidate("swap", "b \x1b]0;x\x07 a \U0001f469\u200d\U0001f373")])
    assert main(["negatives", "show", str(tmp_path / "n.store")]) == 0
    printed = capsys.readouterr().out
    assert not {"\x1b", "\x07", "\u202e"} & set(printed)
    assert "\U0001f469\u200d\U0001f373" in printed


def test_who_reads_may_stop_reading(tmp_path):
    with Writer(tmp_path / "n.store", "test", "1", {}, ["swap"]) as writer, writer.together():
        for i in range(2000):
            writer.add(f"a caption of some length with the number {i}", [])
    command = [sys.executable, "-m", "open_clip_ext.cli", "negatives", "show", tmp_path / "n.store"]
    with subprocess.Popen(
        [*map(str, command), "--limit", "2000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_the_draw_is_even_repeatable_and_in_the_order_of_the_store(tmp_path):
    captions = [f"caption {i}" for i in range(300)]
    with Writer(tmp_path / "n.store", "test", "1", {}, ["swap"]) as writer, writer.together():
        for caption in captions:
            writer.add(caption, [])
    store = Store.open(tmp_path / "n.store")
    assert draw(store, 20, seed=1) == draw(store, 20, seed=1) != draw(store, 20, seed=2)
    assert draw(store, 1000, seed=1) == captions
    drawn = [captions.index(caption) for seed in range(300) for caption in draw(store, 20, seed)]
    assert drawn[:20] == sorted(drawn[:20])
    thirds = [sum(100 * third <= place < 100 * third + 100 for place in drawn) for third in range(3)]
    assert all(1800 < count < 2200 for count in thirds)  # 2000 expected, standard deviation 36


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--find", "zebra"], "{0}: no caption contains 'zebra'"),
        (["--limit", "0"], "--limit 0: give at least 1"),
        (["--type", "swap_verb"], "--type swap_verb: {0} has none; its types: swap_adj, replace_noun"),
        (
            ["--html", "/nowhere/x.html"],
            "--html /nowhere/x.html: it cannot be written (No such file or directory)",
        ),
    ],
)
def test_wrong_calls(store, capsys, flags, sentence):
    with pytest.raises(SystemExit) as stopped:
        main(["negatives", "show", str(store), *flags])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"open_clip_ext: {sentence.format(store)}"
