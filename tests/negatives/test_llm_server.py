"""`negatives make --recipe degla` against a real OpenAI-compatible server, and against one that dies."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from endpoint import Reply, edits, good, serve
from support import ENVIRONMENT
from tiny_llm import serve_llm, write_llm

from open_clip_ext.cli import main
from open_clip_ext.negatives.recipes.by_model import DeGLA
from open_clip_ext.negatives.records import Text
from open_clip_ext.negatives.store import Store

CAPTIONS = [f"A {colour} dog runs past the {place} ." for colour in ("black", "white", "brown", "small")
            for place in ("house", "tree", "car")]  # fmt: skip
GARBAGE = [Text(type, "", reason="no_answer", generator="degla") for type in DeGLA.types]


KNOWN = CAPTIONS[:4]


def answer(caption: str) -> dict[str, str]:
    """What the taught model knows of a caption."""
    return {
        "swap_noun": caption.replace("dog", "x").replace(place(caption), "dog").replace("x", place(caption)),
        "replace_noun": caption.replace("dog", "cat"),
    }


def place(caption: str) -> str:
    return caption.split()[-2]


@dataclass
class Served:
    """A real server, and the folders of two models that it loads by name."""

    url: str
    random: Path  # every answer is garbage
    taught: Path  # knows the answers for `KNOWN`, and how an answer looks
    prompts: Path  # what it was taught with


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llm")
    (prompts := folder / "prompts").mkdir()
    for name in ("task", *DeGLA.types):
        (prompts / f"{name}.md").write_text("Edit." if name == "task" else "")
    talks = [
        [
            {"role": "system", "content": "Edit."},
            {"role": "user", "content": f"caption: {caption}"},
            {"role": "assistant", "content": edits(**answer(caption))},
        ]
        for caption in KNOWN
    ]
    words = [*CAPTIONS, *(edits(**answer(caption)) for caption in CAPTIONS)]
    random = write_llm(folder / "random", [DeGLA.instructions(), *words])
    taught = write_llm(folder / "taught", words, talks)
    with serve_llm(folder / "log") as url:
        yield Served(url, random, taught, prompts)


@pytest.fixture
def captions(tmp_path) -> Path:
    path = tmp_path / "captions.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["title"], *([caption] for caption in CAPTIONS)])
    return path


def make(captions: Path, url: str, **options: object) -> list[str]:
    cfg = {"base_url": url, "max_tokens": 16, "retries": 1, "patience": 0, "concurrency": 2, **options}
    words = ["negatives", "make", captions, "--recipe", "degla", "--out", captions.with_suffix(".store")]
    return [*map(str, words), "--cfg", *(f"{name}={value}" for name, value in cfg.items())]


def start(*words: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "open_clip_ext.cli", *words]
    return subprocess.Popen(command, env=ENVIRONMENT)


def entries(captions: Path) -> dict[str, list[Text]]:
    return {caption: texts for caption, _, texts in Store.open(captions.with_suffix(".store")).entries()}


@pytest.mark.real_start
def test_a_real_server_s_good_answers_become_negatives(served, captions):
    options = {"model": served.taught, "prompts": served.prompts, "temperature": "none", "max_tokens": 200}
    assert main([*make(captions, served.url, **options), "--limit", str(len(KNOWN))]) == 0
    assert entries(captions) == {
        caption: [Text(type, text, generator="degla") for type, text in answer(caption).items()]
        for caption in KNOWN
    }


@pytest.mark.real_start
def test_a_real_server_s_garbage_is_not_recorded(served, captions, capsys):
    for _ in range(2):
        with pytest.raises(SystemExit) as stopped:
            main([*make(captions, served.url, model=served.random), "--limit", "4"])
        assert stopped.value.code == 1
        said = capsys.readouterr().err
        assert f"{served.url} gave no usable answer to 4 captions in a row: " in said
        assert "captions are done already" not in said
        assert entries(captions) == {}


def test_garbage_is_rejected_counted_and_not_asked_for_again_where_there_are_good_answers(captions, capsys):
    def good_for_one(request, number):
        return good(request, number) if CAPTIONS[0] in str(request) else Reply("no")

    with serve(good_for_one) as endpoint:
        assert main([*make(captions, endpoint.url), "--limit", "4"]) == 0
        assert [texts for caption, texts in entries(captions).items() if caption != CAPTIONS[0]] == [
            GARBAGE
        ] * 3
        assert main([*make(captions, endpoint.url), "--limit", "6"]) == 0
        said = capsys.readouterr()
        assert said.out.count("no_answer 5") == len(DeGLA.types)
        assert "4 captions are done already" in said.err


USELESS = [
    Reply(body=b'{"error": {"message": "Provider returned error", "code": 429}}'),
    Reply(body=b'{"choices": null}'),
    Reply(None, {"reasoning": edits(replace_noun="a b")}),
    Reply("I cannot help with that."),
]


@pytest.mark.parametrize("reply", USELESS)
def test_captions_that_got_no_answer_at_all_are_asked_for_again(reply, captions, capsys):
    with serve(lambda *_: reply) as endpoint, pytest.raises(SystemExit) as stopped:
        main(make(captions, endpoint.url))
    assert stopped.value.code == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"open_clip_ext: {endpoint.url} ")
    assert entries(captions) == {}
    with serve() as endpoint:
        assert main(make(captions, endpoint.url)) == 0
    assert set(endpoint.captions()) == set(entries(captions)) == set(CAPTIONS)


def test_after_a_refusal_the_same_store_is_made_with_what_the_sentence_names(captions, capsys):
    def picky(request, number):
        return Reply("no seed here", status=422) if "seed" in request else good(request, number)

    with captions.open("a") as file:
        file.write("<b>no caption</b>\n")  # has an entry of its own, without texts
    with serve(picky) as endpoint:
        with pytest.raises(SystemExit) as stopped:
            main(make(captions, endpoint.url))
        assert stopped.value.code == 2
        sentence = capsys.readouterr().err.splitlines()[-1]
        assert sentence.endswith("""(status 422: no seed here); give --cfg 'extra={"seed": null}'""")
        assert main(make(captions, endpoint.url, extra='{"seed": null}')) == 0
    assert set(entries(captions)) == {*CAPTIONS, "<b>no caption</b>"}


@pytest.mark.real_start
def test_a_kill_loses_only_what_was_in_flight(captions):
    def slow(request, number):
        return replace(good(request, number), delay=0.2)

    with serve(slow) as endpoint:
        with start(*make(captions, endpoint.url, concurrency=2)) as process:
            while len(endpoint.requests) < 7 and process.poll() is None:
                time.sleep(0.01)
            process.kill()
        assert process.returncode == -signal.SIGKILL
        assert main(make(captions, endpoint.url)) == 0
    assert set(entries(captions)) == set(CAPTIONS)
    assert len(CAPTIONS) < len(endpoint.requests) <= len(CAPTIONS) + 2


def test_an_endpoint_that_dies_ends_the_run_and_another_goes_on(captions, capsys):
    def dies(request, number):
        return good(request, number) if number < 5 else Reply(drop=True)

    with serve(dies) as endpoint, pytest.raises(SystemExit) as stopped:
        main(make(captions, endpoint.url))
    assert stopped.value.code == 1
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert sentence.startswith(f"open_clip_ext: {endpoint.url} has stopped answering")
    assert sentence.endswith("when the endpoint is back, run the same command again")
    before = entries(captions)
    assert len(before) == 5

    with serve() as endpoint:  # at another address
        assert main(make(captions, endpoint.url)) == 0
    assert len(endpoint.requests) == len(CAPTIONS) - 5
    after = entries(captions)
    assert set(after) == set(CAPTIONS)
    assert before.items() <= after.items()


def test_another_model_is_not_mixed_in(captions, capsys):
    with serve() as endpoint:
        assert main(make(captions, endpoint.url)) == 0
    with serve(models=("other",)) as endpoint, pytest.raises(SystemExit) as stopped:
        main(make(captions, endpoint.url))
    assert stopped.value.code == 2
    assert "made in another way (model: 'tiny' there, 'other' now)" in capsys.readouterr().err


def test_what_one_caption_cost_is_shown(captions, capsys):
    with serve() as endpoint:
        assert main(make(captions, endpoint.url, price_in=1, price_out=2)) == 0
    assert "12k tokens in, 600 out, cost 0.01" in capsys.readouterr().err


def test_a_caption_that_fails_is_left_for_the_next_run(captions, capsys):
    def one(request, number):
        return Reply(status=500) if CAPTIONS[3] in str(request) else good(request, number)

    with serve(one) as endpoint, pytest.raises(SystemExit) as stopped:
        main(make(captions, endpoint.url))
    assert stopped.value.code == 1
    assert "1 captions failed; run the same command again" in capsys.readouterr().err
    with serve() as endpoint:
        assert main(make(captions, endpoint.url)) == 0
    assert endpoint.captions() == [CAPTIONS[3]]
