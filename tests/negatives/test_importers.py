"""What the authors released comes into a store; what is no data of theirs is refused."""

from __future__ import annotations

import ast
import csv
import io
import json
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from open_clip_ext.cli import main
from open_clip_ext.errors import InputError
from open_clip_ext.negatives import plain_pickle
from open_clip_ext.negatives.records import Text, normalise
from open_clip_ext.negatives.store import Store

DEGLA = [
    {
        "image_id": 318556,
        "original": "A black cat sits on a white sofa.",
        "enhanced": [
            "A white sofa sits on a black cat.",
            "A black sofa sits on a white cat.",
            "A white cat sits on a black sofa.",
            "A grey cat sits on a white sofa.",
            "A black dog sits on a white sofa.",
        ],
    },
    {"image_id": 7, "original": "A red bus.", "enhanced": ["A red bus", "", "", "A blue bus."]},
]
CE_CLIP = [
    {
        "id": 1,
        "image_id": 318556,
        "caption": "A woman feeds a small horse.",
        "relation_aug_caption": "A horse feeds a small woman.",
        "adj_aug_caption": "A woman feeds a large horse.",
        "noun_aug_caption": "A woman feeds a small goat.",
        "verb_aug_caption": "###",
        "valid_caption": [1, 1, 1, 1, 0],
    }
]
NEGCLIP = (
    "\ttitle\tfilepath\tneg_caption\tneg_image\n"
    "0\tA dog chases a cat .\tcoco/1.jpg\t['A cat chases a dog .', 'a dog chases a cat']\t[1]\n"
    "1\tA man's hat is red .\tcoco/2.jpg\t[\"A hat's man is red .\"]\t[0]\n"
    "2\tA dog chases a cat .\tcoco/3.jpg\t['A cat chases a dog .']\t[0]\n"
)
SUGARCREPE = {
    "3": {"filename": "1.jpg", "caption": "A cat on a mat.", "negative_caption": "A cat under a mat."},
    "9": {"filename": "2.jpg", "caption": "A red bus.", "negative_caption": "A blue bus."},
}
PLUS = [
    {
        "id": 0,
        "filename": "1.jpg",
        "caption": "A cat on a mat.",
        "caption2": "There is a cat on the mat.",
        "negative_caption": "A dog on a mat.",
    }
]


def save(path: Path, rows: object) -> Path:
    np.save(path, np.array(rows, dtype=object), allow_pickle=True)
    return path


