"""The sweep: exact ends, a choice that has not seen what is reported, and a curve."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import support
import torch
from drawn import write_crepe, write_folders
from PIL import Image
from support import python, train_here

import open_clip_ext.cli
from open_clip_ext.evaluation import result_folder, wiseft
from open_clip_ext.evaluation.items import Benchmark, Item, Picture


@pytest.fixture(scope="module")
def place(tmp_path_factory, model, csv_data) -> Path:
    """A base, what was made of it, data to choose on and data to report."""
    folder = tmp_path_factory.mktemp("wiseft")
    flags = ["--model", model, "--train-data", csv_data, "--csv-separator", ",", "--loss", "negclip"]
    made = train_here(folder, *flags, "--epochs", 4, "--save-frequency", 1).folder / "checkpoints"
    (folder / "checkpoints").symlink_to(made)
    (folder / "params.txt").symlink_to(made.parent / "params.txt")
    write_crepe(folder / "dev", seed=11)
    write_crepe(folder / "test", seed=12)
    write_folders(folder / "colours", {"red": "red", "blue": "blue", "green": "green"})
    return folder


OPTIONS = ("--cache", "none", "--device", "cpu", "--out")


def command(place: Path, out: Path, *more: object, select="dev", report="test") -> list[str]:
    ends = ["--base", place / "checkpoints/epoch_1.pt", "--ft", place / "checkpoints/epoch_4.pt"]
    data = []
    for flag, name in (("--select", select), ("--report", report)):
        data += [flag, "sugarcrepe", f"annotations={place / name}", f"images={place / name}"]
    data += ["--report", "image-folder", f"images={place / 'colours'}"]
    words = ["eval", "wiseft", *ends, *data, *OPTIONS, out, *more]
    return [str(word) for word in words]


def rows(folder: Path, name: str = "sugarcrepe") -> list[dict]:
    return result_folder.read_rows(folder, result_folder.read(folder)["benchmarks"][name])


@pytest.fixture(scope="module")
def swept(place) -> tuple[Path, str]:
    """A finished sweep of the real command, and what it printed."""
    done = python("-m", "open_clip_ext.cli", *command(place, place / "out", "--alphas", 0.25, 0.5))
    assert done.returncode == 0, done.stderr
    return place / "out", done.stdout


def test_the_ends_score_as_eval_run_scores_the_checkpoints(swept, place, tmp_path):
    out, _ = swept
    for alpha, epoch in ((0, 1), (1, 4)):
        where = [f"annotations={place / 'test'}", f"images={place / 'test'}"]
        checkpoint = place / "checkpoints" / f"epoch_{epoch}.pt"
        arguments = ["eval", "run", "--pretrained", checkpoint, "--benchmark", "sugarcrepe", *where]
        arguments += [*OPTIONS, tmp_path / str(alpha)]
        assert open_clip_ext.cli.main([str(a) for a in arguments]) == 0
        assert rows(out / f"alpha-{alpha}") == rows(tmp_path / str(alpha))
        ours, theirs = (
            result_folder.read(folder)["model"] for folder in (out / f"alpha-{alpha}", tmp_path / str(alpha))
        )
        assert ours == theirs


def test_a_point_between_scores_as_what_merge_writes(swept, place, tmp_path):
    out, _ = swept
    ends = [place / "checkpoints/epoch_1.pt", place / "checkpoints/epoch_4.pt"]
    merged, result = tmp_path / "m.pt", tmp_path / "r"
    where = [f"annotations={place / 'test'}", f"images={place / 'test'}"]
    for words in (
        ["merge", *ends, "--alpha", 0.25, "--out", merged],
        [
            "eval",
            "run",
            "--pretrained",
            merged,
            "--benchmark",
            "sugarcrepe",
            *where,
            *OPTIONS,
            tmp_path / "r",
        ],
    ):
        assert open_clip_ext.cli.main([str(word) for word in words]) == 0
    assert rows(out / "alpha-0.25") == rows(result)
    assert rows(out / "alpha-0.25") != rows(out / "alpha-0.5")


def test_what_it_writes(swept):
    out, printed = swept
    content = json.loads((out / "wiseft.json").read_text())
    assert [point["alpha"] for point in content["curve"]] == [0, 0.25, 0.5, 1]
    for point in content["curve"]:
        folder = result_folder.read(out / point["folder"])
        for name, result in point["report"].items():
            assert result["scores"] == folder["benchmarks"][name]["scores"]
    best = max(content["curve"], key=lambda point: (point["select_mean"], -point["alpha"]))
    assert content["alpha"] == best["alpha"]
    assert best["select_mean"] == best["select"]["sugarcrepe"]["scores"]["micro"]["value"]
    assert f"{best['alpha']:g} *" in printed
    assert f"* alpha {best['alpha']:g}: chosen for the highest mean of sugarcrepe" in printed
    assert f"--alpha {best['alpha']:g} --out FILE" in printed
    with Image.open(out / "curve.png") as picture:
        assert picture.width > 1000  # both panels
    assert sorted(os.listdir(out)) == [
        "alpha-0", "alpha-0.25", "alpha-0.5", "alpha-1", "curve.png", "wiseft.json",
    ]  # fmt: skip


def test_compare_reads_its_folders(swept, tmp_path):
    out, _ = swept
    words = ["eval", "compare", out / "alpha-0", out / "alpha-0.5", "--out", tmp_path / "c"]
    assert open_clip_ext.cli.main([str(word) for word in words]) == 0


# The choice


def test_only_the_base_s_features_are_kept_if_asked_for(place, tmp_path):
    cache = tmp_path / "cache"
    for out, more, left in (("all", (), 3), ("few", ("--drop-features",), 1)):
        words = command(place, tmp_path / out, "--alphas", 0.5, "--cache", cache, *more)
        assert open_clip_ext.cli.main(words) == 0
        assert len(list(cache.iterdir())) == left
    # It is the base's: a sweep that encodes anew finds it, and adds the two others.
    (base,) = cache.iterdir()
    at = base.stat().st_mtime_ns
    assert open_clip_ext.cli.main(command(place, tmp_path / "more", "--alphas", 1, "--cache", cache)) == 0
    assert len(list(cache.iterdir())) == 2
    assert base.stat().st_mtime_ns == at


def point(alpha: float, select: float) -> wiseft.Point:
    return wiseft.Point(alpha, select, {}, {})


def test_of_equal_points_the_nearest_to_the_base_is_chosen():
    assert wiseft.choose([point(0, 0.5), point(0.4, 0.7), point(0.8, 0.7), point(1, 0.6)]).alpha == 0.4


def bench(name: str, *items: Item) -> Benchmark:
    return Benchmark(name, items, ("micro",))


def item(id: str, picture: str, *captions: str) -> Item:
    return Item(id, (Picture(picture),), captions, "i2t", (0,))


def test_an_item_in_both_is_refused_whatever_its_id_and_order():
    select = bench("dev", item("1", "a.png", "x", "y"), item("2", "b.png", "x", "y"))
    report = bench("test", item("7", "./b.png", "y", "x"), item("8", "c.png", "x", "y"))
    with pytest.raises(wiseft.InputError, match="--select dev and --report test: 1 items are in both"):
        wiseft.apart([select], [report])


def test_pictures_in_both_are_told():
    select, report = bench("dev", item("1", "a.png", "x", "y")), bench("test", item("1", "a.png", "v", "w"))
    assert wiseft.apart([select], [report]) == ["1 pictures are in dev and, with other captions, in test"]
    assert wiseft.apart([select], [bench("test", item("1", "c.png", "x", "y"))]) == []


@pytest.fixture
def sentence(capsys):
    def stop(words: list[str]) -> str:
        with pytest.raises(SystemExit) as stopped:
            open_clip_ext.cli.main(words)
        assert stopped.value.code == 2
        return capsys.readouterr().err.strip().splitlines()[-1].removeprefix("open_clip_ext: ")

    return stop


def test_bad_calls(place, tmp_path, sentence, swept):
    out = tmp_path / "out"
    assert sentence(command(place, out, select="test")) == (
        "--select sugarcrepe and --report sugarcrepe: 42 items are in both; choose alpha on data that is not "
        "reported, such as a validation split"
    )
    assert sentence(command(place, out, "--alphas", "0.5", "1.2")) == (
        "--alphas 1.2: must lie between 0 (the base) and 1 (the fine-tuned)"
    )
    assert "holds a result already" in sentence(command(place, swept[0]))
    assert sentence(command(place, out, "--report", "sugarcreppe")).startswith(
        "--report sugarcreppe: no such benchmark (nearest: sugarcrepe"
    )
    other = support.write_model(tmp_path / "wide", embed_dim=48)
    import open_clip
    from safetensors.torch import save_file

    save_file(open_clip.create_model(other).state_dict(), tmp_path / "wide" / "open_clip_model.safetensors")
    said = sentence([*command(place, out), "--ft", other])
    assert "only checkpoints of one architecture can be merged" in said
    assert not out.exists()


def test_weights_that_are_not_finite(place, tmp_path, sentence):
    checkpoint = torch.load(place / "checkpoints/epoch_4.pt", weights_only=True)
    checkpoint["state_dict"]["text_projection"][0, 0] = torch.nan
    (tmp_path / "params.txt").write_text((place / "params.txt").read_text())
    torch.save(checkpoint, tmp_path / "nan.pt")
    said = sentence([*command(place, tmp_path / "out"), "--ft", str(tmp_path / "nan.pt")])
    assert "text_projection is not finite, so no mixture with it is finite" in said


def test_several_processes_are_refused(place, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit) as ended:
        open_clip_ext.cli.main(command(place, tmp_path / "out"))
    assert ended.value.code == 2
    assert (
        "eval wiseft works in one process, and this is one of 2; start it without" in capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()
