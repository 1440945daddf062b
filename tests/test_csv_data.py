"""CSV files as people have them: what cannot be trained on is named before the run, the rest read as is."""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import open_clip
import pytest
from open_clip_train import data as upstream
from PIL import Image
from support import photos, train_here, write_csv, write_shards

from open_clip_ext import _startup, cli
from open_clip_ext.data import CompanionCollate
from open_clip_ext.errors import InputError
from open_clip_ext.host.loaders import csv_data, images, truncation
from open_clip_ext.negatives.records import Candidate
from open_clip_ext.negatives.store import Writer

HEADER = ("filepath", "title")


@pytest.fixture
def refused(tmp_path, model, capsys):
    """The sentence that `doctor` and a run stop with, before the model is built."""

    def refused(*flags, option="--train-data") -> str:
        flags = ["--model", model, "--loss", "clip", *map(str, flags)]
        _startup.arm()  # once more, after a run in this process
        status = cli.main(
            ["doctor", "--", "--device", "cpu", "--logs", str(tmp_path / "logs"), "--name", "d", *flags]
        )
        found = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAIL  run: ")]
        assert (status, len(found)) == (1, 1)
        with pytest.raises(SystemExit) as stopped:
            train_here(tmp_path, *flags)
        assert stopped.value.code == 2
        assert not (tmp_path / "logs" / "run" / "out.log").exists()
        sentence = capsys.readouterr().err.strip().removeprefix("open_clip_ext: ")
        assert found == [f"FAIL  run: {sentence}"]
        return sentence

    return refused


@pytest.fixture
def rows(tmp_path) -> list[tuple[str, str]]:
    """Pictures and their captions."""
    for i, photo in enumerate(photos(8)):
        photo.image.save(tmp_path / f"{i}.png")
    return [(str(tmp_path / f"{i}.png"), photo.caption) for i, photo in enumerate(photos(8))]


def write(folder: Path, rows, header=HEADER, separator=",", name="data.csv") -> Path:
    path = folder / name
    path.write_text("".join(separator.join(row) + "\n" for row in [header, *rows]))
    return path


# --- the file ---


@pytest.mark.parametrize(
    ("separator", "flags", "sentence"),
    [
        ("|", [], "with tab as separator its only column is 'filepath|title'; give --csv-separator '|'"),
        (",", [], "with tab as separator its only column is 'filepath,title'; give --csv-separator ','"),
        (
            "| ",
            ["--csv-separator", "| "],
            "--csv-separator '| ' is a regular expression to pandas, in which | means 'or'; "
            r"give --csv-separator '\| '",
        ),
        (
            ",",
            ["--csv-separator", "|*"],
            "not a regular expression (nothing to repeat at position 1)",
        ),
    ],
)
def test_a_wrong_separator(tmp_path, refused, rows, separator, flags, sentence):
    path = write(tmp_path, rows, separator=separator)
    assert refused("--train-data", path, *flags).endswith(f": {sentence}")


@pytest.mark.parametrize(
    ("header", "flags", "sentence"),
    [
        (
            ("filepath", " title"),
            [],
            "has no column 'title'; its columns: filepath, ' title'; name one with --csv-caption-key",
        ),
        (
            HEADER,
            ["--csv-img-key", "image"],
            "has no column 'image'; its columns: filepath, title; name one with --csv-img-key",
        ),
        (
            HEADER,
            ["--loss", "negclip"],
            "has no column 'negatives'; its columns: filepath, title; name one with --negatives-key",
        ),
    ],
)
def test_a_missing_column(tmp_path, refused, rows, header, flags, sentence):
    path = write(tmp_path, rows, header)
    assert refused("--train-data", path, "--csv-separator", ",", *flags) == f"{path} {sentence}"


