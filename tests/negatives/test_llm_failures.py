"""The recipe `degla` and an endpoint in trouble: what is repeated, what ends a run, what it says."""

from __future__ import annotations

import json
import time

import pytest
from endpoint import Reply, caption_of, edits, good, serve
from support_llm import CAPTIONS, degla, everything, run

from open_clip_ext.errors import InputError, TrainingError
from open_clip_ext.negatives.recipes.by_model import DeGLA
from open_clip_ext.negatives.records import Candidate

# --- trouble that passes, and that does not


@pytest.mark.parametrize("trouble", [{"status": 429}, {"status": 500}, {"status": 503}, {"drop": True}])
def test_a_request_in_trouble_is_repeated(trouble):
    def every_third(request, number):
        return Reply(**trouble) if number % 3 == 1 else good(request, number)

    with serve(every_third) as endpoint:
        assert len(run(endpoint, CAPTIONS[:4], patience=4, concurrency=1)) == 4


def test_the_wait_is_what_a_busy_server_asks_for():
    def later(request, number):
        return Reply(status=429, headers={"retry-after-ms": "700"}) if number == 0 else good(request, number)

    with serve(later) as endpoint:
        start = time.monotonic()
        run(endpoint, CAPTIONS[:1])
    assert time.monotonic() - start >= 0.7


@pytest.mark.parametrize("death", [{"drop": True}, {"status": 500}, {"body": b'{"error": "overloaded"}'}])
def test_an_endpoint_that_dies_midway_loses_nothing_that_was_finished(death):
    def dies(request, number):
        return good(request, number) if number < 12 else Reply(**death)

    found = []

    def collect(generator):
        for index, _ in generator.generate(CAPTIONS):
            found.append(index)

    with (
        serve(dies) as endpoint,
        degla(endpoint, concurrency=4, patience=0) as generator,
        pytest.raises(TrainingError, match=f"^{endpoint.url} has stopped answering .*same command again"),
    ):
        collect(generator)
    assert len(set(found)) == len(found) == 12
    assert len(set(endpoint.captions())) < 20


def test_one_caption_s_failure_is_left_out_and_does_not_end_the_run():
    def one(request, number):
        return Reply(status=500) if caption_of(request) == CAPTIONS[5] else good(request, number)

    with serve(one) as endpoint:
        found = run(endpoint, concurrency=4, patience=0)
    assert set(CAPTIONS) - set(found) == {CAPTIONS[5]}


def test_an_answer_that_breaks_the_server_is_asked_for_with_another_seed():
    seeds = []

    def breaks(request, number):
        seeds.append(request["seed"])
        return Reply(status=500) if number == 1 else good(request, number)

    with serve(breaks) as endpoint:
        found = run(endpoint, CAPTIONS[:2], patience=0)
    assert len(found) == 2
    assert seeds[2] == seeds[1] + 1


def test_an_answer_that_does_not_come_in_time_is_a_failure():
    with (
        serve(lambda *_: Reply(edits(), delay=1.0)) as endpoint,
        pytest.raises(TrainingError, match=r"does not answer .*timed out"),
    ):
        run(endpoint, CAPTIONS[:1], timeout=0.2, patience=0)


def test_an_answer_that_breaks_off_is_a_failure():
    broken = Reply(body=b'{"choices": [', headers={"Content-Length": "500", "Connection": "close"})
    with (
        serve(lambda *_: broken) as endpoint,
        pytest.raises(TrainingError, match=r"does not answer \(Connection error: peer closed connection"),
    ):
        run(endpoint, CAPTIONS[:1], patience=0)


def test_a_busy_server_is_not_one_that_refuses():
    with (
        serve(lambda *_: Reply("slow down", status=429)) as endpoint,
        pytest.raises(
            TrainingError, match=r"does not answer \(status 429: slow down\); every finished caption"
        ),
    ):
        run(endpoint, patience=0)


# --- a failure with status 200


def body(value: object) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()


