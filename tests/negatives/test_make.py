"""`negatives make` and `merge` as a user calls them."""

from __future__ import annotations

import csv
import json
import random
import re

import numpy as np
import pytest
from support_negatives import content, install, run, sentence

from open_clip_ext import cli
from open_clip_ext.errors import InputError
from open_clip_ext.negatives.make import Source
from open_clip_ext.negatives.store import Store

OURS = ("ce-clip", "degla", "degla-rules", "negation", "phrases", "positives", "swap")
SHOUT = '''
import time
from collections.abc import Iterator, Sequence

from open_clip_ext.negatives.records import Candidate


class Shout:
    """Shouts a word; skips captions with "skip" and dies on "die"."""

    version = "3"
    types = ("first", "last")
    batch_size = 4

    def __init__(self, *, seed: int = 0, word: str = "hey", times: int = 1):
        if times < 1:
            raise ValueError("times must be at least 1")
        self.word, self.times, self.seed = word, times, seed

    def identity(self) -> dict:
        return {"word": self.word, "times": self.times, "seed": self.seed}

    def generate(self, captions: Sequence[str]) -> Iterator[tuple[int, list[Candidate]]]:
        shout = " ".join([self.word] * self.times)
        for index in reversed(range(len(captions))):
            if "skip" not in captions[index]:
                yield index, [
                    Candidate("first", f"{shout} {captions[index]}"),
                    Candidate("last", "", reason="no_breath"),
                ]

    def status(self) -> str:
        return "shouting"
'''


def captions(count: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    things = ["dog", "cat", "man", "woman", "car", "bench", "apple", "umbrella", "horse", "table"]
    adjectives = ["black", "white", "small", "old", "red", "wooden"]
    verbs = ["sitting", "standing", "running", "sleeping"]
    relations = ["on", "under", "behind", "next to", "with"]
    made = []
    while len(made) < count:
        a, b, c = rng.sample(things, 3)
        x, y = rng.sample(adjectives, 2)
        text = (
            f"A {x} {a} {rng.choice(verbs)} {rng.choice(relations)} the {b} and a {y} {c}, number {len(made)}"
        )
        made.append(text)
    return made


def write(path, texts, images=None):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["filepath", "title"])
        writer.writerows([(images[i] if images else f"{i}.jpg", text) for i, text in enumerate(texts)])
    return path


def make(capsys, source, out, *arguments, recipe="swap") -> str:
    """Run the command in this process; what it printed."""
    words = ["negatives", "make", source, "--out", out, "--recipe", recipe, *arguments]
    if recipe in OURS:
        words += ["--cfg", "tagger=textblob"]
    assert cli.main(list(map(str, words))) == 0
    return capsys.readouterr().out


@pytest.fixture
def stop(tmp_path, capsys):
    """Run a `make` that must stop; its sentence."""

    def stopping(*arguments, source=None, recipe="swap"):
        source = source or write(tmp_path / "c.csv", captions(3))
        with pytest.raises(SystemExit) as stopped:
            cli.main(
                list(
                    map(
                        str,
                        [
                            "negatives",
                            "make",
                            source,
                            "--out",
                            tmp_path / "s",
                            "--recipe",
                            recipe,
                            *arguments,
                        ],
                    )
                )
            )
        assert stopped.value.code == 2
        return capsys.readouterr().err.strip().splitlines()[-1].removeprefix("open_clip_ext: ")

    return stopping


def test_every_caption_gets_an_entry_and_the_table_counts_them(tmp_path, capsys):
    printed = make(capsys, write(tmp_path / "c.csv", captions(50)), tmp_path / "s")
    store = Store.open(tmp_path / "s")
    assert len(store) == 50
    for type in store.types():
        count = sum(text.type == type for caption in store.captions() for text in store.texts(caption, "neg"))
        assert re.search(rf"^{type} +{count} ", printed, re.MULTILINE)
    assert "50 captions in" in printed
    assert store.images(captions(50)[7]) == ["7.jpg"]


