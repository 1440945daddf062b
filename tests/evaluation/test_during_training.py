"""Benchmarks in upstream's evaluation: logged where it logs, and nothing else is changed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from drawn import write_crepe
from support import photos, train, train_here

from open_clip_ext.evaluation import models
from open_clip_ext.evaluation.encode import Encoder
from open_clip_ext.evaluation.evaluate import evaluate
from open_clip_ext.evaluation.readers import sugarcrepe
from open_clip_ext.host import benchmarks

pytestmark = pytest.mark.trainer


@pytest.fixture(scope="session")
def crepe(tmp_path_factory) -> Path:
    return write_crepe(tmp_path_factory.mktemp("data") / "crepe", seed=5)


@pytest.fixture
def flags(model, csv_data):
    return ["--model", model, "--train-data", csv_data, "--csv-separator", ","]


@pytest.fixture
def asked(crepe):
    return ["--eval-benchmarks", "sugarcrepe", f"annotations={crepe}", f"images={crepe}"]


def results(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "checkpoints" / "results.jsonl").read_text().splitlines()]


def scores_of(checkpoint: Path, crepe: Path) -> dict[str, float]:
    """What `eval run` says of a checkpoint."""
    loaded = models.load(None, str(checkpoint), device="cpu")
    encoder = Encoder(loaded.model, loaded.preprocess, loaded.tokenizer)
    found = evaluate(encoder, [sugarcrepe.read(annotations=crepe, images=crepe)])["sugarcrepe"]
    return {f"sugarcrepe-{name}": score["value"] for name, score in found["scores"].items()}


@pytest.mark.parametrize("loss", [(), ("--loss", "negclip")], ids=["plain", "negclip"])
def test_every_epoch_is_scored_as_eval_run_scores_its_checkpoint(tmp_path, flags, asked, crepe, loss):
    done = train_here(tmp_path, *flags, *asked, *loss, "--epochs", 2)
    for epoch, row in enumerate(results(done.folder), 1):
        expected = scores_of(done.folder / "checkpoints" / f"epoch_{epoch}.pt", crepe)
        assert row == {"epoch": epoch, **expected}
        assert len(expected) == 3
    assert epoch == 2
    shown = f"Eval Epoch: 2 epoch: 2.0000\tsugarcrepe-micro: {row['sugarcrepe-micro']:.4f}"
    assert shown in done.output
    assert "evaluates sugarcrepe (42 items)" in done.output


@pytest.mark.parametrize("precision", ["amp_bf16", "pure_bf16"])
def test_in_other_precisions(tmp_path, flags, asked, crepe, precision):
    done = train_here(tmp_path, *flags, *asked, "--precision", precision)
    (row,) = results(done.folder)
    loaded = done.folder / "checkpoints" / "epoch_1.pt"
    if precision == "amp_bf16":  # the weights are fp32, and scored as such
        assert row == {"epoch": 1, **scores_of(loaded, crepe)}
    assert 0 < row["sugarcrepe-micro"] <= 1


@pytest.fixture
def tf32():
    """Allowed, as upstream does where there is a GPU."""
    torch.backends.cuda.matmul.allow_tf32 = True
    yield
    torch.backends.cuda.matmul.allow_tf32 = False


@pytest.mark.usefixtures("tf32")
def test_tf32_which_upstream_allows_is_off_as_in_eval_run(tmp_path, flags, asked, monkeypatch):
    allowed = []

    def watched(*args, **kwargs):
        allowed.append(torch.backends.cuda.matmul.allow_tf32)
        return evaluate(*args, **kwargs)

    monkeypatch.setattr(benchmarks, "evaluate", watched)
    train_here(tmp_path, *flags, *asked)
    assert allowed == [False]
    assert torch.backends.cuda.matmul.allow_tf32


def test_upstream_s_frequency_is_ours(tmp_path, flags, asked):
    done = train_here(tmp_path, *flags, *asked, "--epochs", 3, "--val-frequency", 2)
    assert [row["epoch"] for row in results(done.folder)] == [2, 3]


@pytest.mark.parametrize("loss", [(), ("--loss", "degla")], ids=["plain", "degla"])
def test_what_upstream_trains_and_validates_stays_to_the_bit(tmp_path, flags, asked, csv_data, loss):
    """Also with a loader's worker, whose seed is drawn from a generator that scoring must not move."""
    flags += [*loss, "--val-data", csv_data, "--epochs", 2, "--workers", 1]
    runs = [train_here(tmp_path, *flags, *more, name=str(len(more))) for more in ((), asked)]
    without, scored = (done.checkpoint("epoch_2.pt") for done in runs)
    assert without["state_dict"].keys() == scored["state_dict"].keys()
    assert all(torch.equal(v, scored["state_dict"][k]) for k, v in without["state_dict"].items())
    for theirs, ours in zip(*(results(done.folder) for done in runs), strict=True):
        assert theirs == {key: value for key, value in ours.items() if not key.startswith("sugarcrepe")}
        assert "sugarcrepe-micro" in ours
        assert "clip_val_loss" in ours
    params = [(done.folder / "params.txt").read_text().splitlines() for done in runs]
    assert [line for line in params[1] if line not in params[0] and "/" not in line] == [
        "eval_allow_missing: False",
        "name: 4",
    ]


