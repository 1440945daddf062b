"""Captions from every kind of file, and one sentence for each that cannot be read."""

from __future__ import annotations

import csv
import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from support import add_file

from open_clip_ext.csv_files import one_character
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
            "{} has no column of captions, such as title, caption, captions; there are: a, b; "
            "name one with --caption-key",
        ),
        ("c.csv", lambda p: p.write_text(""), "{}: it is empty"),
        (
            "c.csv",
            lambda p: p.write_text("filepath,title\na.jpg,a dog\nb.jpg\n"),
            "{}, line 3: fewer fields than the header has columns; complete the row or leave it out",
        ),
        (
            "c.csv",
            lambda p: p.write_bytes(b"title\n\xff\xfe\n"),
            "{}, line 2: not UTF-8 text (byte 6 of the file); convert it to UTF-8",
        ),
        (
            "c.csv",
            lambda p: p.write_bytes("filepath,title\na.jpg,a dog\n".encode("utf-16")),
            "{}: it is UTF-16 text; convert it to UTF-8",
        ),
        (
            "c.json",
            lambda p: p.write_bytes(b'[{"caption": "caf\xe9"}]'),
            "{}, line 1: not UTF-8 text (byte 17 of the file); convert it to UTF-8",
        ),
        (
            "c.csv",
            lambda p: p.write_text('filepath,title\na.jpg,"a dog\nb.jpg,a cat\n'),
            "{}, line 2: the quote that begins a field there is never closed; close it, and double the "
            "quotes inside quoted text",
        ),
        (
            "c.csv",
            lambda p: p.write_text("filepath,title\na.jpg,a dog, a cat\n"),
            "{}, line 2: 3 fields, but the header has 2 columns; put text that contains a comma in quotes",
        ),
        (
            "c.csv",
            lambda p: p.write_text("one|two,three\n"),
            "{}: its separator may be comma or pipe; give --csv-separator ',' or '|'",
        ),
        (
            "c.jsonl",
            lambda p: p.write_text('{"caption": "a dog"}\n{"caption": \n'),
            "{}, line 2: not JSON (Expecting value)",
        ),
        (
            "c.jsonl",
            lambda p: p.write_text('["a dog"]\n'),
            "{}, line 1: expected an object, got list ['a dog']",
        ),
        (
            "c.jsonl",
            lambda p: p.write_text('{"a": 1}\n'),
            "{}, line 1 has no key of captions, such as title, caption, captions; there are: a; "
            "name one with --caption-key",
        ),
        ("c.json", lambda p: p.write_text('{"annotations": [\n}'), "{}, line 2: not JSON (Expecting value)"),
        (
            "c.json",
            lambda p: p.write_text("{}"),
            "{}: expected COCO captions (an object with `annotations`) or a list of objects",
        ),
        (
            "c.json",
            lambda p: p.write_text('{"images": ["a.jpg"], "annotations": []}'),
            "{}, image 1: expected an object, got str 'a.jpg'",
        ),
        (
            "c.json",
            lambda p: p.write_text('[{"image": ["a.jpg"], "caption": "a dog"}]'),
            "{}, item 1, image: expected the name of a picture, got list ['a.jpg']",
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


LISTS = [["A dog.", "A brown dog."], "A cat.", None, ["A bird."]]
OF_LISTS = [
    Row("A dog.", "0.jpg"),
    Row("A brown dog.", "0.jpg"),
    Row("A cat.", "1.jpg"),
    Row("", "2.jpg"),
    Row("A bird.", "3.jpg"),
]


def objects(values):
    return [{"image": f"{i}.jpg", "caption": value} for i, value in enumerate(values)]


def write_coco(path, values):
    images = [{"id": i, "file_name": f"{i}.jpg"} for i in range(len(values))]
    annotations = [{"image_id": i, "caption": value} for i, value in enumerate(values)]
    path.write_text(json.dumps({"images": images, "annotations": annotations}))


def write_cells(path, values, show=json.dumps):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["filepath", "raw"])
        for i, value in enumerate(values):
            writer.writerow([f"{i}.jpg", show(value) if isinstance(value, list) else value])


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("c.json", lambda path, values: path.write_text(json.dumps(objects(values)))),
        ("coco.json", write_coco),
        ("c.jsonl", lambda path, values: path.write_text("\n".join(map(json.dumps, objects(values))))),
        ("json.csv", write_cells),
        ("python.csv", lambda path, values: write_cells(path, values, str)),
        ("numpy.csv", lambda path, values: write_cells(path, values, lambda value: str(np.array(value)))),
    ],
)
def test_a_list_is_so_many_captions_of_one_picture(tmp_path, name, write):
    write(tmp_path / name, LISTS)
    assert list(read(str(tmp_path / name))) == OF_LISTS


def test_ids_that_pandas_has_made_decimal(tmp_path):
    """One missing value makes a column of whole numbers one of floats."""
    path = tmp_path / "c.json"
    images = [{"id": 7, "file_name": "a.jpg"}, {"id": 8.0, "file_name": "b.jpg"}]
    annotations = [{"image_id": 7.0, "caption": "A dog."}, {"image_id": 8, "caption": "A cat."}]
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    assert list(read(str(path))) == [Row("A dog.", "a.jpg"), Row("A cat.", "b.jpg")]