@pytest.mark.parametrize("recipe", ["swap", "degla-rules", "positives"])
def test_order_and_shards_change_nothing(tmp_path, capsys, recipe):
    texts = captions(60)
    make(capsys, write(tmp_path / "c.csv", texts), tmp_path / "whole", recipe=recipe)
    images = [f"{i}.jpg" for i in range(60)]
    both = list(zip(texts, images, strict=True))
    random.Random(1).shuffle(both)
    mixed = write(tmp_path / "mixed.csv", *zip(*both, strict=True))
    for i in (1, 2, 3):
        make(capsys, mixed, tmp_path / "part", "--shard", f"{i}/3", recipe=recipe)
    parts = [tmp_path / f"part.{i}-of-3" for i in (1, 2, 3)]
    assert all(len(Store.open(part)) > 5 for part in parts)
    assert cli.main(["negatives", "merge", str(tmp_path / "merged"), *map(str, parts)]) == 0
    assert "60 entries came from 3 stores, 0 were there already; 60 captions" in capsys.readouterr().out
    assert content(tmp_path / "merged") == content(tmp_path / "whole")


def test_the_seed_decides(tmp_path, capsys):
    source = write(tmp_path / "c.csv", captions(30))
    for out, seed in (("a", 0), ("b", 0), ("c", 1)):
        make(capsys, source, tmp_path / out, "--seed", seed)
    texts = [[t for *_, t in Store.open(tmp_path / out).entries()] for out in "abc"]
    assert texts[0] == texts[1] != texts[2]


def test_going_on_does_only_what_is_left(tmp_path, capsys):
    source = write(tmp_path / "c.csv", captions(40))
    assert "15 captions in" in make(capsys, source, tmp_path / "s", "--limit", 15)
    assert "25 captions in" in make(capsys, source, tmp_path / "s")
    make(capsys, source, tmp_path / "whole")
    assert content(tmp_path / "s") == content(tmp_path / "whole")


def test_more_texts_of_a_type(tmp_path, capsys):
    source = write(tmp_path / "c.csv", ["A man throws a ball over a fence to a dog under a tree"])
    make(capsys, source, tmp_path / "s", "--per-type", 4)
    store = Store.open(tmp_path / "s")
    (caption,) = store.captions()
    assert [text.type for text in store.texts(caption, "neg")].count("swap_noun") == 4


def test_captions_that_nothing_can_be_made_of(tmp_path, capsys):
    good = "A dog on a bench"
    foreign = "fewer than half of its words are English"
    odd = {
        "": "no text",
        "A dog\x07 on a bench": "control characters",
        "A dog on a bench " * 300: "more than 1000 characters",
        "<b>A dog</b> on a bench": "HTML or an address in it",
        "A dog &amp; a cat": "HTML or an address in it",
        "\u72d7\u5728\u957f\u51f3\u4e0a": foreign,
        "Der Hund l\u00e4uft schnell \u00fcber die gro\u00dfe gr\u00fcne Wiese": foreign,
        "\U0001f600 \U0001f436": foreign,
    }
    nothing = ["Running", "wow!!!", "A dog"]
    printed = make(capsys, write(tmp_path / "c.csv", [good, *odd, *nothing, good, good]), tmp_path / "s")
    store = Store.open(tmp_path / "s")
    assert len(store) == 1 + len(odd) + len(nothing)
    assert [c for c, _, texts in store.entries() if texts] == [good]
    for reason in set(odd.values()):
        n = list(odd.values()).count(reason)
        assert f"left out, {reason}: {n} captions" in printed
    assert store.images(good) == ["0.jpg", "12.jpg", "13.jpg"]