GOOD = "filepath,title\na.png,a dog\n"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", ": it is empty"),
        (b"filepath,title\n", ": it has a header, but no row"),
        (f"{GOOD}b.png,caf\u00e9\n".encode("latin-1"), ", line 3: not UTF-8 text (byte 36 of the file)"),
        (GOOD.encode("utf-16"), ": it is UTF-16 text"),
        (GOOD.encode("utf-16-le"), ": it seems to be UTF-16 text"),
        (gzip.compress(GOOD.encode()), ": it is compressed (gzip), not CSV text; unpack or convert it"),
        (f'{GOOD}b.png,"a cat\nc.png,a cow\n'.encode(), ", line 3: the quote that begins a field there"),
        (f"{GOOD}b.png,a cat, a cow\n".encode(), ", line 3: 3 fields, but the header has 2 columns"),
        (
            b"filepath,title\na.png,None\nb.png,\n",
            ": column 'title' has a caption in no row; name another one",
        ),
        (
            b"filepath,title\na.png,a dog,\nb.png,a cat,\n",
            ": column 'title' has a caption in no row (its rows have more fields than its header, so pandas "
            "takes the first ones for their names); name another one with --csv-caption-key",
        ),
    ],
    ids=[
        "empty",
        "no row",
        "latin",
        "utf-16",
        "without mark",
        "gzip",
        "quote",
        "fields",
        "no caption",
        "wide",
    ],
)
def test_a_file_that_cannot_be_read(tmp_path, refused, content, sentence):
    path = tmp_path / "data.csv"
    path.write_bytes(content)
    assert refused("--train-data", path, "--csv-separator", ",").startswith(f"{path}{sentence}")


def test_validation_data_are_looked_at_too(tmp_path, refused, csv_data):
    flags = ["--train-data", csv_data, "--csv-separator", ",", "--val-data"]
    path = tmp_path / "val.csv"
    assert refused(*flags, path) == f"--val-data {path}: there is no such file on this node"
    write(tmp_path, [("nowhere.png", "a dog")], name="val.csv")
    assert refused(*flags, path, "--skip-broken-images").startswith(
        f"{path}, data row 1: picture 'nowhere.png'"
    )


def test_a_name_that_does_not_tell_the_kind(tmp_path, refused, rows):
    path = write(tmp_path, rows, name="data.txt")
    assert refused("--train-data", path) == (
        f"--train-data {path}: its name does not tell what it is; give --dataset-type csv or webdataset"
    )


# --- what pandas reads is read ---


def arguments(path, **changed) -> argparse.Namespace:
    known = {"train_data": str(path), "csv_img_key": "filepath", "csv_caption_key": "title"}
    return argparse.Namespace(**{**known, "csv_separator": ",", "num_negatives": 0, **changed})


def test_cells_are_the_text_that_they_are(tmp_path):
    """File names and captions that pandas takes for numbers, truth values or missing ones."""
    many = 50_000  # pandas guesses anew for each part of a large file
    captions = ["None", "NA", "", "null", "007", "1.0", "TRUE", *["12"] * many, *["a dog"] * many]
    path = write(tmp_path, [(f"{i:06d}", caption) for i, caption in enumerate(captions)])
    args = arguments(path)
    with csv_data.as_text(args):
        dataset = upstream.CsvDataset(str(path), None, "filepath", "title", sep=",")
    assert list(dataset.captions) == captions
    assert dataset.images[7] == "000007"
    stock = upstream.CsvDataset(str(path), None, "filepath", "title", sep=",")
    assert [str(stock.captions[0]), str(stock.images[7])] == ["nan", "7"]


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ("filepath| title\na.png| a dog\n", {"csv_separator": "|", "csv_caption_key": " title"}),
        ("filepath| title\na.png| a dog\n", {"csv_separator": r"\| "}),
        ("filepath\ttitle\na.png\ta dog\n", {"csv_separator": r"\t"}),
        ("\ufefffilepath,title\r\na.png,a dog\r\n", {}),
        ("filepath,title\na.png\nb.png,a dog\n", {}),
        ("other,filepath\n0,a.png,a dog\n", {"csv_img_key": "other", "csv_caption_key": "filepath"}),
    ],
)
def test_whatever_pandas_accepts(tmp_path, text, changed):
    path = tmp_path / "data.csv"
    path.write_text(text)
    args = arguments(path, **changed)
    table = csv_data.read(str(path), args)
    assert table[args.csv_img_key].iloc[0] == "a.png"
    assert table[args.csv_caption_key].iloc[-1].strip() == "a dog"


@pytest.fixture
def trained_on(monkeypatch):
    """The captions that batches were made of."""
    captions: list[str] = []
    texts = CompanionCollate.texts

    def spy(self, given, companions):
        captions.extend(given)
        return texts(self, given, companions)

    monkeypatch.setattr(CompanionCollate, "texts", spy)
    return captions