def test_beside_upstream_s_own_zero_shot(tmp_path, flags, asked, monkeypatch):
    """Upstream's ImageNet evaluation goes on as before, at its own frequency."""
    from open_clip_train import zero_shot

    monkeypatch.setattr(zero_shot, "IMAGENET_CLASSNAMES", ["a", "b", "c", "d", "e", "f"])
    # open_clip_torch 3.3.0 turns an array into a float here, which numpy 2.4 refuses.
    monkeypatch.setattr(zero_shot, "accuracy", lambda output, target, topk: [1.0] * len(topk))
    for folder in ("a", "b"):
        (tmp_path / "val" / folder).mkdir(parents=True)
        photos(1)[0].image.save(tmp_path / "val" / folder / "0.png")
    flags += ["--imagenet-val", tmp_path / "val", "--zeroshot-frequency", 1, "--val-frequency", 1]
    (row,) = results(train_here(tmp_path, *flags, *asked).folder)
    assert {"imagenet-zeroshot-val-top1", "imagenet-zeroshot-val-top5", "sugarcrepe-micro"} < row.keys()


def test_tensorboard_has_them(tmp_path, flags, asked):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    done = train_here(tmp_path, *flags, *asked, "--report-to", "tensorboard")
    events = EventAccumulator(str(done.folder / "tensorboard")).Reload()
    (event,) = events.Scalars("val/sugarcrepe-micro")
    assert event.value == pytest.approx(results(done.folder)[0]["sugarcrepe-micro"])


def test_a_run_without_training_data_evaluates_a_checkpoint(tmp_path, flags, asked, model, crepe):
    first = train_here(tmp_path, *flags, name="first").folder / "checkpoints" / "epoch_1.pt"
    done = train_here(tmp_path, "--model", model, "--resume", first, *asked, name="only")
    assert results(done.folder) == [{"epoch": 1, **scores_of(first, crepe)}]


@pytest.mark.trainer
@pytest.mark.parametrize("loss", [(), ("--loss", "degla")], ids=["plain", "degla"])
def test_in_two_processes_rank_0_scores(tmp_path, flags, asked, crepe, loss):
    done = train(tmp_path, *flags, *asked, *loss, "--epochs", 2, processes=2)
    assert done.status == 0, done.output
    rows = results(done.folder)
    assert [row["epoch"] for row in rows] == [1, 2]
    checkpoint = done.checkpoint("epoch_2.pt")
    weights = {key.removeprefix("module."): value for key, value in checkpoint["state_dict"].items()}
    torch.save(weights, done.folder / "bare.pt")
    assert rows[1] == {"epoch": 2, **scores_of(done.folder / "bare.pt", crepe)}


def test_a_file_names_several(tmp_path, flags, crepe, asked):
    shutil.copytree(crepe, tmp_path / "colours" / "a")
    shutil.copytree(crepe, tmp_path / "colours" / "b")
    data = {
        "sugarcrepe": {"annotations": str(crepe), "images": str(crepe)},
        "image-folder": {"images": "colours"},
    }
    (tmp_path / "data.json").write_text(json.dumps(data))
    (row,) = results(train_here(tmp_path, *flags, "--eval-benchmarks", tmp_path / "data.json").folder)
    assert {"sugarcrepe-micro", "image-folder-colours-top1-micro"} < row.keys()


# Bad input stops before training.


@pytest.fixture
def sentence(tmp_path, flags, capsys):
    def stop(*more: object) -> str:
        with pytest.raises(SystemExit) as stopped:
            train_here(tmp_path, *flags, *more)
        assert stopped.value.code == 2
        said = capsys.readouterr()
        assert "Train Epoch" not in said.out + said.err
        return said.err.strip().splitlines()[-1].removeprefix("open_clip_ext: ")

    return stop


def test_bad_arguments(sentence, crepe, tmp_path):
    where = [f"annotations={crepe}", f"images={crepe}"]
    assert sentence("--eval-benchmarks", "sugercrepe", *where).startswith(
        "--eval-benchmarks sugercrepe: no such benchmark (nearest: sugarcrepe"
    )
    assert sentence("--eval-benchmarks", "sugarcrepe", where[0]) == (
        "--eval-benchmarks sugarcrepe: needs images=IMAGES"
    )
    assert sentence("--eval-benchmarks", "sugarcrepe", *where, "x=1").startswith(
        "--eval-benchmarks sugarcrepe x: benchmark sugarcrepe has no such option"
    )
    assert "no replace_obj.json there" in sentence(
        "--eval-benchmarks", "sugarcrepe", f"annotations={tmp_path}", where[1]
    )
    missing = sentence("--eval-benchmarks", "sugarcrepe", where[0], f"images={tmp_path}")
    assert missing.startswith("sugarcrepe: 42 of 42 pictures are not there (first: ")
    assert missing.endswith("leave their items out with --eval-allow-missing")
    twice = ["--eval-benchmarks", "sugarcrepe", *where]
    assert "sugarcrepe is given twice" in sentence(*twice, *twice)
    assert sentence(*twice, "--val-frequency", 0) == (
        "--eval-benchmarks has no effect with --val-frequency 0: upstream then never evaluates"
    )
    assert sentence("--eval-allow-missing") == (
        "--eval-allow-missing has no effect without --eval-benchmarks; add --eval-benchmarks NAME"
    )
    assert "none.json: cannot be read" in sentence("--eval-benchmarks", tmp_path / "none.json")


def test_missing_pictures_may_be_left_out(tmp_path, flags, crepe):
    some = tmp_path / "some"
    some.mkdir()
    for i in range(7):
        shutil.copy(crepe / f"{i}.png", some)
    asked = ["--eval-benchmarks", "sugarcrepe", f"annotations={crepe}", f"images={some}"]
    done = train_here(tmp_path, *flags, *asked, "--eval-allow-missing")
    assert "evaluates sugarcrepe (7 of 42 items)" in done.output
    assert "sugarcrepe-micro" in results(done.folder)[0]


def test_help_lists_the_flags(tmp_path, capsys):
    with pytest.raises(SystemExit):
        train_here(tmp_path, "--help")
    assert "--eval-benchmarks NAME [KEY=VALUE ...]" in capsys.readouterr().out
