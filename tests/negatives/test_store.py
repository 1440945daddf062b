"""The store: what goes in comes out, by any process, and nothing else passes for one."""

from __future__ import annotations

import contextlib
import pickle
import sqlite3
import subprocess
import sys
from multiprocessing import get_context
from pathlib import Path

import pytest
from support_negatives import content

from open_clip_ext.errors import InputError, TrainingError
from open_clip_ext.negatives import store as stores
from open_clip_ext.negatives import store_file
from open_clip_ext.negatives.merge import merge
from open_clip_ext.negatives.records import Candidate, Text
from open_clip_ext.negatives.store import Store, Writer

HERE = Path(__file__).parent
TYPES = ("swap_noun", "replace_noun")


def writer(path, generator="drawn", version="1", params=None, types=TYPES) -> Writer:
    return Writer(path, generator, version, params or {"seed": 0}, types)


def entry(i: int) -> tuple[str, list[Candidate]]:
    return f"a caption {i}", [
        Candidate("replace_noun", f"a picture {i}"),
        Candidate("swap_noun", f"caption a {i}", reason="identical"),
        Candidate("swap_noun", f"a title {i}", kind="pos"),
    ]


def fill(path, numbers, **options):
    with writer(path, **options) as open_writer:
        for i in numbers:
            open_writer.add(*entry(i), images=[f"{i}.jpg"])
    return path


def test_what_goes_in_comes_out(tmp_path):
    store = Store.open(fill(tmp_path / "s", range(3)))
    assert len(store) == 3
    assert list(store.captions()) == ["a caption 0", "a caption 1", "a caption 2"]
    assert store.texts("a caption 1", rejected=True) == [
        Text(c.type, c.text, c.kind, c.reason, generator="drawn") for c in entry(1)[1]
    ]
    assert [text.text for text in store.texts("a caption 1")] == ["a picture 1", "a title 1"]
    assert [text.text for text in store.texts("a caption 1", "neg")] == ["a picture 1"]
    assert [text.text for text in store.texts("a caption 1", "pos")] == ["a title 1"]
    assert store.texts("another caption") is None
    assert store.texts_by_type("another caption", TYPES) is None
    assert store.images("a caption 1") == ["1.jpg"]
    assert store.images("another caption") == []
    assert [caption for caption, _, _ in store.entries()] == list(store.captions())
    assert store.tally()["drawn", "swap_noun", "neg", "identical"] == 3


def test_types_are_those_with_valid_negatives_in_stored_order(tmp_path):
    with writer(tmp_path / "s") as first:
        first.add("c", [Candidate("replace_noun", "x"), Candidate("swap_noun", "y", kind="pos")])
    with writer(tmp_path / "s", generator="second", types=("swap_noun", "a")) as second:
        second.add("c", [Candidate("a", "z"), Candidate("swap_noun", "v")])
    store = Store.open(tmp_path / "s")
    assert store.types() == ("replace_noun", "swap_noun", "a")
    assert store.types("pos") == ("swap_noun",)
    assert [text.generator for text in store.texts("c")] == ["drawn", "drawn", "second", "second"]


@pytest.mark.parametrize("same", ["a  caption 1 ", "a\ncaption 1\n", "a caption\u00a01"])
def test_white_space_makes_no_difference(tmp_path, same):
    assert Store.open(fill(tmp_path / "s", [1])).texts(same)


def test_unicode_is_composed_and_case_kept(tmp_path):
    with writer(tmp_path / "s") as open_writer:
        open_writer.add("a cafe\u0301", [Candidate("swap_noun", "x \u2603 \U0001f600")])
    store = Store.open(tmp_path / "s")
    assert store.texts("a caf\u00e9")[0].text == "x \u2603 \U0001f600"
    assert store.texts("A caf\u00e9") is None


