"""From captions to training: the command lines of docs/negatives.md, in upstream's real trainer."""

from __future__ import annotations

import csv
import re
import shlex
from pathlib import Path

import pytest
from support import photos, train_here

from open_clip_ext import cli

pytestmark = pytest.mark.trainer

PAGE = (Path(__file__).parents[2] / "docs" / "negatives.md").read_text()
LINES = next(
    b for b in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) if "--loss con-clip" in b
).splitlines()
# Of which every recipe makes something, within the 16 tokens that the tiny model reads.
CAPTIONS = [
    f"{colour} {animal} {verb} on a {place}"
    for colour in ("black", "white")
    for animal in ("dog", "cat")
    for verb in ("sits", "sleeps")
    for place in ("bench", "couch")
]
TERMS = {
    "con-clip": ["contrastive_loss"],
    "omni-neg": ["presence_loss", "absence_loss", "apart_loss"],
    "cs-clip": ["contrastive_loss", "unit_loss"],
    "tsvlc": ["igc_loss", "pos_loss"],
}


def words(line: str) -> list[str]:
    return shlex.split(line)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures and captions.csv, and the stores of the page."""
    place = tmp_path_factory.mktemp("recipes")
    with (place / "captions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["filepath", "title"])
        for i, (photo, caption) in enumerate(zip(photos(len(CAPTIONS)), CAPTIONS, strict=True)):
            photo.image.save(place / f"{i}.png")
            writer.writerow([place / f"{i}.png", caption])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for line in LINES:
            if line.startswith("open-clip-ext "):
                assert cli.main([*words(line)[1:], "--cfg", "tagger=textblob"]) == 0
    return place


def test_the_page_has_a_line_for_each_loss():
    losses = [words(line)[words(line).index("--loss") + 1] for line in LINES if "--loss" in line]
    assert losses == list(TERMS)


@pytest.mark.parametrize("loss", TERMS)
def test_a_store_by_the_recipes_trains_the_loss(tmp_path, model, folder, monkeypatch, loss):
    monkeypatch.chdir(folder)
    (line,) = [line for line in LINES if f"--loss {loss} " in line]
    head, flags = words(line)[:3], words(line)[3:]
    assert head == ["python", "-m", "open_clip_train.main"]
    run = train_here(tmp_path, *flags, "--model", model)
    assert f"{len(CAPTIONS)} of {len(CAPTIONS)} captions" in run.output
    for term in TERMS[loss]:
        assert run.values(term)[0] > 0
