"""The recipe `degla` against a server that answers well, badly, slowly or not at all."""

from __future__ import annotations

import json
import re
import sys
import zipfile
from collections import Counter
from dataclasses import replace

import pytest
from endpoint import Reply, caption_of, edits, good, serve
from support_llm import CAPTIONS, degla, everything, run

from open_clip_ext.errors import InputError
from open_clip_ext.language.entailment import EntailmentChecker
from open_clip_ext.language.lexicon import Lexicon
from open_clip_ext.language.taggers import tagger
from open_clip_ext.negatives.gate import Gate
from open_clip_ext.negatives.recipes.by_model import (
    DeGLA,
    NegationByModel,
    PhrasesByModel,
    PositivesByModel,
)
from open_clip_ext.negatives.records import Candidate


def test_every_caption_gets_its_candidates_in_the_order_of_the_types():
    def all_five(request, number):
        return Reply(json.dumps({type: f"{type} of {caption_of(request)}" for type in reversed(DeGLA.types)}))

    with serve(all_five) as endpoint:
        found = run(endpoint, retries=0)
    assert found == {
        caption: [Candidate(type, f"{type} of {caption}") for type in DeGLA.types] for caption in CAPTIONS
    }


def test_a_null_is_no_candidate():
    def none_for_one(request, number):
        return Reply(edits()) if caption_of(request) == CAPTIONS[0] else good(request, number)

    with serve(none_for_one) as endpoint:
        found = run(endpoint, CAPTIONS[:2])
    assert found[CAPTIONS[0]] == []
    assert len(found[CAPTIONS[1]]) == 1


def test_requests_are_bounded_and_the_first_goes_alone():
    def slow(request, number):
        alone.append(endpoint.widest)
        return replace(good(request, number), delay=0.05)

    alone = []
    with serve(slow) as endpoint:
        run(endpoint, concurrency=5)
    assert alone[0] == 1
    assert endpoint.widest == 5


def test_each_finished_caption_is_yielded_at_once():
    def second_is_slow(request, number):
        return replace(good(request, number), delay=1.0 if caption_of(request) == CAPTIONS[1] else 0)

    with serve(second_is_slow) as endpoint, degla(endpoint, concurrency=2) as generator:
        order = [index for index, _ in generator.generate(CAPTIONS[:6])]
    assert order == [0, 2, 3, 4, 5, 1]


def test_a_consumer_may_stop_at_any_time():
    def slow(request, number):
        return replace(good(request, number), delay=0.05)

    with serve(slow) as endpoint, degla(endpoint) as generator:
        answers = generator.generate(CAPTIONS)
        next(answers)
        answers.close()
        assert len(list(generator.generate(CAPTIONS[:3]))) == 3


# --- answers that are not what was asked for


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("I cannot help with that.", "there is no JSON object in it"),
        (None, "there is no JSON object in it"),
        ("", "there is no JSON object in it"),
        ('{"reshuffle": "a', "there is no JSON object in it"),
        ('{"reshuffle": "a"}', "swap_noun: Field required; swap_adj: Field required"),
        (edits(reshuffle=["a", "b"]), "reshuffle: Input should be a valid string"),
        (edits(reshuffle=3), "reshuffle: Input should be a valid string"),
        (edits(sixth="a"), "sixth: Extra inputs are not permitted"),
        (f"[{edits()}, {edits()}]", "the object: Invalid JSON"),
        ('{"reshuffle": "a \x0c b"}', "the object: Invalid JSON: control character"),
    ],
)
def test_an_unusable_answer_goes_back_with_what_was_wrong(content, complaint):
    def at_second_try(request, number):
        return Reply(content) if len(request["messages"]) == 2 else good(request, number)

    with serve(at_second_try) as endpoint:
        found = run(endpoint, CAPTIONS[:1])
    assert found == {CAPTIONS[0]: [Candidate("replace_noun", "a zebra runs past house 0")]}
    first, second = endpoint.requests
    assert second["messages"][:2] == first["messages"]
    assert second["messages"][3]["content"].startswith(f"This cannot be used: {complaint}")
    assert second["seed"] != first["seed"]


def test_edits_that_break_their_rule_are_asked_for_again_and_the_good_ones_stay():
    answers = [
        edits(reshuffle="a b", swap_noun="a cat chases a dog", replace_noun="a dog chases a cow"),
        edits(reshuffle="a dog a chases cat", swap_noun="a dog", swap_adj="none at all", replace_noun=None),
    ]
    with serve(lambda _, number: Reply(answers[number])) as endpoint:
        found = run(endpoint, ["a dog chases a cat"], retries=1)["a dog chases a cat"]
    (complaint,) = [message["content"] for message in endpoint.requests[1]["messages"][3:]]
    assert complaint == (
        "This cannot be used: reshuffle: more than twice or less than half as many words. "
        "Give the whole object again."
    )
    assert found == [
        Candidate("reshuffle", "a dog a chases cat"),
        Candidate("swap_noun", "a cat chases a dog"),
        Candidate("swap_adj", "none at all"),  # for the gate of `make` to turn away
        Candidate("replace_noun", "a dog chases a cow"),
    ]