@pytest.mark.parametrize("kind", ["string", "binary"])
def test_a_list_column_of_parquet(tmp_path, kind):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    lists = [value if value is None or isinstance(value, list) else [value] for value in LISTS]
    text = getattr(pyarrow, kind)()
    columns = {
        # As the datasets library stores pictures.
        "image": pyarrow.array(
            [{"bytes": b"\xff\xd8", "path": f"{i}.jpg"} for i in range(len(LISTS))],
            pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()}),
        ),
        "caption": pyarrow.array(lists, pyarrow.list_(text)),
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "c.parquet")
    assert list(read(str(tmp_path / "c.parquet"))) == OF_LISTS


def test_a_list_in_the_json_of_a_sample(tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        add_file(tar, "0.json", json.dumps({"caption": ["A dog.", "A brown dog."]}).encode())
        add_file(tar, "1.txt", b"['A cat.' 'A bird.']")
    found = list(read(f"{tmp_path}/0.tar"))
    assert [row.caption for row in found] == ["A dog.", "A brown dog.", "A cat.", "A bird."]
    # Its picture has no name, but it is the same.
    assert found[0].others == ("A dog.", "A brown dog.")


@pytest.mark.parametrize(
    ("value", "got"),
    [
        (7, "int 7"),
        (True, "bool True"),
        (float("nan"), "float nan"),
        ({"raw": "A dog."}, "dict {'raw': 'A dog.'}"),
        ([["A dog."]], "list in a list: [['A dog.']]"),
        (["A dog.", 7], "int in a list: ['A dog.', 7]"),
        ("[{'raw': 'A dog.'}]", "\"[{'raw': 'A dog.'}]\""),
    ],
)
def test_a_caption_of_another_type_stops_with_its_place(tmp_path, value, got):
    items, lines = tmp_path / "c.json", tmp_path / "c.jsonl"
    items.write_text(json.dumps(objects(["A cat.", value])))
    lines.write_text("\n".join(map(json.dumps, objects(["A cat.", value]))))
    with tarfile.open(tmp_path / "c.tar", "w") as tar:
        add_file(tar, "0.json", json.dumps({"caption": value}).encode())
    for path, place in ((items, "item 2"), (lines, "line 2"), (tmp_path / "c.tar", "sample /0, field json")):
        with pytest.raises(InputError) as stopped:
            list(read(str(path)))
        assert (
            str(stopped.value) == f"{path}, {place}, caption: expected a text or a list of texts, got {got}"
        )


def test_a_parquet_column_of_another_type(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "c.parquet"
    parquet.write_table(pyarrow.table({"caption": [None, 7]}), path)
    with pytest.raises(InputError, match=r"c.parquet, row 2, caption: expected a text or .*, got int 7"):
        list(read(str(path)))
    parquet.write_table(pyarrow.table({"caption": [b"a dog", b"\xff"]}), path)
    with pytest.raises(InputError, match=r"c.parquet, row 2, caption: .* got bytes that are not UTF-8"):
        list(read(str(path)))


def test_a_number_may_name_a_picture(tmp_path):
    (tmp_path / "c.jsonl").write_text('{"image_id": 7, "caption": "a dog"}\n')
    assert list(read(str(tmp_path / "c.jsonl"), image_key="image_id")) == [Row("a dog", "7")]


@pytest.mark.parametrize(
    ("header", "line", "separator"),
    [
        ("image_name| comment_number| comment", "a.png| 0| A dog runs .", ""),
        ("image_name| comment_number| comment", "a.png| 0| A dog runs .", "|"),
        ("Image;Caption", "a.png;A dog runs .", ""),
        ("file_name\ttext", "a.png\tA dog runs .", "\\t"),
        ("filename,sentence,a|b", "a.png,A dog runs .,c", ""),
        ("filepath,caption", '" a.png "," A dog runs . "', ","),
    ],
)
def test_separators_blanks_and_names_as_people_have_them(tmp_path, header, line, separator):
    (tmp_path / "c.csv").write_text(f"{header}\n{line}\n")
    (row,) = read(str(tmp_path / "c.csv"), separator=one_character(separator) if separator else "")
    assert (row.caption.strip(), row.image) == ("A dog runs .", "a.png")


def test_a_column_is_named_without_the_blanks_around_it(tmp_path):
    (tmp_path / "c.csv").write_text("where| n| what\na.png| 0| A dog\n")
    assert list(read(str(tmp_path / "c.csv"), "what", "where")) == [Row(" A dog", "a.png")]
    with pytest.raises(InputError, match=r"c.csv has no column 'who'; there are: where, n, what"):
        list(read(str(tmp_path / "c.csv"), "who"))


def test_a_separator_that_does_not_separate(tmp_path):
    as_csv(tmp_path / "c.csv")
    with pytest.raises(InputError, match="with pipe as separator its only column is 'filepath,title'; give"):
        list(read(str(tmp_path / "c.csv"), separator="|"))
    as_jsonl(tmp_path / "c.jsonl")
    with pytest.raises(InputError, match=r"--csv-separator '\|': .*c.jsonl is no .csv or .tsv file"):
        list(read(str(tmp_path / "c.jsonl"), separator="|"))


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