NO_ANSWERS = [
    (
        {"error": {"message": "Provider returned error", "code": 429}},
        "status 200, but error 429: Provider returned error",
    ),
    (
        {"error": {"message": "Provider returned error", "code": "502", "metadata": {"raw": "no GPU left"}}},
        r"status 200, but error 502: Provider returned error \(no GPU left\)",
    ),
    ({"error": "overloaded"}, "status 200, but no completion: overloaded"),
    ({"error": {"message": "busy"}, "choices": []}, "status 200, but no completion: busy"),
    ({"code": 503, "msg": "no worker"}, "status 200, but error 503: no worker"),
    ({"choices": [], "usage": None}, 'status 200, but no completion: {"choices": \\[\\]'),
    ({"choices": None}, 'status 200, but no completion: {"choices": null}'),
    ({"choices": [{"message": None}]}, "status 200, but no completion: "),
    ({"choices": [{"message": {"content": 3}}]}, "status 200, but no completion: "),
    ({"choices": [{"delta": {"content": "a"}}]}, "status 200, but no completion: "),
    (
        {"choices": [{"error": {"code": 504, "message": "late"}, "message": {"content": ""}}]},
        "status 200, but error 504: late",
    ),
    (
        {"choices": [{"finish_reason": "error", "message": {"content": ""}}]},
        "status 200, but no completion: ",
    ),
    (None, "status 200, but no completion: null"),
    ([], "status 200, but no completion: an empty body"),
    (b"", "status 200, but no completion: an empty body"),
    (b'{"choices": [{"mess', "status 200, but no completion: {"),
    (
        b"<html><style>p {}</style><h1>Sign in</h1></html>",
        r"status 200, but no completion: Sign in\); correct the address \(most end in /v1\)",
    ),
    (b"data: {}\n\ndata: [DONE]", """it streams its answers: give --cfg 'extra={"stream": false}'"""),
]


@pytest.mark.parametrize(("value", "words"), NO_ANSWERS)
def test_what_has_no_answer_in_it_is_a_failure_whatever_its_status(value, words):
    with (
        serve(lambda *_: Reply(body=body(value))) as endpoint,
        pytest.raises(TrainingError, match=rf"^{endpoint.url} does not answer \(.*{words}"),
    ):
        run(endpoint, CAPTIONS[:3], patience=0)
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize("value", [value for value, _ in NO_ANSWERS])
def test_a_failure_with_status_200_is_repeated(value):
    def at_first(request, number):
        failure = Reply(body=body(value), headers={"retry-after-ms": "1"})
        return failure if number < 2 else good(request, number)

    with serve(at_first) as endpoint:
        assert run(endpoint, CAPTIONS[:1], patience=2, retries=0) == {
            CAPTIONS[0]: [Candidate("replace_noun", "a zebra runs past house 0")]
        }
    assert len(endpoint.requests) == 3


def test_a_refusal_with_status_200_is_not_repeated():
    refusal = Reply(body=body({"error": {"message": "no such model", "code": 404}}))
    with (
        serve(lambda *_: refusal) as endpoint,
        pytest.raises(InputError, match=r"refuses the request \(status 200, but error 404: no such model\)"),
    ):
        run(endpoint)
    assert len(endpoint.requests) == 1


# --- answers in other forms

TEXT = {"type": "text", "text": "object"}


@pytest.mark.parametrize(
    "parts",
    [
        [TEXT],
        [{"type": "thinking", "thinking": [{"type": "text", "text": "{hm}"}]}, TEXT],
        [{"type": "reasoning", "text": "{hm}"}, TEXT],
        [{"type": "output_text", "text": "object"}],
        ["object"],
    ],
)
def test_the_text_parts_of_a_content_are_the_answer(parts):
    def in_parts(request, number):
        answer = json.dumps(good(request, number).content)[1:-1]
        halves = json.loads(json.dumps(parts).replace("object", answer))
        return Reply([*halves[:-1], *cut_in_two(halves[-1])])

    with serve(in_parts) as endpoint:
        assert run(endpoint, CAPTIONS[:1]) == {
            CAPTIONS[0]: [Candidate("replace_noun", "a zebra runs past house 0")]
        }


