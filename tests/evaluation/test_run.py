"""`eval run`: the result folder, what it refuses, and the real command in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import open_clip
import pytest
import support
import torch
from fakes import ConstantEncoder, FakeEncoder, NaNEncoder, pair, write_pictures
from test_readers import make_comvg, make_sugarcrepe, make_winoground, put

from open_clip_ext import cli
from open_clip_ext.errors import InputError
from open_clip_ext.evaluation import manifest, result_folder
from open_clip_ext.evaluation.evaluate import evaluate
from open_clip_ext.evaluation.items import Benchmark
from open_clip_ext.evaluation.scoring import aggregate


def benchmark(items, averages=("micro", "macro"), **more) -> Benchmark:
    return Benchmark("drawn", items, averages, {"drawn.json": "0" * 64}, **more)


@pytest.fixture
def drawn(pictures) -> Benchmark:
    items = [pair(str(n), f"group {n % 2}", p, (f"true {n}", f"false {n}")) for n, p in enumerate(pictures)]
    return benchmark(items)


# --- scores -------------------------------------------------------------------------------------------


def test_the_scores_are_those_of_the_rows(drawn):
    found = evaluate(FakeEncoder(), [drawn])["drawn"]
    right = [row["correct"]["accuracy"] for row in found["rows"]]
    assert found["scores"]["micro"]["value"] == sum(right) / len(right)
    assert (found["n"], found["missing"], found["primary"]) == (8, 0, "micro")
    low, high = found["scores"]["micro"]["interval"]
    assert low <= found["scores"]["micro"]["value"] <= high
    assert set(found["subsets"]) == {"group 0", "group 1"}
    for group, metrics in found["subsets"].items():
        assert metrics == {
            "accuracy": aggregate.score("micro", [row for row in found["rows"] if row["group"] == group])
        }


def test_a_constant_model_scores_nothing_and_a_nan_model_raises(drawn):
    found = evaluate(ConstantEncoder(), [drawn])["drawn"]["scores"]["micro"]
    assert found == {"value": 0, "n": 8, "ties": 8, "half": 0.5, "interval": [0, 0]}
    with pytest.raises(InputError, match="similarities are not finite"):
        evaluate(NaNEncoder(), [drawn])


def test_argmax_order_gives_a_constant_model_everything_and_says_so(drawn):
    found = evaluate(ConstantEncoder(), [drawn], ties="argmax", intervals=False)["drawn"]
    assert found["scores"]["micro"]["value"] == 1
    assert found["ties"] == "argmax"


def test_missing_pictures_are_an_error_unless_allowed(drawn, pictures):
    os.remove(pictures[3])
    with pytest.raises(InputError) as error:
        evaluate(FakeEncoder(), [drawn])
    assert str(error.value) == (
        f"drawn: 1 of 8 pictures are not there (first: {pictures[3]}); fix the path, or leave their items "
        "out with --allow-missing"
    )
    found = evaluate(FakeEncoder(), [drawn], allow_missing=True)["drawn"]
    assert (found["n"], found["missing"]) == (7, 1)
    for path in pictures:
        if os.path.exists(path):
            os.remove(path)
    with pytest.raises(InputError, match="none of its 8 pictures is there"):
        evaluate(FakeEncoder(), [drawn], allow_missing=True)


def test_an_average_that_lacks_a_group_is_not_given_and_the_next_one_leads(pictures):
    items = [pair("1", "replace_obj", pictures[0]), pair("2", "swap_obj", pictures[1])]
    found = evaluate(FakeEncoder(), [benchmark(items, ("sugarcrepe3", "micro"))])["drawn"]
    assert (list(found["scores"]), found["primary"]) == (["micro"], "micro")
    assert found["notes"] == [
        "sugarcrepe3 is not given: no item of replace_att, replace_rel, swap_att and 2 more"
    ]
    with pytest.raises(InputError, match="drawn: none of its averages can be given"):
        evaluate(FakeEncoder(), [benchmark(items, ("sugarcrepe3",))])


def test_groups_that_lost_all_their_pictures_are_noted(drawn, pictures):
    for path in pictures[::2]:
        os.remove(path)
    found = evaluate(FakeEncoder(), [drawn], allow_missing=True)["drawn"]
    assert found["notes"] == ["no item left of group 0"]


def test_a_benchmark_may_bring_its_own_scores(pictures):
    def score(encoder, items):
        return [
            {
                "id": i.id,
                "group": "",
                "pictures": [],
                "captions": [],
                "correct": {"top1": 1},
                "half": {"top1": 1},
            }
            for i in items
        ]

    theirs = benchmark([pair("1", picture=pictures[0])], ("top1 micro",), family="zero-shot", score=score)
    found = evaluate(FakeEncoder(), [theirs])["drawn"]
    assert (found["family"], found["scores"]["top1 micro"]["value"]) == ("zero-shot", 1)


# --- seen in training ---------------------------------------------------------------------------------


def test_pictures_of_the_training_set_are_told_apart(drawn, tmp_path):
    listed = tmp_path / "train.txt"
    listed.write_text("elsewhere/0.jpg\n\nelsewhere/1.jpg\n")
    seen = manifest.read([listed])
    found = evaluate(FakeEncoder(), [drawn], seen=seen.has)["drawn"]
    assert [row["seen"] for row in found["rows"]] == [True, True] + [False] * 6
    assert {part: scores["micro"]["n"] for part, scores in found["seen"].items()} == {"seen": 2, "unseen": 6}
    assert found["scores"]["micro"]["n"] == 8


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "filepath,title\nx/COCO_train2014_000000000009.jpg,a dog\n"),
        ("a.tsv", "\ttitle\tfilepath\n0\ta dog\t000000000009.jpg\n"),
        ("a.jsonl", '{"filepath": "val2017/000000000009.jpg", "caption": "a dog"}\n'),
        ("a.json", '[{"image": "val2014/COCO_val2014_000000000009.jpg"}]'),
        ("a.txt", "COCO_val2014_000000000009.jpg\n"),
    ],
)
def test_a_photo_of_coco_is_itself_in_every_split_and_form(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    seen = manifest.read([tmp_path / name])
    assert seen.has("/data/val2017/000000000009.jpg")
    assert seen.has("/data/val2014/COCO_val2014_000000000009.jpg")
    assert not seen.has("/data/val2017/000000000010.jpg")
    assert list(seen.files) == [str(tmp_path / name)]


def test_a_manifest_that_is_wrong(tmp_path):
    assert manifest.read([]) is None
    (tmp_path / "a.csv").write_text("picture,title\n1.jpg,a dog\n")
    (tmp_path / "b.txt").write_text("\n")
    for path, sentence in (
        (tmp_path / "a.csv", "a.csv, row 1: it has no field 'filepath' (its fields: picture, title)"),
        (tmp_path / "b.txt", f"--train-manifest {tmp_path}/b.txt: names no picture"),
        (tmp_path, f"--train-manifest {tmp_path}: is a folder, but should be a file"),
        (tmp_path / "none.txt", f"--train-manifest {tmp_path}/none.txt: no such file"),
    ):
        with pytest.raises(InputError) as error:
            manifest.read([path])
        assert sentence in str(error.value)


# --- the folder ---------------------------------------------------------------------------------------


def test_a_result_folder_is_read_back(drawn, tmp_path):
    results = evaluate(FakeEncoder(), [drawn])
    result_folder.write(tmp_path / "out", {"name": "drawn"}, results)
    found = result_folder.read(tmp_path / "out")
    assert found["format"] == 1
    assert found["versions"]["torch"] == torch.__version__.split("+")[0]
    assert found["benchmarks"]["drawn"] == {k: v for k, v in results["drawn"].items() if k != "rows"}
    assert result_folder.read_rows(tmp_path / "out", found["benchmarks"]["drawn"]) == results["drawn"]["rows"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "no result of `open-clip-ext eval run` (it has no result.json)"),
        ("{", "not a result of `open-clip-ext eval run`"),
        ("[]", "not a result of `open-clip-ext eval run`"),
        ('{"format": 2}', "format 2, but this version reads 1; evaluate again"),
    ],
)
def test_a_folder_that_is_no_result(tmp_path, content, sentence):
    if content is not None:
        (tmp_path / "result.json").write_text(content)
    with pytest.raises(InputError) as error:
        result_folder.read(tmp_path)
    assert sentence in str(error.value)


def test_rows_that_are_not_there_or_broken(tmp_path):
    with pytest.raises(InputError, match="no such file; the result folder is not whole"):
        result_folder.read_rows(tmp_path, {"items": "items/a.jsonl"})
    (tmp_path / "a.jsonl").write_text('{"id": "1"}\n{"id"\n')
    with pytest.raises(InputError, match="broken JSON"):
        result_folder.read_rows(tmp_path, {"items": "a.jsonl"})


# --- the command --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, model) -> list[str]:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("checkpoint") / "weights.pt"
    torch.save({"state_dict": open_clip.create_model(model).state_dict()}, path)
    return ["--model", model, "--pretrained", str(path)]


def given(name: str, root: Path) -> list[str]:
    return ["--benchmark", name, f"annotations={root}", f"images={root}/images"]


def test_the_command_writes_a_result_and_prints_a_table(tmp_path, checkpoint):
    make_sugarcrepe(tmp_path / "sc")
    make_winoground(tmp_path / "wino")
    make_comvg(tmp_path / "comvg")
    write_pictures(tmp_path / "sc/images", 1)
    data = tmp_path / "data.json"
    put(data, {"comvg": {"annotations": "comvg", "images": "comvg/images"}})
    (tmp_path / "train.txt").write_text("2.jpg\n")
    command = [
        "-m", "open_clip_ext.cli", "eval", "run", *checkpoint,
        *given("sugarcrepe", tmp_path / "sc"), *given("winoground", tmp_path / "wino"),
        "--benchmark", "comvg", "--data", data, "--train-manifest", tmp_path / "train.txt",
        "--cache", tmp_path / "cache", "--out", tmp_path / "out",
    ]  # fmt: skip
    done = support.python(*command)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("benchmark ")
    for word in ("sugarcrepe3", "group micro", "seen in training", "out/result.json"):
        assert word in done.stdout
    found = result_folder.read(tmp_path / "out")
    assert list(found["benchmarks"]) == ["sugarcrepe", "winoground", "comvg"]
    assert found["model"]["activation"] == "GELU"
    assert found["benchmarks"]["comvg"]["options"] == {
        "annotations": str(tmp_path / "comvg"), "images": str(tmp_path / "comvg/images"),
    }  # fmt: skip
    assert found["benchmarks"]["comvg"]["seen"]["seen"]["micro"]["n"] == 1
    assert len(found["train_manifest"]) == 1
    assert sorted(os.listdir(tmp_path / "out/items")) == [
        "comvg.jsonl",
        "sugarcrepe.jsonl",
        "winoground.jsonl",
    ]


@pytest.fixture
def stops(tmp_path, checkpoint, capsys):
    """A call that must stop; its one sentence."""

    def call(*flags) -> str:
        words = ["eval", "run", *checkpoint, "--cache", "none", "--out", tmp_path / "out", *flags]
        with pytest.raises(SystemExit) as stopped:
            cli.main(list(map(str, words)))
        assert stopped.value.code == 2
        sentence = capsys.readouterr().err.strip().splitlines()[-1]
        assert not (tmp_path / "out" / "result.json").exists()
        return sentence.removeprefix("open_clip_ext: ")

    return call


def test_calls_that_stop(tmp_path, stops):
    assert stops() == "--benchmark: missing; give at least one, or --data FILE"
    assert stops("--benchmark", "sugar-crepe").startswith(
        "--benchmark sugar-crepe: no such benchmark (nearest: sugarcrepe"
    )
    make_sugarcrepe(tmp_path / "sc")
    sugarcrepe = given("sugarcrepe", tmp_path / "sc")
    assert stops(*sugarcrepe, "--batch-size", 0) == "--batch-size 0: give at least 1"
    (tmp_path / "sc/images/1.jpg").write_text("no picture")
    assert stops(*sugarcrepe).startswith(f"{tmp_path}/sc/images/1.jpg: does not decode as a picture")
    os.remove(tmp_path / "sc/images/1.jpg")
    assert "sugarcrepe: 1 of 1 pictures are not there" in stops(*sugarcrepe)
    assert "sugarcrepe: none of its 1 pictures is there" in stops(*sugarcrepe, "--allow-missing")


def test_a_result_is_not_written_over(tmp_path, checkpoint, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "result.json").write_text("{}")
    (tmp_path / "file").write_text("")
    for folder, sentence in (
        (out, f"--out {out}: holds a result already; name another folder, or remove it"),
        (tmp_path / "file", f"--out {tmp_path}/file: not a folder; name another"),
    ):
        with pytest.raises(SystemExit):
            cli.main(["eval", "run", *checkpoint, "--benchmark", "x", "--out", str(folder)])
        assert sentence in capsys.readouterr().err
    assert (out / "result.json").read_text() == "{}"


def test_the_list_names_every_benchmark_and_tells_one_in_full(capsys):
    assert cli.main(["eval", "list"]) == 0
    listed = capsys.readouterr().out
    assert "sugarcrepe\n  SugarCrepe (Hsieh et al." in listed
    assert "annotations=... images=... votes=2" in listed
    assert cli.main(["eval", "list", "valse"]) == 0
    assert "7,702 of 8,782" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["eval", "list", "vals"])
    assert "nearest: valse" in capsys.readouterr().err


def test_help_comes_without_torch():
    code = """