@pytest.mark.parametrize("source", ["column", "store"])
def test_captions_that_say_that_there_is_none_are_kept_and_counted(tmp_path, model, trained_on, source):
    made = photos(8)
    for photo, caption in zip(made[2:], ["None", "NA", "", "2024"], strict=False):
        photo.caption = caption
    path = write_csv(tmp_path, made)
    flags = ["--train-data", path, "--csv-separator", ",", "--loss", "negclip"]
    if source == "store":
        with Writer(tmp_path / "store", "drawn", "1", {}, ["swap"]) as writer:
            for caption in {photo.caption for photo in made} - {""}:
                writer.add(caption, [Candidate("swap", f"no {caption}")])
        flags += ["--negatives", tmp_path / "store", "--num-negatives", 1]
    run = train_here(tmp_path, "--model", model, *flags)
    assert set(trained_on) == {photo.caption for photo in made}
    assert (
        f"{path}: 3 of 8 captions are empty or a word for a missing value, the first in data row 3: 'None'; "
        "they are trained on as they stand: fill them in or leave out their rows" in run.output
    )


def test_they_are_without_negatives_too(tmp_path, model, rows):
    rows[3] = rows[3][0], "nan"
    path = write(tmp_path, rows)
    run = train_here(
        tmp_path, "--model", model, "--train-data", path, "--csv-separator", ",", "--loss", "clip"
    )
    assert (
        "1 of 8 captions are empty or a word for a missing value, the first in data row 4: 'nan'"
        in run.output
    )


def test_a_quote_that_swallows_rows_is_told(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text('filepath,title\na.png,a dog\nb.png,"a cat\nc.png,a cow"\n')
    args = arguments(path)
    assert list(csv_data.doubts(csv_data.read(str(path), args), args)) == [
        f"{path}: 1 of 2 captions have several lines, the first in data row 2: 'a cat\\nc.png,a cow'; "
        "if those are rows, a quote was not closed"
    ]


LISTS = [
    '"[""a dog"", ""a cat""]"',
    "\"['a dog'\n 'a cat']\"",
    "\"('a dog', 'a cat')\"",
    "\"['a dog' 'a cat', 'a cow']\"",
]


@pytest.mark.parametrize("cell", LISTS)
def test_a_column_of_lists_of_captions(tmp_path, refused, rows, cell):
    path = write(tmp_path, [(picture, cell) for picture, _ in rows])
    text = cell[1:-1].replace('""', '"')
    assert refused("--train-data", path, "--csv-separator", ",") == (
        f"{path}, data row 1: the caption is a list, {text!r}; training reads one caption in a row: write a "
        "row for each"
    )


def test_a_single_list_among_captions_is_told(tmp_path):
    path = write(tmp_path, [("a.png", "a dog"), ("b.png", "['a cat' 'a cow']"), ("c.png", '(a "big" dog)')])
    args = arguments(path)
    assert list(csv_data.doubts(csv_data.read(str(path), args), args)) == [
        f"{path}: 1 of 3 captions are lists, the first in data row 2: \"['a cat' 'a cow']\"; each is trained "
        "on as one text: write a row for each caption"
    ]


# --- pictures ---


def broken(folder: Path, kind: str) -> str:
    """A picture of that kind; its path."""
    whole = folder / "0.png"
    path = folder / f"{kind}.png"
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        content = {"empty": b"", "text": b"hello", "cut off": whole.read_bytes()[:-40]}[kind]
        path.write_bytes(content)
    return str(path)


KINDS = {
    "missing": "does not exist on this node",
    "folder": "is a folder",
    "empty": "is empty",
    "text": "is no picture",
    "cut off": "cannot be read (",
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_that_cannot_be_read(tmp_path, refused, rows, kind):
    path = write(tmp_path, [*rows[:6], (broken(tmp_path, kind), "a dog"), *rows[6:]])
    sentence = refused("--train-data", path, "--csv-separator", ",")
    assert sentence.startswith(f"{path}, data row 7: picture '{tmp_path}/{kind}.png' {KINDS[kind]}")
    assert sentence.endswith(
        "; 1 of 9 pictures looked at cannot be read; repair them or leave out their rows, or skip them by "
        "--skip-broken-images"
    )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda path: f"{path} ", "does not exist; without the blanks around its name it does"),
        (lambda path: f"http://where{path}", "is an address; download the pictures first"),
        (
            lambda path: Path(path).name,
            "does not exist: relative paths start at the folder that the run is started in, {here}; start it "
            "in {folder}, where this one exists",
        ),
    ],
    ids=["blanks", "address", "relative"],
)
def test_no_picture_is_found(tmp_path, refused, rows, change, sentence):
    path = write(tmp_path, [(change(picture), caption) for picture, caption in rows])
    sentence = sentence.format(here=Path.cwd(), folder=tmp_path)
    assert refused("--train-data", path, "--csv-separator", ",").endswith(
        f"{sentence}; 8 of 8 pictures looked at cannot be read"
    )


