"""The examples in the docs run as they stand."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
from support import train

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


@pytest.mark.real_start
def test_the_loss_of_add_a_loss_trains(tmp_path, model, csv_data):
    site = tmp_path / "site"
    (site / "my_losses").mkdir(parents=True)
    (site / "my_losses" / "sharp.py").write_text(blocks("add-a-loss.md", "python")[0])
    # What pip would make of the example's pyproject.toml.
    entry = re.search(r"sharp = \"(.*)\"", blocks("add-a-loss.md", "toml")[0]).group(1)
    info = site / "my_losses-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my_losses\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[open_clip_ext.losses]\nsharp = {entry}\n")
    run = train(
        tmp_path, "--model", model, "--train-data", csv_data, "--csv-separator", ",",
        "--loss", "sharp", "--loss-cfg", "own_weight=0.3", env={"PYTHONPATH": str(site)}, real=True,
    )  # fmt: skip
    assert run.status == 0, run.output
    assert "loss=sharp options: own_weight=0.3 own_scale=50.0" in run.output
    assert len(run.values("own_loss")) == 4


def test_the_collate_of_add_a_loss_works_in_any_loop(model):
    code = blocks("add-a-loss.md", "python")[1].replace('"ViT-B-32-quickgelu"', repr(model))
    code = code.replace(', pretrained="openai"', "")
    dataset = [(torch.rand(3, 32, 32), f"caption {i}", [f"negative {i}"] * (i % 5)) for i in range(8)]
    scope = {"dataset": dataset}
    exec(compile(code, "add-a-loss.md", "exec"), scope)
    assert scope["texts"].shape == (8, 5, 16)
    assert scope["valid"].sum(1).tolist() == [i % 5 for i in range(8)]
    assert torch.isfinite(scope["loss"])
