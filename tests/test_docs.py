"""The examples in the docs run as they stand."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support import ENVIRONMENT, assert_same, train

from open_clip_ext import cli, plugins
from open_clip_ext.negatives.records import GROUP

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = (*sorted(ROOT.glob("*.md")), *sorted(DOCS.glob("*.md")), ROOT / "patches" / "README.md")
COMMANDS = [
    (page.name, command.replace("\\\n", " "))
    for page in (ROOT / "README.md", *sorted(DOCS.glob("*.md")))
    for command in re.findall(r"^ {4}(open-clip-ext (?:.*\\\n)*.*)$", page.read_text(), re.MULTILINE)
    if not re.search(r" \.\.\.|, eval|[A-Z]{4,} [A-Z]{4,}", command)  # stands for a command, is none
]


def blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / name).read_text(), flags=re.DOTALL)


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_a_command_can_be_called(page, command):
    args = cli.parser().parse_args(shlex.split(command, comments=True)[1:])
    if recipe := getattr(args, "recipe", None):
        generator = plugins.load(plugins.entries(GROUP), recipe, "--recipe", "generator")
        plugins.parse_options(plugins.options(generator), args.cfg or (), "--cfg", recipe)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_headings_that_a_page_names_exist(page):
    text = page.read_text()
    package = ROOT / "open_clip_ext"
    folders = {path.name for path in package.iterdir() if path.is_dir()}
    for name in re.findall(r"`([\w.]+/[\w./-]+)`", text):
        where = package if name.split("/")[0] in folders else ROOT
        if where == package or name.startswith(("open_clip_ext/", "tests/", "launch/", "docs/")):
            assert (where / name).exists(), name
    for name, heading in re.findall(r"\]\((?!http)([^)#]*)#?([^)]*)\)", text):
        there = page.parent / name if name else page
        assert there.exists(), name
        if heading:
            titles = re.findall(r"^#+ (.*)$", there.read_text(), re.MULTILINE)
            assert heading in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_tests_that_losses_names_exist():
    """(`test_clip`, `test_ranks: this, that`, `and_that`): a file, and what names of its tests contain."""
    named = []
    for group in re.findall(r"\((`(?:tests/)?test_[^()]*)\)", (DOCS / "losses.md").read_text()):
        file = ""
        for part in re.split(r",\s*", group.replace("`", "")):
            if found := re.match(r"((?:tests/)?test_\w+):?\s*", part):
                file = found.group(1) if "/" in found.group(1) else f"tests/losses/{found.group(1)}"
                part = part[found.end() :]
            if re.fullmatch(r"\w*", part):  # else a remark such as "all modes"
                named.append((file, part))
    assert len(named) > 40
    for file, test in named:
        assert re.search(rf"def test_\w*{test}", (ROOT / f"{file}.py").read_text()), (file, test)


@pytest.fixture
def example(tmp_path):
    """The package of add-a-loss.md, as pip would install it; a folder for PYTHONPATH."""
    site = tmp_path / "site"
    (site / "my_losses").mkdir(parents=True)
    for code in blocks("add-a-loss.md", "python"):
        if file := re.search(r"# (my_losses/\w+\.py)", code):
            (site / file[1]).write_text(code)
    info = site / "my_losses-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my_losses\nVersion: 1.0\n")
    entries = blocks("add-a-loss.md", "toml")[0].split("[project.entry-points.")[1]
    (info / "entry_points.txt").write_text("[" + entries.replace('"', ""))
    return site


@pytest.mark.real_start
def test_the_losses_of_add_a_loss_train_and_are_one(tmp_path, model, csv_data, example):
    flags = ["--model", model, "--train-data", csv_data, "--csv-separator", ","]
    env = {"PYTHONPATH": str(example)}
    options = ["--loss-cfg", "own_weight=0.3", "--epochs", 2]
    runs = [
        train(tmp_path, *flags, *options, "--loss", loss, name=loss, env=env, real=real)
        for loss, real in (("sharp", True), ("plain-sharp", False))
    ]
    for run in runs:
        assert run.status == 0, run.output
        announced = r"sharp options: own_weight=0.3 own_scale=50.0( same=keep)? companions: neg=4"
        assert re.search(announced, run.output)
        assert len(run.values("own_loss")) == 8
    assert_same(*(run.checkpoint("epoch_2.pt")["state_dict"] for run in runs))


@pytest.mark.trainer
def test_the_loss_of_add_a_loss_with_a_teacher_and_state_trains_in_two_ranks(
    tmp_path, model, csv_data, example
):
    flags = ["--model", model, "--train-data", csv_data, "--csv-separator", ",", "--loss", "keeper"]
    flags += ["--local-loss", "--accum-freq", 2, "--epochs", 3]
    run = train(tmp_path, *flags, env={"PYTHONPATH": str(example)}, processes=2)
    assert run.status == 0, run.output
    state = run.checkpoint("epoch_3.pt")["optimizer"]["open_clip_ext"]
    assert state["loss_state"]["moved"] > 0
    assert state["teacher"]


@pytest.mark.trainer
def test_the_command_line_knows_the_loss_of_add_a_loss(tmp_path, model, csv_data, example):
    flags = ["--model", model, "--train-data", csv_data, "--csv-separator", ",", "--loss", "sharp"]
    env = {"PYTHONPATH": str(example)}
    listing = subprocess.run(
        [sys.executable, "-m", "open_clip_ext.cli", "losses"],
        env={**ENVIRONMENT, **env}, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "sharp\n  from        my_losses.sharp:SharpLoss (my_losses)\n  paper       ours\n" in listing
    for cfg, sentence in (
        (["own_scale=-1"], "--loss sharp: own_scale is -1.0, expected a number >= 0"),
        (["own_weight=0", "own_scale=9"], "--loss-cfg own_scale: it has no effect because own_weight is 0"),
    ):
        run = train(tmp_path, *flags, "--loss-cfg", *cfg, env=env)
        assert run.status == 2
        assert f"open_clip_ext: {sentence}" in run.output


def test_the_collate_of_add_a_loss_works_in_any_loop(model):
    code = blocks("add-a-loss.md", "python")[-1].replace('"ViT-B-32-quickgelu"', repr(model))
    code = code.replace(', pretrained="openai"', "")
    dataset = [(torch.rand(3, 32, 32), f"caption {i}", [f"negative {i}"] * (i % 5)) for i in range(8)]
    scope = {"dataset": dataset}
    exec(compile(code, "add-a-loss.md", "exec"), scope)
    assert scope["texts"].shape == (8, 5, 16)
    assert scope["valid"].sum(1).tolist() == [i % 5 for i in range(8)]
    assert torch.isfinite(scope["loss"])
