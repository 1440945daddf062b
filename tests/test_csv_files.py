"""CSV files: the rows that pandas reads, and one sentence for what pandas cannot read."""

from __future__ import annotations

import gzip

import pandas as pd
import pytest

from open_clip_ext.csv_files import check, one_character, rows, separator
from open_clip_ext.errors import InputError


def written(path, content):
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("content", "char"),
    [
        ("filepath,title\na.jpg,A dog.\n", ","),
        ("image| comment\na.jpg| A dog .\n", "|"),
        ("a;b\n1;2", ";"),
        ('a\tb\n1\t"a ""big"" dog"\n', "\t"),
        ('a,b\n1,"two\nlines"\n2,"x"y\n', ","),
        ("a,b\n\n   \n1\n2,\n", ","),
        ("\ufeffa,b\r\n1,caf\u00e9\r\n", ","),
        ("a,b\n0,1,2\n3,4,5\n6\n", ","),  # the first of three fields is an index
        ("a,b\n", ","),
    ],
)
def test_the_rows_are_those_of_pandas(tmp_path, content, char):
    path = written(tmp_path / "c.csv", content)
    table = pd.read_csv(path, sep=char, dtype=str, keep_default_na=False)
    assert check(path, char) == list(table.columns)
    found = [fields for _, fields in rows(path, char, index=True)][1:]
    wide = max([len(table.columns), *map(len, found)])
    padded = [[*fields, *[""] * (wide - len(fields))] for fields in found]
    assert [fields[-len(table.columns) :] for fields in padded] == table.fillna("").values.tolist()


def test_lines_are_counted_as_an_editor_counts_them(tmp_path):
    path = written(tmp_path / "c.csv", 'a,b\n\n1,"two\nlines"\n2,3\n')
    assert [line for line, _ in rows(path, ",")] == [1, 3, 5]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "{}: it is empty"),
        ("\n\n", "{}: it is empty"),
        (
            b"a,b\n1,x\n2,caf\xe9\n",
            "{}, line 3: not UTF-8 text (byte 13 of the file); convert it to UTF-8",
        ),
        ("a,b\n1,x\n".encode("utf-16"), "{}: it is UTF-16 text; convert it to UTF-8"),
        ("a,b\n1,x\n".encode("utf-32"), "{}: it is UTF-32 text; convert it to UTF-8"),
        ("a,b\n1,x\n".encode("utf-16-le"), "{}: it seems to be UTF-16 text; convert it to UTF-8"),
        (
            'a,b\n1,x\n2,"y\n3,z\n',
            "{}, line 3: the quote that begins a field there is never closed; close it, and double the "
            "quotes inside quoted text",
        ),
        (
            '"a\nb",c\n"1\n2","',
            "{}, line 4: the quote that begins a field there is never closed; close it, and double the "
            "quotes inside quoted text",
        ),
        (
            "a,b\n1,A dog\n2,A cat, a dog\n",
            "{}, line 3: 3 fields, but the header has 2 columns; put text that contains a comma in quotes",
        ),
        (
            "a|b\n1|x\n",
            "{}: with comma as separator its only column is 'a|b'; give --csv-separator '|'",
        ),
        (
            "a\tb\n1\tx, y, z\n",
            r"{}: with comma as separator its only column is 'a\tb'; give --csv-separator '\t'",
        ),
    ],
)
def test_what_pandas_cannot_read_is_one_sentence(tmp_path, content, sentence):
    path = written(tmp_path / "c.csv", content)
    with pytest.raises(InputError) as stopped:
        check(path, ",")
    assert str(stopped.value) == sentence.format(path)


def test_where_pandas_takes_an_index_is_for_the_caller_to_say(tmp_path):
    path = written(tmp_path / "c.csv", "a,b\n1,A cat, a dog\n2,A dog\n")
    assert check(path, ",") == ["a", "b"]
    with pytest.raises(InputError, match="line 2: 3 fields, but the header has 2 columns"):
        list(rows(path, ","))


def test_a_file_that_pandas_decompresses(tmp_path):
    (tmp_path / "c.csv.gz").write_bytes(gzip.compress(b"a,b\n1,x\n"))
    assert check(tmp_path / "c.csv.gz", ",") == ["a", "b"]
    (tmp_path / "d.csv.gz").write_bytes(b"no archive")
    with pytest.raises(InputError, match=r"d.csv.gz: it cannot be read \(Not a gzipped file"):
        check(tmp_path / "d.csv.gz", ",")


def test_a_separator_of_several_characters_is_pandas_own_matter(tmp_path):
    path = written(tmp_path / "c.csv", 'a || b\n1 || "x\n')
    assert check(path, r"\s*\|\|\s*") == ["a", "b"]
    with pytest.raises(InputError, match="line 1: not UTF-8 text"):
        check(written(tmp_path / "d.csv", b"a || \xe9\n"), r"\s*\|\|\s*")
    with pytest.raises(InputError, match=r"--csv-separator '\*\*': not a regular expression"):
        check(path, "**")
    with pytest.raises(InputError) as stopped:
        check(written(tmp_path / "e.csv", "a,b\n1,x\n"), ", ")
    assert str(stopped.value) == (
        f"{tmp_path}/e.csv: with ', ' as separator its only column is 'a,b'; give --csv-separator ','"
    )


@pytest.mark.parametrize(
    ("header", "char"),
    [
        ("filepath,title", ","),
        ("filepath\ttitle", "\t"),
        ("image| n| title", "|"),
        ("file;title", ";"),
        ("title", ","),
        ("filepath,title,a|b", ","),
        ('"a, b"\ttitle', "\t"),
    ],
)
def test_the_separator_is_found_in_the_header(tmp_path, header, char):
    path = written(tmp_path / "c.csv", header + "\n")
    assert separator(path, lambda columns: "title" in (name.strip() for name in columns)) == char


def test_a_separator_that_is_not_certain_is_asked_for(tmp_path):
    path = written(tmp_path / "c.csv", "one,two|three\n")
    with pytest.raises(InputError) as stopped:
        separator(path, lambda columns: "title" in columns)
    assert str(stopped.value) == (
        f"{path}: its separator may be comma or pipe; give --csv-separator ',' or '|'"
    )


def test_a_separator_as_a_shell_passes_it():
    assert [one_character(given) for given in (",", "|", "\t", r"\t")] == [",", "|", "\t", "\t"]
    for given in ("", "||", '"', "\n"):
        with pytest.raises(InputError, match=r"--csv-separator .* give one character: ',' or '\\t' or"):
            one_character(given)