def test_another_column_holds_the_pictures(tmp_path, refused, rows):
    path = write(tmp_path, rows, header=("title", "filepath"))
    assert refused("--train-data", path, "--csv-separator", ",").endswith(
        "8 of 8 pictures looked at cannot be read; is 'filepath' the column of paths (--csv-img-key)?"
    )


def test_relative_paths_start_where_the_run_is_started(tmp_path, rows, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert images.check([Path(picture).name for picture, _ in rows], tmp_path) == ({}, 8)


def test_many_are_looked_for_and_some_decoded(tmp_path, rows):
    found, looked = images.check(["nowhere.png"] * 100_000, tmp_path)
    assert looked == len(found) <= images.LOOKED_FOR + images.DECODED


def test_a_picture_too_large_to_decode(rows, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert "decompression bomb" in images.problem(rows[0][0], Path())


@pytest.fixture
def unseen(tmp_path, rows, monkeypatch):
    """Flags for data with two broken pictures, which are not among those looked at."""
    rows = [*rows, (broken(tmp_path, "text"), "a dog"), *rows, (broken(tmp_path, "missing"), "a cat")]
    monkeypatch.setattr(images, "check", lambda paths, folder: ({}, 0))
    return ["--train-data", write(tmp_path, rows), "--csv-separator", ",", "--loss", "clip"]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_picture_stops_the_run(tmp_path, model, unseen, capfd, workers):
    with pytest.raises(SystemExit) as stopped:
        train_here(tmp_path, "--model", model, *unseen, "--workers", workers, "--batch-size", 9)
    assert stopped.value.code == 2
    *_, sentence = (
        line for line in capfd.readouterr().err.splitlines() if line.startswith("open_clip_ext: ")
    )
    assert f"{tmp_path}/data.csv, data row " in sentence
    assert sentence.endswith(
        "; repair it or leave out the row and go on from the last checkpoint, or skip such pictures by "
        "--skip-broken-images"
    )


def test_broken_pictures_are_skipped_if_asked_for(tmp_path, model, unseen):
    flags = [*unseen, "--skip-broken-images", "--batch-size", 9]
    runs = [train_here(tmp_path, "--model", model, *flags, "--workers", n, name=str(n)) for n in (0, 2)]
    for run in runs:  # 18 rows give two batches all the same
        assert len(run.values("loss")) == 2
        assert "epoch 0: 2 broken samples or files were skipped" in run.output
    assert runs[0].values("loss") == runs[1].values("loss")


class Samples(list):
    """Upstream's dataset, in which a picture that is no file cannot be read."""

    images = property(list)

    def __getitem__(self, row):
        path = super().__getitem__(row)
        Image.open(path).load()
        return path


def test_the_next_row_takes_the_place(rows):
    a, b = rows[0][0], rows[1][0]
    skipped = []
    samples = images.ReadableImages(Samples([a, "x", "y", b, "z"]), "data.csv", skipped.append)
    assert [samples[i] for i in range(5)] == [a, b, b, b, a]
    assert sum(skipped) == 4


def test_a_run_does_not_go_on_without_pictures():
    samples = images.ReadableImages(Samples(["x"] * 200), "data.csv", lambda number: None)
    with pytest.raises(InputError, match=r"data row 50: picture 'x' does not .* 99 rows before"):
        samples[150]


def test_what_is_not_a_picture_s_fault_keeps_its_traceback(rows):
    class Faulty(Samples):
        def __getitem__(self, row):
            raise KeyError("transform")

    with pytest.raises(KeyError, match="transform"):
        images.ReadableImages(Faulty([rows[0][0]]), "data.csv", None)[0]


# --- what the tokenizer leaves ---

TOKENIZE = open_clip.get_tokenizer("ViT-B-32", context_length=16)
CAPTION = "a dog " * 7  # and two more tokens


def test_texts_that_are_cut_are_counted():
    captions = [CAPTION, f"{CAPTION} runs", "a dog"]
    longest = f"{CAPTION} a b c"
    negatives = [[longest, "a cat"], [f"{CAPTION} sleeps", ""], ["a cat", "A DOG"]]
    assert sorted(truncation.describe(TOKENIZE, captions, {"neg": negatives}, "data.csv")) == [
        f"data.csv: 1 of 3 captions looked at are cut after 16 tokens; the longest has 17: {captions[1]!r}",
        f"data.csv: 2 of 5 negatives looked at are cut after 16 tokens; the longest has 19: {longest!r}",
        "data.csv: 3 of 5 negatives looked at are to the tokenizer the same as their caption (they differ "
        "behind the cut, in upper case alone, or not at all) and count as missing",
    ]


def test_nothing_is_said_of_texts_that_fit():
    assert list(truncation.describe(TOKENIZE, ["a dog", CAPTION], {"neg": [["a cat"], []]}, "data.csv")) == []


def test_a_part_of_many_texts_is_looked_at(monkeypatch):
    monkeypatch.setattr(truncation, "TEXTS", 10)
    told = list(
        truncation.describe(TOKENIZE, ["a dog"] * 100, {"neg": [["a cat", "A dog"]] * 100}, "data.csv")
    )
    assert told[0].startswith("data.csv: 3 of 6 negatives looked at are ")


@pytest.mark.parametrize("source", ["column", "store"])
def test_a_run_tells_what_is_cut(tmp_path, model, source):
    made = photos(8)
    for i, photo in enumerate(made):
        photo.caption = f"{CAPTION} {i}"
        photo.negatives = [f"{CAPTION} {i} no", "a cat"]
    path = write_csv(tmp_path, made)
    flags = ["--train-data", path, "--csv-separator", ",", "--loss", "negclip", "--num-negatives", 2]
    if source == "store":
        with Writer(tmp_path / "store", "drawn", "1", {}, ["a", "b"]) as writer:
            for photo in made:
                writer.add(
                    photo.caption, [Candidate(*pair) for pair in zip("ab", photo.negatives, strict=True)]
                )
        flags += ["--negatives", tmp_path / "store"]
    run = train_here(tmp_path, "--model", model, *flags)
    assert f"{path}: 8 of 8 captions looked at are cut after 16 tokens; the longest has 17: " in run.output
    assert f"{path}: 8 of 16 negatives looked at are to the tokenizer the same as their caption" in run.output


def test_a_run_tells_what_is_cut_without_negatives(tmp_path, model, rows):
    rows[0] = rows[0][0], f"{CAPTION} runs"
    path = write(tmp_path, rows)
    run = train_here(
        tmp_path, "--model", model, "--train-data", path, "--csv-separator", ",", "--loss", "clip"
    )
    assert f"{path}: 1 of 8 captions looked at are cut after 16 tokens; the longest has 17: " in run.output


def test_negatives_that_all_differ_behind_the_cut(tmp_path, model, capsys):
    made = photos(8)
    for photo in made:
        photo.caption, photo.negatives = f"{CAPTION} runs", [f"{CAPTION} sleeps"]
    flags = ["--train-data", write_csv(tmp_path, made), "--csv-separator", ",", "--num-negatives", 1]
    with pytest.raises(SystemExit) as stopped:
        train_here(tmp_path, "--model", model, *flags, "--loss", "negclip")
    assert stopped.value.code == 2
    sentence = capsys.readouterr().err.strip()
    assert sentence.endswith(
        "photos.csv: 8 of 8 negatives looked at are to the tokenizer the same as their caption (they differ "
        "behind the cut, in upper case alone, or not at all); shorten the captions, or make negatives that "
        "change their beginning"
    )


@pytest.mark.parametrize("loss", ["negclip", "clip"])
def test_shards_are_looked_at_too(tmp_path, model, loss):
    made = photos(16)
    for photo in made:
        photo.caption, photo.negatives = f"{CAPTION} runs", [f"{CAPTION} sleeps", "a cat"]
    shards = write_shards(tmp_path / "shards", made)
    flags = [
        "--train-data",
        shards,
        "--dataset-type",
        "webdataset",
        "--train-num-samples",
        16,
        "--loss",
        loss,
    ]
    run = train_here(
        tmp_path, "--model", model, *flags, *(["--num-negatives", 2] if loss == "negclip" else [])
    )
    assert "16 of 16 captions looked at are cut after 16 tokens; the longest has 17: " in run.output
    assert ("16 of 32 negatives looked at are to the tokenizer the same" in run.output) == (loss == "negclip")