def test_captions_of_one_key_are_told_apart(tmp_path, monkeypatch):
    for module in (stores, store_file):
        monkeypatch.setattr(module, "key", lambda caption: 7)
    store = Store.open(fill(tmp_path / "s", range(3)))
    assert [store.texts(f"a caption {i}", "neg")[0].text for i in range(3)] == [
        f"a picture {i}" for i in range(3)
    ]
    assert store.texts("a caption 3") is None


def test_a_writer_goes_on(tmp_path):
    path = fill(tmp_path / "s", range(3))
    with writer(path) as again:
        assert again.finished("a caption 2")
        assert not again.finished("a caption 3")
        again.add(*entry(3), images=["3.jpg"])
    assert content(path) == content(fill(tmp_path / "whole", range(4)))


def test_another_generator_has_finished_nothing(tmp_path):
    path = fill(tmp_path / "s", range(3))
    with writer(path, generator="second") as second:
        assert not second.finished("a caption 1")
        second.add("a caption 1", [], images=["other.jpg", "1.jpg"])
    assert Store.open(path).images("a caption 1") == ["1.jpg", "other.jpg"]


def test_a_finished_store_is_one_plain_file(tmp_path):
    fill(tmp_path / "s", range(3))
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_a_store_is_read_where_nothing_can_be_written(tmp_path):
    path = fill(tmp_path / "s", range(3))
    path.chmod(0o444)
    tmp_path.chmod(0o555)
    try:
        assert len(Store.open(path)) == 3
    finally:
        tmp_path.chmod(0o755)
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def _look(store, results):
    results.put([store.texts(f"a caption {i}", "neg")[0].text for i in range(100)])


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_many_processes_read_at_once(tmp_path, start):
    store = Store.open(fill(tmp_path / "s", range(100)))
    store.texts("a caption 1")  # the connection is open here, and must not be used over there
    context = get_context(start)
    results = context.Queue()
    workers = [context.Process(target=_look, args=(store, results)) for _ in range(3)]
    for worker in workers:
        worker.start()
    found = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert found == [[f"a picture {i}" for i in range(100)]] * 3


def test_a_store_travels_as_its_path(tmp_path):
    store = Store.open(fill(tmp_path / "s", range(100)))
    assert len(pickle.dumps(store)) < 400
    assert pickle.loads(pickle.dumps(store)).types() == store.types()


def test_texts_added_together_come_all_or_not_at_all(tmp_path):
    path = tmp_path / "s"
    with writer(path) as open_writer:
        with open_writer.together():
            open_writer.add(*entry(1))
        with contextlib.suppress(ZeroDivisionError), open_writer.together():
            open_writer.add(*entry(2))
            1 / 0  # noqa: B018
    store = Store.open(path)
    assert list(store.captions()) == ["a caption 1"]
    assert store.tally() == Store.open(fill(tmp_path / "one", [1])).tally()


def test_merging_parts_gives_the_whole(tmp_path):
    parts = [fill(tmp_path / f"part{k}", range(k, 10, 3)) for k in range(3)]
    assert merge(tmp_path / "merged", parts) == (10, 0)
    assert content(tmp_path / "merged") == content(fill(tmp_path / "whole", range(10)))
    before = content(tmp_path / "merged")
    assert merge(tmp_path / "merged", parts) == (0, 10)
    assert content(tmp_path / "merged") == before


def test_merging_brings_generators_together(tmp_path):
    one, two = fill(tmp_path / "one", [1]), fill(tmp_path / "two", [1, 2], generator="second")
    merge(tmp_path / "merged", [one, two])
    store = Store.open(tmp_path / "merged")
    assert [maker.name for maker in store.generators()] == ["drawn", "second"]
    assert len(store.texts("a caption 1", rejected=True)) == 6