@pytest.mark.parametrize(
    "emoji", ["A dog \U0001f436 on a bench \U0001f600", "\u201cA dog\u201d on a bench\u2014red"]
)
def test_emoji_and_signs_stay_where_they_are(tmp_path, capsys, emoji):
    make(capsys, write(tmp_path / "c.csv", [emoji]), tmp_path / "s")
    signs = [c for c in emoji if not c.isascii()]
    for text in Store.open(tmp_path / "s").texts(emoji, "neg"):
        assert [c for c in text.text if not c.isascii()] == signs


def test_another_caption_of_the_picture_is_no_negative(tmp_path, capsys):
    one, other = "A dog on a bench", "a bench on a dog."
    make(capsys, write(tmp_path / "c.csv", [one, other], ["1.jpg", "1.jpg"]), tmp_path / "s")
    store = Store.open(tmp_path / "s")
    assert store.texts(one, "neg") == []
    assert [text.text for text in store.texts(one, "pos")] == ["A bench on a dog"]


LIST = ["A dog on a bench", "a bench on a dog."]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("c.json", json.dumps([{"image": "1.jpg", "caption": LIST}])),
        ("c.jsonl", json.dumps({"caption": LIST})),  # its picture has no name
        ("c.csv", f'filepath,caption\n1.jpg,"{np.array(LIST)}"\n'),
    ],
)
def test_the_captions_of_a_list_are_of_one_picture(tmp_path, capsys, name, content):
    (tmp_path / name).write_text(content)
    make(capsys, tmp_path / name, tmp_path / "s")
    store = Store.open(tmp_path / "s")
    assert list(store.captions()) == LIST
    assert store.texts(LIST[0], "neg") == []
    assert [text.text for text in store.texts(LIST[0], "pos")] == ["A bench on a dog"]


def test_a_table_with_pipes_and_blanks(tmp_path, capsys):
    (tmp_path / "results.csv").write_text(
        "image_name| comment_number| comment\n1.jpg| 0| A dog on a bench .\n1.jpg| 1| A dog sits .\n"
    )
    for out, flags in (("a", ()), ("b", ("--csv-separator", "|"))):
        make(capsys, tmp_path / "results.csv", tmp_path / out, *flags)
        store = Store.open(tmp_path / out)
        assert list(store.captions()) == ["A dog on a bench .", "A dog sits ."]
        assert store.images("A dog on a bench .") == ["1.jpg"]


def test_a_third_party_s_generator_is_a_peer(tmp_path):
    env = install(tmp_path / "site", "shout", SHOUT, "Shout")
    source = write(tmp_path / "c.csv", captions(10))
    made = run(
        "make", source, "--recipe", "shout", "--out", tmp_path / "s", "--cfg", "word=oh", "times=2", env=env
    )
    assert made.returncode == 0, made.stderr
    assert "no_breath 10" in made.stdout
    assert "shouting" in made.stderr
    store = Store.open(tmp_path / "s")
    caption = captions(10)[3]
    assert [text.text for text in store.texts(caption, "neg")] == [f"oh oh {caption}"]
    (maker,) = store.generators()
    assert (maker.name, maker.version, maker.params["times"]) == ("shout", "3", 2)

    again = run("make", source, "--recipe", "shout", "--out", tmp_path / "s", "--cfg", "word=no", env=env)
    assert again.returncode == 2
    assert "(times: 2 there, 1 now; word: 'oh' there, 'no' now)" in sentence(again)

    wrong = run("make", source, "--recipe", "shout", "--out", tmp_path / "t", "--cfg", "times=0", env=env)
    assert (wrong.returncode, sentence(wrong)) == (2, "--recipe shout: times must be at least 1")


PARTS = """
from open_clip_ext.negatives.records import Candidate


class Parts:
    version, types, kinds = "1", ("half",), {kinds}

    def __init__(self, *, seed: int = 0):
        pass

    def identity(self):
        return {{}}

    def generate(self, captions):
        for index, caption in enumerate(captions):
            half = " ".join(caption.split()[:3])
            foil = Candidate("half", f"no {{half}}", kind="foil", of=half)
            yield index, [Candidate("half", half, kind="phrase"), foil]
"""


