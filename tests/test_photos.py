"""DeGLA learns: on photos the test draws, and on real ones where they are at hand."""

from __future__ import annotations

import os
import random
from pathlib import Path

import open_clip
import photos
import pytest
import support
import torch


def drawn(count: int, seed: int) -> list[support.Photo]:
    rng = random.Random(seed)
    made = support.photos(count, seed)
    for photo in made:
        photo.negatives = photos.swaps(photo.caption, 4, rng)
    return made


def base_model(folder: Path, config: dict | None = None) -> str:
    model = photos.write_model(folder, config=config)
    torch.manual_seed(0)
    torch.save(open_clip.create_model(model).state_dict(), folder / "open_clip_pytorch_model.bin")
    return model


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    made, folder = drawn(160, seed=1), tmp_path_factory.mktemp("seen")
    csv = support.write_csv(folder / "csv", made)
    shards = support.write_shards(folder / "shards", made)
    return {
        "csv": ("--train-data", csv, "--csv-separator", ","),
        "webdataset": ("--train-data", shards, "--dataset-type", "webdataset", "--train-num-samples", 160),
    }  # fmt: skip


@pytest.mark.trainer
@pytest.mark.parametrize(("data", "processes"), [("csv", 1), ("webdataset", 1), ("csv", 2)])
def test_degla_learns_on_drawn_photos(tmp_path, seen, data, processes):
    held = drawn(64, seed=2)
    base = base_model(tmp_path / "base", support.MODEL["model_cfg"])
    run, model = photos.fine_tune(
        tmp_path, "run", base, *seen[data], "--epochs", 6, "--batch-size", 16 // processes,
        "--local-loss", "--gather-with-grad", processes=processes,
    )  # fmt: skip
    assert run.values("contrastive_loss")[-1] < 0.8 * run.values("contrastive_loss")[0]
    assert run.values("igc_loss")[-1] < run.values("igc_loss")[0]
    assert run.values("distill_loss")[-1] > 0
    assert photos.pairwise_accuracy(model, held) > photos.pairwise_accuracy(base, held) + 0.1


@pytest.mark.trainer
@pytest.mark.skipif(
    "OPEN_CLIP_EXT_PHOTOS" not in os.environ,
    reason="set OPEN_CLIP_EXT_PHOTOS to a folder with captions.csv (filepath,title) and its photos",
)
def test_degla_learns_on_real_photos(tmp_path):
    seen, held = photos.read(Path(os.environ["OPEN_CLIP_EXT_PHOTOS"]))
    base = base_model(tmp_path / "base")
    csv = support.write_csv(tmp_path / "csv", seen)
    run, model = photos.fine_tune(
        tmp_path, "run", base, "--train-data", csv, "--csv-separator", ",", "--epochs", 3,
        "--batch-size", 64, "--lr", 5e-4, "--warmup", 20,
    )  # fmt: skip
    assert run.values("contrastive_loss")[-1] < run.values("contrastive_loss")[0]
    assert photos.pairwise_accuracy(model, held) > photos.pairwise_accuracy(base, held) + 0.03
