"""Captions from every kind of file, and one sentence for each that cannot be read."""

from __future__ import annotations

import csv
import io
import json
import os
import tarfile
from pathlib import Path

import pytest
from support import add_file

from open_clip_ext.errors import InputError
from open_clip_ext.negatives.captions import Row, read

ROWS = [Row('a "dog", a cat', "1.jpg"), Row("two\ncats \u2603", "2.jpg"), Row("", "2.jpg")]


def as_csv(path, separator=",", header=("filepath", "title"), encoding="utf-8"):
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.writer(file, delimiter=separator)
        writer.writerows([header, *((row.image, row.caption) for row in ROWS)])


def as_parquet(path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pyarrow.table(
        {"caption": [r.caption for r in ROWS], "image": [r.image for r in ROWS], "x": [1, 2, 3]}
    )
    parquet.write_table(table, path)


def as_coco(path):
    images = [{"id": 7, "file_name": "1.jpg"}, {"id": 8, "file_name": "2.jpg"}]
    ids = {"1.jpg": 7, "2.jpg": 8}
    annotations = [{"id": i, "image_id": ids[r.image], "caption": r.caption} for i, r in enumerate(ROWS)]
    path.write_text(json.dumps({"info": {}, "images": images, "annotations": annotations}))


def as_list(path):
    path.write_text(json.dumps([row._asdict() for row in ROWS]))


def as_jsonl(path):
    path.write_text("\n".join(json.dumps(row._asdict()) for row in ROWS) + "\n\n")


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("c.csv", as_csv),
        ("c.tsv", lambda path: as_csv(path, "\t")),
        ("tabs.csv", lambda path: as_csv(path, "\t")),
        ("mark.csv", lambda path: as_csv(path, encoding="utf-8-sig")),
        ("c.parquet", as_parquet),
        ("coco.json", as_coco),
        ("list.json", as_list),
        ("c.jsonl", as_jsonl),
    ],
)
def test_a_file(tmp_path, name, write):
    write(tmp_path / name)
    assert list(read(str(tmp_path / name))) == ROWS


def shard(path, fields):
    with tarfile.open(path, "w") as tar:
        for i, row in enumerate(ROWS):
            for name, content in fields(row).items():
                add_file(tar, f"sub.dir/{i:05d}.{name}", content)


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        (lambda row: {"jpg": b"x", "txt": row.caption.encode()}, ""),
        (lambda row: {"jpg": b"x", "json": json.dumps({"caption": row.caption}).encode()}, ""),
        (lambda row: {"jpg": b"x", "txt": b"no", "alt.txt": row.caption.encode()}, "alt.txt"),
        (lambda row: {"jpg": b"x", "json": json.dumps({"alt": row.caption}).encode()}, "alt"),
    ],
)
def test_webdataset_shards(tmp_path, fields, key):
    for name in ("0.tar", "1.tar"):
        shard(tmp_path / name, fields)
    found = list(read(f"{tmp_path}/{{0..1}}.tar", caption_key=key))
    assert [row.caption for row in found] == [row.caption for row in ROWS] * 2


def test_columns_by_name(tmp_path):
    as_csv(tmp_path / "c.csv", header=("where", "what"))
    assert list(read(str(tmp_path / "c.csv"), "what", "where")) == ROWS
    assert [row.image for row in read(str(tmp_path / "c.csv"), "what")] == ["", "", ""]


def test_a_field_as_long_as_a_book(tmp_path):
    (tmp_path / "c.csv").write_text("title\n" + "a dog " * 50_000 + "\n")
    assert len(next(read(str(tmp_path / "c.csv"))).caption) == 300_000


def broken_shard(path):
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as tar:
        add_file(tar, "0.txt", b"a dog " * 1000)
    path.write_bytes(whole.getvalue()[:2000])


@pytest.mark.parametrize(
    ("name", "write", "sentence"),
    [
        ("c.csv", None, "{}: no such file"),
        ("0.tar", None, "{}: no such file"),
        (
            "c.txt",
            lambda p: p.write_text("a dog"),
            "{}: captions are read from .csv, .tsv, .json, .jsonl, .parquet and .tar, not '.txt'",
        ),
        (
            "c.csv",
            lambda p: p.write_text("a,b\n1,2\n"),
            "{} has no column title or caption or text or txt; there are: a, b; name one with --caption-key",
        ),
        (
            "c.csv",
            lambda p: p.write_text(""),
            "{} has no column title or caption or text or txt; there are: ; name one with --caption-key",
        ),
        (
            "c.csv",
            lambda p: p.write_text("filepath,title\na.jpg,a dog\nb.jpg\n"),
            "{}, line 3: fewer fields than the header has columns",
        ),
        (
            "c.csv",
            lambda p: p.write_bytes(b"title\n\xff\xfe\n"),
            "{}: not UTF-8 text (byte 6); convert it first",
        ),
        (
            "c.jsonl",
            lambda p: p.write_text('{"caption": "a dog"}\n{"caption": \n'),
            "{}, line 2: not JSON (Expecting value)",
        ),
        (
            "c.jsonl",
            lambda p: p.write_text('["a dog"]\n'),
            "{}, line 1: expected an object, got \"['a dog']\"",
        ),
        (
            "c.jsonl",
            lambda p: p.write_text('{"a": 1}\n'),
            "{}, line 1 has no key title or caption or text or txt; "
            "there are: a; name one with --caption-key",
        ),
        ("c.json", lambda p: p.write_text('{"annotations": [\n}'), "{}, line 2: not JSON (Expecting value)"),
        (
            "c.json",
            lambda p: p.write_text("{}"),
            "{}: expected COCO captions (an object with `annotations`) or a list of objects",
        ),
        ("c.parquet", lambda p: p.write_bytes(b"no parquet"), "{}: not a Parquet file ("),
        ("0.tar", lambda p: p.write_bytes(b"no tar" * 500), "{}: not a whole tar file ("),
        ("0.tar", broken_shard, "{}: not a whole tar file ("),
        (
            "0.tar",
            lambda p: shard(p, lambda row: {"jpg": b"x"}),
            "{}, sample sub.dir/00000: no field 'txt'; its fields: jpg; name one with --caption-key",
        ),
        (
            "0.tar",
            lambda p: shard(p, lambda row: {"json": b"{"}),
            "{}, sample sub.dir/00000: its json cannot be read (",
        ),
    ],
)
def test_what_cannot_be_read(tmp_path, name, write, sentence):
    if write:
        write(tmp_path / name)
    with pytest.raises(InputError) as stopped:
        list(read(str(tmp_path / name)))
    assert str(stopped.value).startswith(sentence.format(tmp_path / name))


def test_a_column_that_is_not_there(tmp_path):
    as_csv(tmp_path / "c.csv")
    for keys, name in ((("x", ""), "x"), (("", "y"), "y")):
        with pytest.raises(InputError, match=f"c.csv has no column '{name}'; there are: filepath, title"):
            list(read(str(tmp_path / "c.csv"), *keys))


@pytest.mark.skipif(
    "OPEN_CLIP_EXT_ANNOTATIONS" not in os.environ,
    reason="set OPEN_CLIP_EXT_ANNOTATIONS to a folder with negclip_tsv/valid_neg_clip.tsv",
)
def test_a_real_tsv():
    path = Path(os.environ["OPEN_CLIP_EXT_ANNOTATIONS"]) / "negclip_tsv" / "valid_neg_clip.tsv"
    rows = list(read(str(path)))
    assert len(rows) == 4839
    assert all(row.caption and row.image for row in rows)