def test_a_cut_answer_is_called_one():
    def at_second_try(request, number):
        return Reply('{"reshuffle": "a', ending="length") if number == 0 else good(request, number)

    with serve(at_second_try) as endpoint:
        run(endpoint, CAPTIONS[:1], retries=1)
    assert "cut off" in endpoint.requests[1]["messages"][3]["content"]


def test_after_the_last_try_the_caption_is_rejected_and_the_run_goes_on():
    def never_for_one(request, number):
        return Reply("no") if caption_of(request) == CAPTIONS[3] else good(request, number)

    with serve(never_for_one) as endpoint:
        found = run(endpoint, retries=2)
    assert found.pop(CAPTIONS[3]) == everything("no_answer")
    assert all(len(candidates) == 1 for candidates in found.values())
    assert endpoint.captions().count(CAPTIONS[3]) == 3


@pytest.mark.parametrize("wrapped", ["```json\n{}\n```", "Sure! {}", "<think>maybe {{x}}?</think>{}"])
def test_words_around_the_object_do_no_harm(wrapped):
    with serve(lambda *_: Reply(wrapped.format(edits(reshuffle="b a")))) as endpoint:
        found = run(endpoint, ["a b"])
    assert found == {"a b": [Candidate("reshuffle", "b a")]}
    assert len(endpoint.requests) == 1


# --- structured output


@pytest.mark.parametrize("status", [400, 500])
@pytest.mark.parametrize("accepted", ["json_schema", "json_object", "none"])
def test_a_refused_format_falls_back_once_and_is_remembered(accepted, status, capsys):
    def only(request, number):
        form = request.get("response_format", {"type": "none"})["type"]
        return good(request, number) if form == accepted else Reply(status=status)

    with serve(only) as endpoint:
        found = run(endpoint, structured="auto")
    assert len(found) == len(CAPTIONS)
    refused = ("json_schema", "json_object", "none").index(accepted)
    assert len(endpoint.requests) == len(CAPTIONS) + refused
    assert capsys.readouterr().err.count("fails with response_format") == refused


def test_the_schema_asks_for_exactly_the_five():
    with serve() as endpoint:
        run(endpoint, CAPTIONS[:1], structured="auto")
        run(endpoint, CAPTIONS[:1], structured="json_object")
    strict, loose = (request["response_format"] for request in endpoint.requests)
    schema = strict["json_schema"]["schema"]
    assert strict["json_schema"]["strict"] is True
    assert schema["required"] == list(DeGLA.types) == list(schema["properties"])
    assert schema["additionalProperties"] is False
    assert loose == {"type": "json_object", "schema": schema}


def test_a_busy_server_is_waited_for_and_its_format_is_not_given_up():
    def busy_at_first(request, number):
        return Reply(status=503) if number < 2 else good(request, number)

    with serve(busy_at_first) as endpoint:
        run(endpoint, CAPTIONS[:3], structured="auto", patience=2)
    assert {request["response_format"]["type"] for request in endpoint.requests} == {"json_schema"}


# --- model, options, identity, cost


def test_the_only_model_is_taken():
    with serve(models=("tiny-7b",)) as endpoint, degla(endpoint) as generator:
        list(generator.generate(CAPTIONS[:1]))
        assert generator.identity()["model"] == endpoint.requests[0]["model"] == "tiny-7b"


@pytest.mark.parametrize(
    ("models", "sentence"),
    [
        ((), r"it has 0 models; name one with --cfg model=NAME$"),
        (("a", "b"), "it has 2 models; name one with --cfg model=NAME: a, b"),
    ],
)
def test_of_several_models_one_must_be_named(models, sentence):
    with serve(models=models) as endpoint, pytest.raises(InputError, match=sentence):
        DeGLA(base_url=endpoint.url)


def test_a_server_that_is_not_there():
    with pytest.raises(
        InputError, match=r"^--cfg base_url=http://127.0.0.1:9/v1: the models there cannot be"
    ):
        DeGLA(base_url="http://127.0.0.1:9/v1", patience=0)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "the recipe degla needs an endpoint: --cfg base_url="),
        ({"base_url": "x", "concurrency": 0}, "--cfg concurrency=0: give at least 1"),
        ({"base_url": "x", "retries": -1}, "--cfg retries=-1: give at least 0"),
        ({"base_url": "x", "extra": "{a"}, r"--cfg extra=\{a: not JSON"),
        (
            {"base_url": "x", "extra": "[1]"},
            r"--cfg extra=\[1\]: give a JSON object of fields other than model",
        ),
        ({"base_url": "x", "prompts": "/nowhere"}, r"--cfg prompts=/nowhere: task.md cannot be read there"),
    ],
)
def test_wrong_options(options, sentence):
    with pytest.raises(InputError, match=f"^{sentence}"):
        DeGLA(**options)