import sys
from open_clip_ext import cli
try:
    cli.main(["eval", "--help"])
except SystemExit:
    print("torch" in sys.modules, "numpy" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1] == "False False", done.stderr


# --- real photographs -----------------------------------------------------------------------------------

ANNOTATIONS = os.environ.get("OPEN_CLIP_EXT_ANNOTATIONS")
PHOTOS = os.environ.get("OPEN_CLIP_EXT_SUGARCREPE_PHOTOS")


@pytest.mark.skipif(
    not (ANNOTATIONS and PHOTOS),
    reason="OPEN_CLIP_EXT_ANNOTATIONS and OPEN_CLIP_EXT_SUGARCREPE_PHOTOS name no folders",
)
def test_the_photographs_that_are_there_are_scored_and_the_rest_is_counted(tmp_path, checkpoint, capsys):
    root = Path(ANNOTATIONS or "")
    words = ["eval", "run", *checkpoint, "--cache", tmp_path / "cache", "--out", tmp_path / "out"]
    for name, folder in (("sugarcrepe", "sugarcrepe"), ("sugarcrepe-pp", "sugarcrepe_pp")):
        words += ["--benchmark", name, f"annotations={root / folder}", f"images={PHOTOS}"]
    with pytest.raises(SystemExit):
        cli.main(list(map(str, words)))
    assert "sugarcrepe: 1518 of 1560 pictures are not there" in capsys.readouterr().err
    assert cli.main(list(map(str, [*words, "--allow-missing"]))) == 0
    assert "215 of 7,511" in capsys.readouterr().out
    found = result_folder.read(tmp_path / "out")["benchmarks"]
    assert (found["sugarcrepe"]["n"], found["sugarcrepe"]["missing"]) == (215, 7296)
    assert {group: m["accuracy"]["n"] for group, m in found["sugarcrepe"]["subsets"].items()} == {
        "add_att": 18, "add_obj": 58, "replace_att": 24, "replace_obj": 46, "replace_rel": 35,
        "swap_att": 23, "swap_obj": 11,
    }  # fmt: skip
    assert found["sugarcrepe-pp"]["scores"]["macro"]["n"] == 139
