"""The page on language models names every option."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from open_clip_ext import plugins
from open_clip_ext.negatives.recipes.by_model import DeGLA
from open_clip_ext.negatives.records import GROUP

DOCS = Path(__file__).parents[2] / "docs"


def test_every_recipe_stands_in_the_table_with_its_types_and_kinds():
    page = (DOCS / "negatives.md").read_text()
    table = page.partition("| recipe | kinds |")[2].partition("\n\n")[0].splitlines()[2:]
    rows = [line.split(" |")[:3] for line in table]
    known = plugins.entries(GROUP)
    names = [name for row in rows for name in re.findall(r"`([\w-]+)`", row[0])]
    assert sorted(names) == sorted(known)
    for first, kinds, types in rows:
        (name, *others) = re.findall(r"`([\w-]+)`", first)
        if others:  # those by a language model, which have the types of others
            continue
        made = known[name].load()
        assert re.findall(r"`(\w+)`", types) == list(made.types)
        assert re.findall(r"`(\w+)`", kinds) == list(made.kinds)


def test_the_options_of_degla_are_all_in_its_table():
    table = re.findall(r"^\| (`.*?) \|", (DOCS / "negatives-llm.md").read_text(), re.MULTILINE)
    named = set(re.findall(r"`(\w+)`", " ".join(table)))
    assert named == {name for name in plugins.options(DeGLA) if name != "seed"}


def test_the_prompts_are_where_the_page_copies_them_from():
    code, folder = re.search(
        r"""cp -r "\$\(python -c '(.*)'\)(/\w+/\w+)" """, (DOCS / "negatives-llm.md").read_text()
    ).groups()
    where = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert (Path(where.strip() + folder) / "task.md").is_file()