def test_without_openai_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(
        InputError, match=r'needs the package openai: run `pip install "open_clip_ext\[negatives\]"`'
    ):
        DeGLA(base_url="http://127.0.0.1:9/v1")


def test_the_identity_changes_with_what_the_texts_depend_on_and_with_nothing_else(tmp_path):
    def identity(**options):
        generator = DeGLA(**{"base_url": "http://127.0.0.1:9/v1", "model": "m", **options})
        generator.close()
        return generator.identity()

    for type in ("task", *DeGLA.types):
        (tmp_path / f"{type}.md").write_text("Do it well.")
    same = [{}, {"base_url": "http://elsewhere/v1"}, {"concurrency": 2}, {"timeout": 3.0}, {"price_in": 1.0}]
    assert len({str(identity(**options)) for options in same}) == 1
    other = [
        {},
        {"model": "n"},
        {"extra": '{"top_p": 0.9}'},
        {"temperature": 0.1},
        {"seed": 1},
        {"max_tokens": 9},
        {"prompts": str(tmp_path)},
    ]
    assert len({str(identity(**options)) for options in other}) == len(other)


def test_the_seed_of_a_request_depends_on_the_caption_alone():
    def seeds(captions, seed=0):
        with serve() as endpoint:
            run(endpoint, captions, seed=seed)
        return {caption_of(request): request["seed"] for request in endpoint.requests}

    assert seeds(CAPTIONS) == seeds(CAPTIONS[::-1])
    assert len(set(seeds(CAPTIONS).values())) == len(CAPTIONS)
    assert seeds(CAPTIONS) != seeds(CAPTIONS, seed=1)


def test_what_is_none_is_not_sent():
    with serve() as endpoint:
        run(endpoint, CAPTIONS[:1], temperature=None, max_tokens=None)
    assert set(endpoint.requests[0]) == {"model", "messages", "seed"}


def test_further_fields_are_sent_and_others_left_out():
    extra = {"seed": None, "max_tokens": 9, "chat_template_kwargs": {"enable_thinking": False}}
    with serve() as endpoint:
        run(endpoint, CAPTIONS[:1], extra=json.dumps(extra))
    sent = endpoint.requests[0]
    assert "seed" not in sent
    assert sent["max_tokens"] == 9
    assert sent["chat_template_kwargs"] == {"enable_thinking": False}


def test_the_key_comes_from_the_environment_alone(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with serve() as endpoint, degla(endpoint) as generator:
        list(generator.generate(CAPTIONS[:1]))
        assert generator.endpoint._client.api_key == "secret"
        assert "secret" not in str(generator.identity()) + generator.status()


def test_the_status_counts_tokens_money_and_repeats():
    def twice(request, number):
        return Reply("no") if number == 0 else good(request, number)

    with serve(twice) as endpoint, degla(endpoint, price_in=2.0, price_out=8.0) as generator:
        list(generator.generate(CAPTIONS[:19]))
        # 20 answers of 1000 tokens in and 50 out
        assert generator.status() == "20k tokens in, 1000 out, cost 0.05, 1 asked again"


# --- the prompts


def examples(type: str) -> list[tuple[str, str]]:
    return re.findall(rf"^caption: (.*)\n{type}: (.*)$", DeGLA.instructions(), re.MULTILINE)


def words(text: str) -> list[str]:
    return sorted(re.findall(r"[a-z]+", text.lower()))


@pytest.mark.parametrize("type", DeGLA.types)
def test_the_examples_keep_their_own_rule(type):
    pairs = examples(type)
    assert len(pairs) == 4
    assert [edit for _, edit in pairs].count("null") == 1
    for caption, edit in pairs:
        if edit == "null":
            continue
        assert words(caption) != words(edit) or caption != edit
        if type.startswith("replace"):
            gone, come = Counter(words(caption)), Counter(words(edit))
            articles = {"a", "an"}
            assert len(set(gone - come) - articles) == len(set(come - gone) - articles) == 1
        else:
            assert words(caption) == words(edit)


def test_the_examples_pass_the_gate():
    gate = Gate(EntailmentChecker(Lexicon()), tagger("textblob"))
    for type in DeGLA.types:
        for caption, edit in examples(type):
            if edit != "null":
                (tokens,) = gate.tagger.tag([caption])
                assert gate.check(caption, tokens, [Candidate(type, edit)]) == [Candidate(type, edit)]


def test_the_instructions_are_the_files_and_come_first():
    with serve() as endpoint:
        run(endpoint, CAPTIONS[:2])
    for request in endpoint.requests:
        assert request["messages"][0] == {"role": "system", "content": DeGLA.instructions()}


def test_prompts_and_page_are_in_the_wheel(wheel):
    with zipfile.ZipFile(wheel) as opened:
        names = opened.namelist()
    wanted = ["show.html"] + [
        f"recipes/prompts/{made.name.removesuffix('-llm')}/{name}.md"
        for made in (DeGLA, NegationByModel, PhrasesByModel, PositivesByModel)
        for name in ("task", *made.types)
    ]
    assert {f"open_clip_ext/negatives/{name}" for name in wanted} <= set(names)