def write(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.fixture
def bring(tmp_path, capsys):
    """Import files; the store and what was printed."""

    def run(form: str, *files: Path, flags=(), status=0):
        out = tmp_path / "out.store"
        words = ["negatives", "import", "--format", form, *map(str, files), "--out", str(out), *flags]
        if status:
            with pytest.raises(SystemExit) as stopped:
                main(words)
            assert stopped.value.code == status
            (sentence,) = capsys.readouterr().err.splitlines()
            assert not out.exists()
            return sentence.removeprefix("open_clip_ext: ")
        assert main(words) == 0
        return Store.open(out), capsys.readouterr().out

    return run


def texts(store: Store, caption: str) -> list[tuple[str, str, str]]:
    return [(text.type, text.text, text.reason) for text in store.texts(caption, rejected=True) or ()]


def test_degla(bring, tmp_path):
    store, _ = bring("degla", write(tmp_path / "degla.json", DEGLA), flags=["--images", "coco"])
    caption = DEGLA[0]["original"]
    assert texts(store, caption) == [
        (f"rewrite_{n}", text, "") for n, text in enumerate(DEGLA[0]["enhanced"], start=1)
    ]
    assert store.images(caption) == ["coco/train2014/COCO_train2014_000000318556.jpg"]
    assert texts(store, "A red bus.") == [
        ("rewrite_1", "A red bus", "identical"),
        ("rewrite_2", "", "empty"),
        ("rewrite_3", "", "empty"),
        ("rewrite_4", "A blue bus.", ""),
    ]


def test_ce_clip(bring, tmp_path):
    store, _ = bring("ce-clip", save(tmp_path / "processed_dataset0.npy", CE_CLIP))
    caption = CE_CLIP[0]["caption"]
    assert texts(store, caption) == [
        ("swap_noun", "A horse feeds a small woman.", ""),
        ("replace_adj", "A woman feeds a large horse.", ""),
        ("replace_noun", "A woman feeds a small goat.", ""),
    ]
    assert store.images(caption) == ["train2014/COCO_train2014_000000318556.jpg"]


def test_ce_clip_of_validation_images(bring, tmp_path):
    (tmp_path / "coco_val").mkdir()
    store, _ = bring("ce-clip", save(tmp_path / "coco_val" / "processed_dataset0.npy", CE_CLIP))
    assert store.images(CE_CLIP[0]["caption"]) == ["val2014/COCO_val2014_000000318556.jpg"]


def test_negclip(bring, tmp_path):
    store, printed = bring("negclip", write(tmp_path / "train.tsv", NEGCLIP))
    assert len(store) == 2  # one caption stands twice
    assert texts(store, "A dog chases a cat .") == [
        ("swap", "A cat chases a dog .", ""),
        ("swap", "a dog chases a cat", "identical"),
    ]
    assert store.images("A dog chases a cat .") == ["coco/1.jpg", "coco/3.jpg"]
    assert "2 captions, 2 negatives, 0 positives" in printed
    assert "identical" in printed


def test_sugarcrepe_and_its_successor(bring, tmp_path):
    files = write(tmp_path / "replace_rel.json", SUGARCREPE), write(tmp_path / "replace_obj.json", PLUS)
    store, printed = bring("sugarcrepe", *files)
    assert store.texts("A cat on a mat.") == [
        Text("replace_rel", "A cat under a mat.", generator="imported-sugarcrepe"),
        Text("replace_obj", "A dog on a mat.", generator="imported-sugarcrepe"),
        Text("paraphrase", "There is a cat on the mat.", kind="pos", generator="imported-sugarcrepe"),
    ]
    assert "2 captions, 3 negatives, 1 positives" in printed


def test_as_released_keeps_what_the_gate_turns_away(bring, tmp_path):
    store, _ = bring("negclip", write(tmp_path / "train.tsv", NEGCLIP), flags=["--as-released"])
    assert all(text.valid for caption in store.captions() for text in store.texts(caption, rejected=True))


def test_again_changes_nothing(bring, tmp_path):
    file = write(tmp_path / "degla.json", DEGLA)
    before = [*bring("degla", file)[0].entries()]
    assert [*bring("degla", file)[0].entries()] == before


@pytest.mark.parametrize(
    ("form", "name", "content", "sentence"),
    [
        ("degla", "x.json", '[{"image_id": 1,', "{path}: not JSON (Expecting property name"),
        ("degla", "x.json", "3", "{path}: expected a list or an object of items"),
        ("degla", "x.json", [{"image_id": 1}], "{path}, item 1: original must be str, not 'None'"),
        ("degla", "x.json", [3], "{path}, item 1: image_id must be int, not 'None'"),
        (
            "degla",
            "x.json",
            [{**DEGLA[0], "enhanced": "no"}],
            "{path}, item 1: enhanced must be a list, not 'no'",
        ),
        (
            "degla",
            "x.json",
            [{**DEGLA[0], "enhanced": [1]}],
            "{path}, item 1: enhanced must be a list of strings",
        ),
        (
            "degla",
            "x.json",
            [{**DEGLA[0], "enhanced": [""] * 6}],
            "{path}, item 1: 6 texts in enhanced, expected at",
        ),
        (
            "negclip",
            "x.tsv",
            "title\tfilepath\na\tb\n",
            "{path}: no column neg_caption; its columns: title, filepath",
        ),
        (
            "negclip",
            "x.tsv",
            NEGCLIP + "3\ta\tb\tc()\t\n",
            "{path}, line 5: neg_caption: expected a list of strings",
        ),
        (
            "negclip",
            "x.tsv",
            NEGCLIP + "3\ta\tb\t__import__('os').abort()\t\n",
            "{path}, line 5: neg_caption: expec",
        ),
        ("negclip", "x.tsv", NEGCLIP + "3\ta\n", "{path}, line 5: fewer fields than the header has columns"),
        (
            "negclip",
            "x.tsv",
            NEGCLIP + '3\t"a\tb\t[]\n',
            "{path}, line 5: the quote that begins a field there",
        ),
        (
            "sugarcrepe",
            "x.json",
            {"0": {"caption": "a"}},
            "{path}, item 0: negative_caption must be str, not 'None'",
        ),
        ("ce-clip", "x.npy", "no", "{path}: not a .npy file of plain dictionaries (ValueError"),
    ],
)
def test_a_file_of_another_form_is_refused_where_it_differs(bring, tmp_path, form, name, content, sentence):
    path = write(tmp_path / name, content)
    assert bring(form, path, status=2).startswith(sentence.format(path=path))


@pytest.mark.parametrize("form", ["degla", "ce-clip", "negclip", "sugarcrepe"])
def test_a_file_that_is_not_there(bring, tmp_path, form):
    path = tmp_path / "none"
    assert bring(form, path, status=2) == f"{path}: it cannot be read (No such file or directory)"


def test_a_file_that_is_not_text(bring, tmp_path):
    (path := tmp_path / "x.tsv").write_bytes(b"title\tfilepath\tneg_caption\n\xff\xfe\t\t\n")
    sentence = "{}, line 2: not UTF-8 text (byte 27 of the file); convert it to UTF-8"
    assert bring("negclip", path, status=2) == sentence.format(path)
    (path := tmp_path / "x.json").write_bytes(b'[{"original": "caf\xe9"}]')
    sentence = "{}, line 1: not UTF-8 text (byte 18 of the file); convert it to UTF-8"
    assert bring("degla", path, status=2) == sentence.format(path)


def test_negatives_that_numpy_printed_stay_apart(bring, tmp_path):
    content = NEGCLIP.replace("', 'a dog", "' 'a dog")
    store, _ = bring("negclip", write(tmp_path / "train.tsv", content), flags=["--as-released"])
    found = [text.text for text in store.texts("A dog chases a cat .", "neg")]
    assert found == ["A cat chases a dog .", "a dog chases a cat"]


def test_a_blank_text_is_none_even_as_released(bring, tmp_path):
    blank = [{**DEGLA[0], "enhanced": ["A dog.", " ", "\t", "", "A cat."]}]
    store, _ = bring("degla", write(tmp_path / "degla.json", blank), flags=["--as-released"])
    assert [text.text for text in store.texts(DEGLA[0]["original"], "neg")] == ["A dog.", "A cat."]


def test_a_store_of_other_files_is_left_alone(bring, tmp_path, capsys):
    bring("degla", write(tmp_path / "one.json", DEGLA))
    other = write(tmp_path / "two.json", DEGLA)
    with pytest.raises(SystemExit):
        main(["negatives", "import", "--format", "degla", str(other), "--out", str(tmp_path / "out.store")])
    assert "made in another way (files: ['one.json'] there, ['two.json'] now)" in capsys.readouterr().err


# --- pickles


def npy(path: Path, body: bytes) -> Path:
    """A .npy file of objects with any pickle inside."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|O", "fortran_order": False, "shape": (1,)})
    path.write_bytes(header.getvalue() + body)
    return path


class Runs:
    """Pickles to a call of a function."""

    def __init__(self, function, *values):
        self.call = function, values

    def __reduce__(self):
        return self.call


def test_numpy_s_own_arrays_and_numbers_become_plain(tmp_path):
    path = save(tmp_path / "x.npy", [{"a": np.int64(-3), "b": np.array([1, 0, 2**40]), "c": np.float32(0.5)}])
    (row,) = plain_pickle.load(path)
    assert row == {"a": -3, "b": [1, 0, 2**40], "c": 0.5}
    assert type(row["a"]) is int


def test_an_array_written_by_an_older_numpy(tmp_path):
    body = pickle.dumps(np.array([{"a": 1}], dtype=object), protocol=4)
    assert b"numpy._core.multiarray" in body
    old = body.replace(b"\x8c\x16numpy._core.multiarray", b"\x8c\x15numpy.core.multiarray")
    length = struct.unpack("<Q", old[3:11])[0] - 1  # of the frame
    old = old[:3] + struct.pack("<Q", length) + old[11:]
    assert plain_pickle.load(npy(tmp_path / "x.npy", old)) == [{"a": 1}]


HOSTILE = {
    "a command": pickle.dumps(Runs(os.system, "touch {marker}")),
    "a command, protocol 0": b"cos\nsystem\n(S'touch {marker}'\ntR.",
    "a command by INST": b"(S'touch {marker}'\nios\nsystem\n.",
    "eval": pickle.dumps(Runs(eval, "open('{marker}', 'w')")),
    "getattr": pickle.dumps(Runs(getattr, "a", "upper")),
    "another numpy function": b"cnumpy\nfromfile\n(S'{marker}'\ntR.",
    "numpy's load": b"cnumpy\nload\n(S'{marker}'\ntR.",
    "a name inside a module": b"\x80\x04\x8c\x05numpy\x8c\x0frec.os.system\x93.",
    "a name inside a class of ours": b"\x80\x04\x8c\x05numpy\x8c\x16ndarray.__init_subclass__\x93.",
    "a class of ours, written to": b"cnumpy\nndarray\nN}S'x'\nS'y'\ns\x86b.",
    "a function of ours, written to": b"cnumpy.core.multiarray\nscalar\nN}S'__doc__'\nS'y'\ns\x86b.",
    "a set": pickle.dumps({"a"}, protocol=2),
    "a path": pickle.dumps(Path("x")),
    "a persistent id": b"Pid\n.",
    "an extension": b"\x82\x01.",
    "numbers of a strange type": b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'O8'\ntRS'1234'\ntR.",
    "not an array": pickle.dumps([{"a": 1}]),
    "cut": pickle.dumps(np.array([{"a": 1}], dtype=object))[:-9],
    "nothing": b"",
    "noise": bytes(range(256)),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_pickle_does_nothing(what, tmp_path):
    marker = tmp_path / "it_ran"
    body = HOSTILE[what].replace(b"{marker}", str(marker).encode())
    with pytest.raises(InputError, match=r"not a \.npy file of plain dictionaries"):
        plain_pickle.load(npy(tmp_path / "x.npy", body))
    assert not marker.exists()


def test_the_hostile_pickles_are_hostile(tmp_path):
    marker = tmp_path / "it_ran"
    pickle.loads(HOSTILE["a command, protocol 0"].replace(b"{marker}", str(marker).encode()))
    assert marker.exists()


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_file_ends_in_a_sentence_or_in_plain_values(seed, tmp_path):
    path = save(tmp_path / "x.npy", CE_CLIP)
    rng = np.random.default_rng(seed)
    damaged = bytearray(path.read_bytes())
    for at in rng.integers(128, len(damaged), 3):
        damaged[at] = rng.integers(256)
    path.write_bytes(damaged)
    try:
        found = plain_pickle.load(path)
    except InputError:
        return
    json.dumps(found, default=lambda value: list(value) if isinstance(value, tuple) else str(value, "latin1"))


# --- the real files


@pytest.fixture(scope="session")
def annotations() -> Path:
    if not (folder := os.environ.get("OPEN_CLIP_EXT_ANNOTATIONS")):
        pytest.skip("set OPEN_CLIP_EXT_ANNOTATIONS to a folder with negclip_tsv/ and sugarcrepe/")
    return Path(folder)


def test_the_real_negclip_file(bring, annotations):
    path = annotations / "negclip_tsv" / "valid_neg_clip.tsv"
    rows = list(csv.DictReader(path.open(newline=""), delimiter="\t"))
    pairs = [(row["title"], text) for row in rows for text in ast.literal_eval(row["neg_caption"])]
    assert (len(rows), len(pairs)) == (4839, 7370)
    store, _ = bring("negclip", path, flags=["--as-released"])
    assert sum(len(images) for _, images, _ in store.entries()) == len(rows)
    assert len(store) == len({normalise(row["title"]) for row in rows})
    assert sum(store.tally().values()) == len({(normalise(caption), text) for caption, text in pairs})


def test_the_gate_finds_the_captions_among_the_real_negatives(bring, annotations):
    store, _ = bring("negclip", annotations / "negclip_tsv" / "valid_neg_clip.tsv")
    reasons = {reason: n for (*_, reason), n in store.tally().items()}
    assert reasons["identical"] + reasons["duplicate"] >= 11


def test_the_real_sugarcrepe(bring, annotations):
    files = sorted((annotations / "sugarcrepe").glob("*.json"))
    items = [(file.stem, item) for file in files for item in json.loads(file.read_text()).values()]
    assert len(items) == 7511
    store, _ = bring("sugarcrepe", *files, flags=["--as-released"])
    distinct = {(type, normalise(item["caption"]), item["negative_caption"]) for type, item in items}
    assert sum(store.tally().values()) == len(distinct)
    assert store.types() == tuple(file.stem for file in files)