def test_a_recipe_of_other_kinds(tmp_path, capsys):
    """From the recipe through the gate and the store to each command that shows what is there."""
    env = install(tmp_path / "site", "parts", PARTS.format(kinds=("phrase", "foil")), "Parts")
    source = write(tmp_path / "c.csv", ["A dog runs on grass", "A cat sleeps"])
    made = run("make", source, "--recipe", "parts", "--out", tmp_path / "s", env=env)
    assert made.returncode == 0, made.stderr
    assert made.stdout.splitlines()[:2] == [
        "type             negatives  keep the meaning    phrase      foil  turned away",
        "half                     0                 0         2         2  -",
    ]
    store = Store.open(tmp_path / "s")
    assert [(t.kind, t.text, t.of) for t in store.texts("A cat sleeps")] == [
        ("phrase", "A cat sleeps", ""),
        ("foil", "no A cat sleeps", "A cat sleeps"),
    ]
    assert cli.main(["negatives", "show", str(tmp_path / "s"), "--find", "dog"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown == [
        "A dog runs on grass",
        "  \u2282 half    A dog runs",
        "  \u2260 \u21b3 half  [no] A dog runs",
    ]
    page = tmp_path / "page.html"
    assert cli.main(["negatives", "show", str(tmp_path / "s"), "--html", str(page)]) == 0
    assert '<li class="foil" data-status="foil" data-type="half">' in page.read_text()
    capsys.readouterr()
    assert cli.main(["negatives", "stats", str(tmp_path / "s")]) == 0
    printed = capsys.readouterr().out
    assert "Foils: phrases, changed" in printed
    assert "parts  half      2        100.0    4.0    1.0         0              0         0" in printed
    assert "Captions by their number of foils" in printed
    assert cli.main(["negatives", "stats", str(tmp_path / "s"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["other_kinds"] == {"phrase": {"1": 2}, "foil": {"1": 2}}


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        (
            ("phrase",),
            "parts, caption 'A dog': a text of the kind 'foil'; declare it in the generator's `kinds`",
        ),
        (
            ("a phrase",),
            "--recipe parts: kind 'a phrase': give a short name of lower-case letters, such as 'foil'",
        ),
    ],
)
def test_kinds_that_a_recipe_does_not_declare_well(tmp_path, kinds, expected):
    env = install(tmp_path / "site", "parts", PARTS.format(kinds=kinds), "Parts")
    source = write(tmp_path / "c.csv", ["A dog"])
    made = run("make", source, "--recipe", "parts", "--out", tmp_path / "s", env=env)
    assert (made.returncode, sentence(made)) == (2, expected)


def test_what_a_generator_does_not_yield_is_tried_again(tmp_path):
    env = install(tmp_path / "site", "shout", SHOUT, "Shout")
    source = write(tmp_path / "c.csv", ["A dog", "A skip", "A cat"])
    made = run("make", source, "--recipe", "shout", "--out", tmp_path / "s", env=env)
    assert made.returncode == 1
    assert sentence(made) == "1 captions failed; run the same command again to try them again"
    assert list(Store.open(tmp_path / "s").captions()) == ["A cat", "A dog"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--cfg", "speed=9"], "--cfg speed: --recipe swap has no such option; its options: tagger, wordnet"),
        (["--cfg", "wordnet=9"], "--cfg wordnet=9: wordnet must be bool, not '9'"),
        (["--per-type", "0"], "--per-type 0: at least 1"),
        (
            ["--cfg", "tagger=en_core_web_xx"],
            "tagger=en_core_web_xx: spaCy has no such model; python -m spacy download en_core_web_xx, or use "
            "tagger=textblob",
        ),
    ],
)
def test_options(stop, arguments, expected):
    assert stop(*arguments) == expected


@pytest.mark.parametrize(
    ("content", "flags", "sentence"),
    [
        (
            "a|title\n1|A dog\n",
            ["--csv-separator", ","],
            "{}: with comma as separator its only column is 'a|title'; give --csv-separator '|'",
        ),
        (
            "a,title\n1,A dog\n",
            ["--csv-separator", "||"],
            r"--csv-separator '||': give one character: ',' or '\t' or '|' or ';'",
        ),
        (
            "a,b\n1,A dog\n",
            [],
            "{} has no column of captions, such as title, caption, captions; there are: a, b; name one with "
            "--caption-key",
        ),
        (
            "a,title\n1,A dog\n",
            ["--image-key", "image"],
            "{} has no column 'image'; there are: a, title",
        ),
        ("a,title\n1,A dog\n".encode("utf-16"), [], "{}: it is UTF-16 text; convert it to UTF-8"),
        (
            b"a,title\n1,caf\xe9\n",
            [],
            "{}, line 2: not UTF-8 text (byte 13 of the file); convert it to UTF-8",
        ),
        (
            'a,title\n1,"A dog\n',
            [],
            "{}, line 2: the quote that begins a field there is never closed; close it, and double the "
            "quotes inside quoted text",
        ),
    ],
)
def test_a_table_that_cannot_be_read(tmp_path, stop, content, flags, sentence):
    source = tmp_path / "c.csv"
    source.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert stop(*flags, source=source) == sentence.format(source)
    assert not (tmp_path / "s").exists()


def test_an_unknown_recipe_names_the_known_ones(stop):
    assert stop(recipe="swaps").startswith("--recipe swaps: no such generator (nearest: swap")


@pytest.mark.parametrize("shard", ["0/3", "4/3", "1", "a/b", "1/0"])
def test_a_shard_that_is_none(tmp_path, capsys, shard):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["negatives", "make", "c.csv", "--out", "s", "--recipe", "swap", "--shard", shard])
    assert stopped.value.code == 2
    assert f"expected I/N with 1 <= I <= N, got '{shard}'" in capsys.readouterr().err


def test_a_file_without_captions(tmp_path, stop):
    assert stop(source=write(tmp_path / "e.csv", [])) == f"{tmp_path}/e.csv: it has no captions"


def test_a_store_that_is_none(tmp_path, stop):
    (tmp_path / "s").write_text("precious")
    assert "not a negatives store" in stop()
    assert (tmp_path / "s").read_text() == "precious"


def test_other_settings_do_not_mix(tmp_path, capsys, stop):
    source = write(tmp_path / "c.csv", captions(3))
    make(capsys, source, tmp_path / "s")
    assert "seed: 0 there, 1 now" in stop("--seed", "1", "--cfg", "tagger=textblob")


def test_merging_what_is_no_store(tmp_path, capsys):
    (tmp_path / "text").write_text("no store")
    with pytest.raises(SystemExit) as stopped:
        cli.main(["negatives", "merge", str(tmp_path / "out"), str(tmp_path / "text")])
    assert stopped.value.code == 2
    assert "not a negatives store" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_captions_of_one_text_are_one(tmp_path):
    source = Source()
    for caption, image in (("a  dog", "1"), ("a dog\n", "2"), ("a cat", "2"), ("a dog", "")):
        source.add(caption, image)
    assert source.images == {"a dog": ["1", "2"], "a cat": ["2"]}
    assert source.others("a dog") == ["a cat"]
    assert source.rows == 4


def test_the_options_of_every_recipe_are_known_by_name():
    from open_clip_ext import plugins
    from open_clip_ext.negatives.records import GROUP

    known = plugins.entries(GROUP)
    assert set(OURS) <= set(known)
    for name in OURS:
        made = plugins.load(known, name, "--recipe", "generator")
        assert "seed" in plugins.options(made)
        with pytest.raises(InputError):
            plugins.parse_options(plugins.options(made), ["nothing=1"], "--cfg", name)