def cut_in_two(part):
    if isinstance(part, str):
        return part[:9], part[9:]
    return {**part, "text": part["text"][:9]}, {**part, "text": part["text"][9:]}


@pytest.mark.parametrize("usage", [None, {}, [], {"prompt_tokens": None, "completion_tokens": "9"}])
def test_a_server_need_not_count_tokens(usage):
    def uncounted(request, number):
        message = {"role": "assistant", "content": good(request, number).content}
        return Reply(body=body({"choices": [{"message": message}], "usage": usage}))

    with serve(uncounted) as endpoint, degla(endpoint) as generator:
        assert len(list(generator.generate(CAPTIONS[:2]))) == 2
        assert generator.status() == "0 tokens in, 0 out"


# --- a server that refuses how it is asked


def detail(name: str) -> dict:
    """As pydantic has it, with the whole request in it."""
    wrong = {"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs are not permitted"}
    return {"detail": [{**wrong, "input": {"response_format": {}, "temperature": 1}}]}


def message(text: str, **more: object) -> dict:
    return {"error": {"message": text, **more}}


FIELDS = [
    (
        "seed",
        detail("seed"),
        "(status 422: body.seed: Extra inputs are not permitted); give --cfg 'extra={\"seed\": null}'",
    ),
    (
        "seed",
        {"object": "error", "message": detail("seed")},
        "(status 422: body.seed: Extra inputs are not permitted); give --cfg 'extra={\"seed\": null}'",
    ),
    (
        "max_tokens",
        message("Unsupported parameter: 'max_tokens'; use 'max_completion_tokens'", param="max_tokens"),
        "(status 422: Unsupported parameter: 'max_tokens'; use 'max_completion_tokens'); "
        "give --cfg max_tokens=none 'extra={\"max_completion_tokens\": 512}'",
    ),
    (
        "max_tokens",
        message("max_tokens: 512 is more than this model writes"),
        "(status 422: max_tokens: 512 is more than this model writes); give --cfg max_tokens=none",
    ),
    (
        "temperature",
        message("temperature must be 1 with this model, whatever the response_format"),
        "(status 422: temperature must be 1 with this model, whatever the response_format); "
        "give --cfg temperature=none",
    ),
]


@pytest.mark.parametrize(("name", "said", "sentence"), FIELDS)
def test_a_field_that_is_refused_is_named_once_with_what_leaves_it_out(name, said, sentence, capsys):
    def picky(request, number):
        return Reply(status=422, body=body(said)) if name in request else good(request, number)

    with serve(picky) as endpoint:
        with pytest.raises(InputError) as stopped:
            run(endpoint, structured="auto")
        assert str(stopped.value) == f"--cfg base_url={endpoint.url}: it refuses the request {sentence}"
        assert len(endpoint.requests) == 1  # no other format was tried
        assert capsys.readouterr().err == ""
        options = {"temperature": None} if name == "temperature" else {}
        options |= {"max_tokens": None} if name == "max_tokens" else {}
        options |= {"extra": '{"seed": null}'} if name == "seed" else {}
        assert len(run(endpoint, structured="auto", **options)) == len(CAPTIONS)


def test_what_is_to_be_left_out_is_added_to_the_extra_fields_that_there_are():
    with (
        serve(lambda *_: Reply(status=422, body=body(detail("seed")))) as endpoint,
        pytest.raises(InputError, match=r"""extra=\{"top_p": 0.9, "seed": null\}'$"""),
    ):
        run(endpoint, extra='{"top_p": 0.9}')


def test_an_extra_field_that_is_refused_is_to_be_taken_out():
    with (
        serve(lambda *_: Reply("no top_k here", status=400)) as endpoint,
        pytest.raises(InputError, match=r"\(status 400: no top_k here\); take top_k out of --cfg extra$"),
    ):
        run(endpoint, extra='{"top_k": 5}')


def test_the_one_format_that_is_refused_is_named():
    with (
        serve(lambda *_: Reply("no response_format here", status=400)) as endpoint,
        pytest.raises(InputError, match=r"no response_format here\); give --cfg structured=none$"),
    ):
        run(endpoint, structured="json_schema")