def test_merging_refuses_what_contradicts(tmp_path):
    one = fill(tmp_path / "one", [1])
    other_seed = fill(tmp_path / "seed", [2], params={"seed": 1})
    with pytest.raises(InputError, match=r"its drawn and that of .* differ \(seed: 0 there, 1 now\)"):
        merge(tmp_path / "merged", [one, other_seed])
    with writer(tmp_path / "texts") as open_writer:
        open_writer.add("a caption 1", [Candidate("swap_noun", "something else")])
    with pytest.raises(InputError, match=r"other texts of drawn than .* for the caption 'a caption 1'"):
        merge(tmp_path / "merged", [one, tmp_path / "texts"])
    assert content(tmp_path / "merged") == content(one)


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"version": "2"}, "version: '1' there, '2' now"),
        ({"params": {"seed": 1}}, "seed: 0 there, 1 now"),
        ({"params": {"seed": 0, "model": "m"}}, "model: None there, 'm' now"),
        ({"types": ("swap_noun",)}, r"types: \['swap_noun', 'replace_noun'\] there, \['swap_noun'\] now"),
    ],
)
def test_texts_made_in_two_ways_do_not_mix(tmp_path, change, difference):
    path = fill(tmp_path / "s", [1])
    with pytest.raises(InputError, match=difference):
        writer(path, **change)
    assert len(Store.open(path)) == 1


def test_two_writers_at_once(tmp_path):
    with writer(tmp_path / "s"):
        script = "import sys, test_store; test_store.writer(sys.argv[1])"
        second = subprocess.run(
            [sys.executable, "-c", script, tmp_path / "s"],
            cwd=HERE,
            capture_output=True,
            text=True,
            check=False,
        )
        with pytest.raises(InputError, match="it is not finished; wait for"):
            Store.open(tmp_path / "s")
    assert "another process is writing it" in second.stderr


def not_there(path):
    pass


def folder(path):
    path.mkdir()


def text(path):
    path.write_text("caption,negatives\n")


def empty(path):
    path.write_bytes(b"")


def other_database(path):
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE t (a)")


def later_version(path):
    fill(path, [1])
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 9")


def torn(path):
    fill(path, range(200))
    path.write_bytes(path.read_bytes()[:5000])


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (not_there, "no such file; make a store with"),
        (folder, "no such file; make a store with"),
        (text, "not a negatives store"),
        (empty, "not a negatives store"),
        (other_database, "not a negatives store"),
        (
            later_version,
            "a negatives store of format 9; this version reads formats up to 2, so update open_clip_ext",
        ),
        (torn, "it cannot be read"),
    ],
)
def test_what_is_no_store(tmp_path, make, sentence):
    path = tmp_path / "s"
    make(path)
    with pytest.raises(InputError, match=sentence):
        Store.open(path).texts("a caption 199")


@pytest.mark.parametrize("make", [text, other_database, later_version, folder])
def test_a_writer_leaves_what_is_no_store_alone(tmp_path, make):
    path = tmp_path / "s"
    make(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(InputError):
        writer(path)
    assert (path.read_bytes() if path.is_file() else None) == before


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="it cannot be written"):
        writer(tmp_path / "absent" / "s")


def test_a_full_disk_loses_nothing(tmp_path):
    script = """
import resource, sys
from test_store import writer, entry
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))
with writer(sys.argv[1]) as open_writer:
    for i in range(100_000):
        open_writer.add(*entry(i), images=[f"{i}.jpg"])
        print(i, flush=True)
"""
    path = tmp_path / "s"
    command = [sys.executable, "-c", script, path]
    full = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False, timeout=120)
    assert full.returncode != 0
    assert TrainingError.__name__ in full.stderr
    assert "every finished caption is safe" in full.stderr
    safe = len(full.stdout.split())
    assert safe > 30
    with writer(path) as again:
        assert all(again.finished(f"a caption {i}") for i in range(safe))
        assert not again.finished(f"a caption {safe}")
        for i in range(safe, safe + 10):
            again.add(*entry(i), images=[f"{i}.jpg"])
    assert content(path) == content(fill(tmp_path / "whole", range(safe + 10)))
