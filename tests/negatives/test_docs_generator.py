"""The generator of docs/negatives.md runs as it stands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from support_negatives import install, run
from test_make import captions, write

from open_clip_ext.negatives.store import Store

PAGE = (Path(__file__).parents[2] / "docs" / "negatives.md").read_text()


def block(language: str, containing: str) -> str:
    return next(b for b in re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL) if containing in b)


def test_the_generator_of_the_page_is_a_recipe(tmp_path):
    assert block("toml", "shuffle") == (
        '[project.entry-points."open_clip_ext.negatives"]\nshuffle = "my_negatives.shuffle:Shuffle"\n'
    )
    env = install(tmp_path / "site", "shuffle", block("python", "class Shuffle"), "Shuffle")
    write(tmp_path / "captions.csv", captions(20))
    words = shlex.split(block("sh", "--recipe shuffle"))
    made = run(*words[2:], env=env, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    store = Store.open(tmp_path / "shuffled.store")
    for caption in captions(20):
        for text in store.texts(caption, rejected=True):
            assert sorted(text.text.split()) == sorted(caption.split())
    assert sum(len(store.texts(caption, "neg")) for caption in captions(20)) >= 19


def test_the_recipe_of_other_kinds_runs(tmp_path):
    head = block("python", "class Shuffle").partition("class Shuffle")[0]
    env = install(tmp_path / "site", "units", head + block("python", "class Units"), "Units")
    write(tmp_path / "captions.csv", ["A dog on a bench"])
    made = run("make", "captions.csv", "--recipe", "units", "--out", "s", env=env, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    texts = Store.open(tmp_path / "s").texts("A dog on a bench")
    assert [(text.kind, text.text, text.of) for text in texts] == [
        ("phrase", "A dog", ""),
        ("foil", "A lighthouse", "A dog"),
    ]


def test_the_look_up_of_the_page_runs(tmp_path, capsys, monkeypatch):
    from open_clip_ext import cli

    monkeypatch.chdir(tmp_path)
    source = write(tmp_path / "captions.csv", ["A dog on a bench"])
    make = ["negatives", "make", str(source), "--recipe", "swap", "--out", "captions.store"]
    assert cli.main([*make, "--cfg", "tagger=textblob"]) == 0
    capsys.readouterr()
    exec(compile(block("python", "Store.open"), "negatives.md", "exec"), {})
    assert capsys.readouterr().out == "neg swap_noun A bench on a dog\n"