@pytest.mark.parametrize(
    ("status", "help"),
    [
        (400, "change the request with --cfg, or name another model with --cfg model=NAME"),
        (401, "put the right key into OPENAI_API_KEY"),
        (402, "OPENAI_API_KEY has to be the key of an account that can pay"),
        (403, "put a key that may use the model into OPENAI_API_KEY, or name another model with "
              "--cfg model=NAME"),
        (404, "correct the address (most end in /v1), or name another model with --cfg model=NAME"),
        (405, "correct the address (most end in /v1)"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("structured", ["auto", "none"])
def test_a_call_that_is_refused_from_the_start_is_a_wrong_call(status, help, structured, capsys):
    with serve(lambda *_: Reply("the server's own words", status=status)) as endpoint:
        with pytest.raises(InputError) as stopped:
            run(endpoint, structured=structured)
        assert str(stopped.value) == (
            f"--cfg base_url={endpoint.url}: it refuses the request "
            f"(status {status}: the server's own words); {help}"
        )
    assert capsys.readouterr().err == ""


def test_the_reason_that_does_not_speak_of_the_format_is_told():
    def twice_wrong(request, number):
        form = request.get("response_format", {}).get("type")
        return Reply("json_schema is not supported" if form == "json_schema" else "bad template", status=400)

    with (
        serve(twice_wrong) as endpoint,
        pytest.raises(InputError, match=r"refuses the request \(status 400: bad template\)"),
    ):
        run(endpoint, structured="auto")


def test_a_broken_server_is_not_one_that_knows_no_format():
    def broken_at_first(request, number):
        return Reply(status=500) if number < 3 else good(request, number)

    with serve(broken_at_first) as endpoint:
        run(endpoint, CAPTIONS[:3], structured="auto")
    assert [request["response_format"]["type"] for request in endpoint.requests[3:]] == ["json_schema"] * 3


# --- a caption that is refused


def test_a_caption_that_is_refused_is_rejected():
    def one(request, number):
        return Reply("too long", status=400) if caption_of(request) == CAPTIONS[5] else good(request, number)

    with serve(one) as endpoint:
        found = run(endpoint)
    assert found[CAPTIONS[5]] == everything("refused")
    assert len(found) == len(CAPTIONS)


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (400, "the prompt triggered the content management policy"),
        (400, "max_tokens is too large: the context has 700 tokens, and the messages 600 of them"),
        (403, "your input was flagged"),
        (413, "payload too large"),
        (422, "not this one"),
    ],
)
def test_the_first_caption_may_be_the_one_that_is_refused(status, said):
    def one(request, number):
        return Reply(said, status=status) if caption_of(request) == CAPTIONS[0] else good(request, number)

    with serve(one) as endpoint:
        found = run(endpoint, structured="auto")
    assert found[CAPTIONS[0]] == everything("refused")
    assert len(found) == len(CAPTIONS)


def test_every_caption_too_long_is_a_wrong_call():
    with (
        serve(lambda *_: Reply("max_tokens exceeds the context", status=400)) as endpoint,
        pytest.raises(InputError, match="give a smaller --cfg max_tokens, or serve the model with a longer"),
    ):
        run(endpoint)


@pytest.mark.parametrize("status", [401, 402])
def test_a_key_that_is_no_longer_valid_ends_the_run_at_once(status):
    def expires(request, number):
        return good(request, number) if number < 12 else Reply("key expired", status=status)

    found = {}
    with serve(expires) as endpoint, degla(endpoint, concurrency=4) as generator:
        with pytest.raises(InputError) as stopped:
            found.update(generator.generate(CAPTIONS))
        assert f"(status {status}: key expired)" in str(stopped.value)
        assert str(stopped.value).endswith("; every finished caption is in the store")
    assert len(endpoint.requests) <= 12 + 4


@pytest.mark.parametrize(
    ("status", "said"), [(403, "no access"), (404, "no such model"), (400, "seed is not supported")]
)
def test_what_no_caption_can_help_is_not_a_refusal_of_captions(status, said):
    def changes(request, number):
        return good(request, number) if number < 12 else Reply(said, status=status)

    found = []
    with serve(changes) as endpoint, degla(endpoint, concurrency=4) as generator:
        with pytest.raises(TrainingError) as stopped:
            found.extend(candidates for _, candidates in generator.generate(CAPTIONS))
        assert f"has stopped answering (status {status}: {said}); every finished" in str(stopped.value)
    assert everything("refused") not in found


# --- answers of no use


LONG = json.dumps({"reshuffle": "past house " * 40})
THOUGHTLESS = (
    """switch thinking off with --cfg 'extra={"chat_template_kwargs": {"enable_thinking": false}}', or """
)
FRUITLESS = [
    (
        Reply(None, {"reasoning": LONG, "reasoning_content": LONG}),
        f"the answers stand in `reasoning` and their content is empty, for example {LONG[:100] + '...'!r}",
        THOUGHTLESS + "start the server without its parser of reasoning",
    ),
    (
        Reply([{"type": "thinking", "thinking": "Hm"}]),
        "the answers stand in `thinking` and their content is empty, for example ",
        THOUGHTLESS + "start the server without its parser of reasoning",
    ),
    (
        Reply("", {"reasoning_content": "Hm"}, ending="length"),
        "the answers are cut off while the model is thinking, for example 'Hm'",
        THOUGHTLESS + "give a larger --cfg max_tokens",
    ),
    (
        Reply("<think>Hm", ending="length"),
        "the answers are cut off while the model is thinking, for example '<think>Hm'",
        THOUGHTLESS + "give a larger --cfg max_tokens",
    ),
    (
        Reply('{"reshuffle": "a', ending="length"),
        """the answers are cut off, for example '{"reshuffle": "a'""",
        "give a larger --cfg max_tokens",
    ),
    (
        Reply(None, ending="content_filter"),
        "the answers are stopped by the server's content filter",
        "name another model with --cfg model=NAME",
    ),
    (
        Reply(None, {"refusal": "Not this."}),
        "the model refuses, for example 'Not this.'",
        "edit the prompts, or name another model with --cfg model=NAME",
    ),
    (
        Reply([{"type": "refusal", "refusal": "Not this."}]),
        "the model refuses, for example ",
        "edit the prompts, or name another model with --cfg model=NAME",
    ),
    (
        Reply(None, {"tool_calls": [{"id": "1"}]}),
        """the answers have `tool_calls` in them and no text, for example '[{"id": "1"}]'""",
        "start the server without tools, or name another model with --cfg model=NAME",
    ),
    (
        Reply(None),
        "the answers are empty",
        "look at the log of the server, or name another model with --cfg model=NAME",
    ),
    (
        Reply("  "),
        "the answers are empty",
        "look at the log of the server, or name another model with --cfg model=NAME",
    ),
    (
        Reply("I cannot do that."),
        "the answers are not of the form asked for (there is no JSON object in it), "
        "for example 'I cannot do that.'",
        "edit the prompts, or name another model with --cfg model=NAME",
    ),
    (
        Reply(edits(reshuffle=" ")),
        "every edit in the answers is null, for example ",
        "edit the prompts, or name another model with --cfg model=NAME",
    ),
]


@pytest.mark.parametrize(("reply", "look", "help"), FRUITLESS)
def test_a_run_whose_first_answers_are_all_of_no_use_says_what_they_look_like(reply, look, help):
    captions = [f"a dog runs past house {i}" for i in range(100)]
    with serve(lambda *_: reply) as endpoint:
        with pytest.raises(TrainingError) as stopped:
            run(endpoint, captions, concurrency=4, retries=1)
        sentence = str(stopped.value)
        assert sentence.startswith(f"{endpoint.url} gave no usable answer to ")
        assert f" captions in a row: {look}" in sentence
        assert sentence.endswith(f"; nothing is recorded for them: {help}, and run the command again")
        assert len(endpoint.requests) <= 2 * (24 + 4)


def test_the_commonest_fault_is_told():
    def mostly_empty(request, number):
        return Reply("no") if number % 3 == 0 else Reply(None)

    with (
        serve(mostly_empty) as endpoint,
        pytest.raises(TrainingError, match="to 6 captions in a row: the answers are empty;"),
    ):
        run(endpoint, CAPTIONS[:6], retries=0)


def test_refused_captions_alone_are_no_answers_either():
    def only_the_first(request, number):
        return Reply("no") if number == 0 else Reply("nothing today", status=400)

    with serve(only_the_first) as endpoint, degla(endpoint, retries=0) as generator:
        with pytest.raises(TrainingError) as stopped:
            list(generator.generate([f"a dog {i}" for i in range(100)]))
        assert "it refuses the requests, for example 'status 400: nothing today'; " in str(stopped.value)


def test_answers_of_no_use_are_given_only_with_a_good_one():
    def good_at_last(request, number):
        return good(request, number) if caption_of(request) == CAPTIONS[9] else Reply("no")

    with serve(good_at_last) as endpoint, degla(endpoint, retries=0, concurrency=1) as generator:
        found = list(generator.generate(CAPTIONS[:12]))
    assert [index for index, _ in found] == [9, *range(9), 10, 11]
    assert [candidates for index, candidates in found if index != 9] == [everything("no_answer")] * 11


def test_a_model_that_turns_useless_later_is_stopped_later():
    captions = [f"a dog runs past house {i}" for i in range(300)]

    def stops(request, number):
        return good(request, number) if number < 30 else Reply(None)

    found = []
    with serve(stops) as endpoint, degla(endpoint, retries=0, concurrency=1) as generator:
        with pytest.raises(
            TrainingError, match=r"to 200 captions in a row: .* when it answers as before, run"
        ):
            found.extend(index for index, _ in generator.generate(captions))
        assert generator.batch_size >= 200
    assert found == list(range(30))
    assert len(endpoint.requests) == 230


def test_the_last_captions_may_have_no_answer_where_earlier_runs_had_some():
    with serve(lambda *_: Reply("no")) as endpoint, degla(endpoint, retries=0) as generator:
        generator.proven = True
        found = dict(generator.generate(CAPTIONS[:2]))
    assert found == dict.fromkeys((0, 1), everything("no_answer"))


# --- addresses, keys, lists of models


@pytest.mark.parametrize("url", ["localhost:8000/v1", "host", "http://", "http://[::1", "http://h:99999/v1"])
def test_what_is_no_address(url):
    with pytest.raises(InputError) as stopped:
        DeGLA(base_url=url, model="m")
    assert str(stopped.value) == f"--cfg base_url={url}: give an address such as http://HOST:PORT/v1"


@pytest.mark.parametrize("key", ["schl\u00fcssel", "two\nlines"])
def test_what_is_no_key_is_not_shown(key, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(InputError, match=r"^OPENAI_API_KEY: no key has blanks, line breaks or letters"):
        DeGLA(base_url="http://127.0.0.1:9/v1", model="m")


def test_a_line_break_after_the_key_does_no_harm(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret\n")
    with serve() as endpoint:
        assert len(run(endpoint, CAPTIONS[:1])) == 1


@pytest.mark.parametrize("listed", [b"<html>Welcome</html>", b"{}", b"[]", b'{"data": [3]}', b""])
def test_what_is_no_list_of_models(listed):
    with (
        serve(listed=Reply(body=listed)) as endpoint,
        pytest.raises(InputError, match=r"is no list of models \(.*most end in /v1.*model=NAME$"),
    ):
        DeGLA(base_url=endpoint.url)


@pytest.mark.parametrize(
    ("status", "help"),
    [
        (401, "put the right key into OPENAI_API_KEY"),
        (404, "start the server, correct the address (most end in /v1)"),
    ],
)
def test_a_list_of_models_that_is_refused(status, help):
    with serve(listed=Reply("not you", status=status)) as endpoint, pytest.raises(InputError) as stopped:
        DeGLA(base_url=endpoint.url)
    assert str(stopped.value) == (
        f"--cfg base_url={endpoint.url}: the models there cannot be listed (status {status}: not you); "
        f"{help}, or name one with --cfg model=NAME"
    )
