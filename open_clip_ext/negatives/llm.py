"""The recipe `degla`: the five kinds of negatives of DeGLA, written by a language model.

The paper (Hu et al., ACM MM 2025, arXiv:2504.16801) describes the five kinds and names the model; its
prompts were not released (xiaoxing2001/DeGLA@1c5e960), so those in `prompts/` are ours.

One request per caption asks for all five. The instructions come first and never change, so that a
server with a prefix cache reads them once.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from open_clip_ext.errors import InputError, TrainingError
from open_clip_ext.negatives.gate import REASONS, Gate
from open_clip_ext.negatives.records import Candidate, draw, normalise

KINDS = ("reshuffle", "swap_noun", "swap_adj", "replace_adj", "replace_noun")
FORMATS = ("json_schema", "json_object", "none")
# What a server answers that does not know a response_format; llama-cpp-python says 500.
REFUSALS = (400, 422, 500, 501)
SHOWN = 300  # characters of a server's or a model's words in a sentence of ours


class Unusable(Exception):
    """An answer that is not what was asked for; the message goes back to the model."""


class DeGLA:
    """The five kinds of DeGLA by a language model behind an OpenAI-compatible endpoint.

    The key for the endpoint, if it wants one, is read from OPENAI_API_KEY.

    Args:
        seed: of the sampling, sent with each request; not every server heeds it.
        base_url: the endpoint, such as http://localhost:8000/v1.
        model: its name there (default: the only one that the server lists).
        prompts: a folder of edited prompts (default: those of the package).
        temperature: of the sampling; `none` leaves it to the server.
        max_tokens: longest answer; `none` leaves it to the server.
        extra: a JSON object of further fields of a request, such as
            {"chat_template_kwargs": {"enable_thinking": false}}; null leaves a field out.
        structured: how the form of the answer is asked for; `auto` takes the first of json_schema,
            json_object and none that the server accepts. Every answer is checked, whichever it is.
        retries: how often an answer is asked for again that has not the right form, or whose words break
            the rule of an edit; each time with what was wrong.
        concurrency: requests at a time.
        timeout: seconds to wait for an answer.
        patience: how often a request is repeated, at growing intervals of up to 8 s, when the server is
            busy (429), broken (5xx), silent or gone.
        price_in: price of a million tokens read; with `price_out`, the cost is shown.
        price_out: price of a million tokens written.

    Raises InputError if an option is wrong, or a model has to be named.
    """

    version = "1"
    types = KINDS

    def __init__(
        self,
        *,
        seed: int = 0,
        base_url: str = "",
        model: str = "",
        prompts: str = "",
        temperature: float | None = 0.7,
        max_tokens: int | None = 512,
        extra: str = "",
        structured: Literal["auto", "json_schema", "json_object", "none"] = "auto",
        retries: int = 2,
        concurrency: int = 16,
        timeout: float = 120.0,
        patience: int = 8,
        price_in: float = 0.0,
        price_out: float = 0.0,
    ) -> None:
        for name, value, least in (("concurrency", concurrency, 1), ("retries", retries, 0),
                                   ("patience", patience, 0)):  # fmt: skip
            if value < least:
                raise InputError(f"--cfg {name}={value}: give at least {least}")
        if not base_url:
            raise InputError(
                "the recipe degla needs an endpoint: --cfg base_url=http://HOST:PORT/v1 of any server that "
                "speaks the OpenAI protocol (vLLM, llama.cpp, `transformers serve`, a hosted one)"
            )
        try:
            import openai
        except ImportError as error:
            raise InputError(
                'the recipe degla needs the package openai: run `pip install "open_clip_ext[negatives]"`'
            ) from error
        self.seed, self.base_url = seed, base_url
        self.temperature, self.max_tokens, self.retries = temperature, max_tokens, retries
        self.extra = _extra(extra)
        self.concurrency = concurrency
        self.prices = price_in, price_out
        self.instructions = read_prompts(prompts)
        self.answer = _answer_model()
        self._response_formats = _response_formats(self.answer.model_json_schema())
        self.formats = list(FORMATS if structured == "auto" else (structured,))
        # Without a judge of meaning it looks at the words alone, and asks no tagger.
        self._gate = Gate(judge=None, tagger=None)  # type: ignore[arg-type]
        self.settled = False  # whether the server has accepted a request
        self.failures = 0  # requests that failed since the last that did not
        self.tokens_in = self.tokens_out = self.repeats = 0
        # Enough that a worker waits for the slowest of a batch only seldom.
        self.batch_size = 64 * concurrency
        self._loop = asyncio.new_event_loop()
        self._client = openai.AsyncOpenAI(
            base_url=base_url,
            api_key=os.environ.get("OPENAI_API_KEY") or "none",
            timeout=timeout,
            max_retries=patience,
        )
        self._hasty = self._client.with_options(max_retries=0)
        try:
            self.model = model or self._loop.run_until_complete(self._only_model())
        except BaseException:
            self.close()
            raise

    def identity(self) -> dict[str, Any]:
        """Model, prompts and sampling; not where and how fast the model is asked."""
        return {
            "model": self.model,
            "prompts": blake2b(self.instructions.encode(), digest_size=8).hexdigest(),
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "extra": self.extra,
            "retries": self.retries,
            "seed": self.seed,
        }

    def generate(self, captions: Sequence[str]) -> Iterator[tuple[int, list[Candidate]]]:
        """Yield (index, candidates) as the answers come; a caption whose request failed is left out.

        A model that gives no usable answer has its caption's five places rejected as `no_answer`.

        Raises TrainingError when the endpoint has stopped answering, InputError when it refuses the
        very first request.
        """
        waiting = iter(enumerate(captions))
        asked: dict[asyncio.Task[list[Candidate]], int] = {}
        try:
            while True:
                # Alone at first: the request that finds out what the server accepts.
                while len(asked) < (self.concurrency if self.settled else 1):
                    if (item := next(waiting, None)) is None:
                        break
                    asked[self._loop.create_task(self._rewrite(item[1]))] = item[0]
                if not asked:
                    break
                done, _ = self._loop.run_until_complete(
                    asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
                )
                failed = [task for task in done if task.exception()]
                for task in done - set(failed):
                    self.failures = 0
                    yield asked.pop(task), task.result()
                for task in failed:
                    del asked[task]
                    self._failed(task.exception())
            if self.failures:
                raise self._stopped
        finally:
            for task in asked:
                task.cancel()
            if asked:
                self._loop.run_until_complete(asyncio.wait(asked))

    def status(self) -> str:
        """Tokens read and written, their price, answers asked for again."""
        cost = (self.tokens_in * self.prices[0] + self.tokens_out * self.prices[1]) / 1e6
        return ", ".join(
            [
                f"{_thousands(self.tokens_in)} tokens in",
                f"{_thousands(self.tokens_out)} out",
                *([f"cost {cost:.2f}"] if any(self.prices) else []),
                *([f"{self.repeats} asked again"] if self.repeats else []),
            ]
        )

    def close(self) -> None:
        """Close the connections."""
        if not self._loop.is_closed():
            self._loop.run_until_complete(self._client.close())
            self._loop.close()

    # --- one caption

    async def _rewrite(self, caption: str) -> list[Candidate]:
        """Ask until the answer is usable, at most `retries` times more."""
        import openai

        messages: list[Any] = [
            {"role": "system", "content": self.instructions},
            {"role": "user", "content": f"caption: {normalise(caption)}"},
        ]
        # 31 bits: servers differ in what they take for an integer.
        seed = draw(self.seed, "degla", caption).getrandbits(31)
        best: dict[str, Candidate] | None = None
        for attempt in range(self.retries + 1):
            self.repeats += attempt > 0
            try:
                text, cut = await self._complete(messages, seed + attempt)
            except (openai.BadRequestError, openai.UnprocessableEntityError):
                if not self.settled:
                    raise
                # One caption that the server will not have, too long for it perhaps.
                return [Candidate(kind, "", reason="refused") for kind in KINDS]
            except openai.InternalServerError:
                # llama.cpp answers 500 when a constrained answer was cut off: another seed may do.
                if attempt == self.retries or not self.settled:
                    raise
                continue
            try:
                found = self._read(text, cut)
            except Unusable as error:
                wrong = str(error)
            else:
                # What was good before stays: an answer may mend one edit and spoil another.
                faults = self._faults(caption, best or {})
                best = found | {kind: edit for kind, edit in (best or {}).items() if kind not in faults}
                wrong = "; ".join(f"{kind}: {fault}" for kind, fault in self._faults(caption, best).items())
            if not wrong:
                break
            messages = [
                *messages[:2],
                {"role": "assistant", "content": text[:2000] or "{}"},
                {"role": "user", "content": f"This cannot be used: {wrong}. Give the whole object again."},
            ]
        if best is None:
            return [Candidate(kind, "", reason="no_answer") for kind in KINDS]
        return [best[kind] for kind in KINDS if kind in best]

    def _faults(self, caption: str, edits: dict[str, Candidate]) -> dict[str, str]:
        """What is wrong with the words of edits, for the model to read, by kind."""
        checked = self._gate.check(caption, (), list(edits.values()))
        return {edit.type: REASONS.get(edit.reason, edit.reason) for edit in checked if edit.reason}

    async def _complete(self, messages: list[Any], seed: int) -> tuple[str, bool]:
        """The text of an answer, and whether it was cut off; settles the format with the first one."""
        import openai

        waited = False
        while True:
            trying = not self.settled and len(self.formats) > 1
            try:
                client = self._hasty if trying and not waited else self._client
                return await self._request(client, messages, seed)
            except openai.APIError as error:
                if not trying:
                    raise
                status = getattr(error, "status_code", None)
                if status in REFUSALS:
                    refused = self.formats.pop(0)
                    _say(
                        f"{self.base_url} fails with response_format {refused} ({_words(error)}): "
                        f"trying {self.formats[0]}"
                    )
                elif waited:
                    raise
                waited = status not in REFUSALS  # busy or not up yet

    async def _request(self, client: Any, messages: list[Any], seed: int) -> tuple[str, bool]:
        request: Any = {
            "model": self.model,
            "messages": messages,
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "seed": seed,
            **self._response_formats[self.formats[0]],
        }
        reply = await client.chat.completions.create(
            **{
                name: value for name, value in request.items() if value is not None and name not in self.extra
            },
            extra_body={name: value for name, value in self.extra.items() if value is not None},
        )
        self.settled = True
        if reply.usage:
            self.tokens_in += reply.usage.prompt_tokens or 0
            self.tokens_out += reply.usage.completion_tokens or 0
        if not reply.choices:
            return "", False
        return reply.choices[0].message.content or "", reply.choices[0].finish_reason == "length"

    def _read(self, text: str, cut: bool) -> dict[str, Candidate]:
        """The candidates of an answer by kind. Raises Unusable."""
        from pydantic import ValidationError

        # A model that thinks aloud, or puts the object into a fence.
        said = text.rsplit("</think>", 1)[-1]
        start, end = said.find("{"), said.rfind("}")
        if cut and end < 0:
            raise Unusable("the answer was too long and was cut off")
        if start < 0 or end < start:
            raise Unusable("there is no JSON object in it")
        try:
            answer = self.answer.model_validate_json(said[start : end + 1])
        except ValidationError as error:
            found = "; ".join(
                f"{'.'.join(map(str, one['loc'])) or 'the object'}: {one['msg']}" for one in error.errors()
            )
            raise Unusable(found[:SHOWN]) from error
        edits = answer.model_dump()
        return {kind: Candidate(kind, edits[kind]) for kind in KINDS if edits[kind] is not None}

    # --- the endpoint

    async def _only_model(self) -> str:
        import openai

        try:
            names = [model.id for model in (await self._client.models.list()).data]
        except openai.OpenAIError as error:
            raise InputError(
                f"--cfg base_url={self.base_url}: the models there cannot be listed ({_words(error)}); "
                "start the server, mend the address, or name one with --cfg model=NAME"
            ) from error
        if len(names) != 1:
            raise InputError(
                f"--cfg base_url={self.base_url}: it has {len(names)} models; name one with "
                f"--cfg model=NAME{': ' if names else ''}{', '.join(names[:20])}"
            )
        return names[0]

    def _failed(self, error: BaseException | None) -> None:
        """Count a failed request; raise what ends the run."""
        import openai

        if not isinstance(error, openai.OpenAIError | ValueError):  # ValueError: a body that is not JSON
            assert error is not None
            raise error
        if not self.settled and isinstance(error, openai.APIStatusError) and error.status_code < 500:
            raise InputError(
                f"--cfg base_url={self.base_url}: it refuses the request ({_words(error)}); mend --cfg, or "
                "the key in OPENAI_API_KEY"
            ) from error
        self.failures += 1
        what = "has stopped answering" if self.settled else "does not answer"
        self._stopped = TrainingError(
            f"{self.base_url} {what} ({_words(error)}); every finished caption is in the store: when the "
            "endpoint is back, run the same command again"
        )
        # One failure may be one caption's; as many as there are requests at a time are the endpoint's.
        if self.failures >= self.concurrency or not self.settled:
            raise self._stopped from error


def read_prompts(folder: str = "") -> str:
    """The instructions: `task.md`, then a file for each kind, from `folder` or the package.

    Raises InputError if one cannot be read.
    """
    place: Any = Path(folder) if folder else files("open_clip_ext.negatives") / "prompts"
    texts = []
    for name in ("task", *KINDS):
        try:
            texts.append((place / f"{name}.md").read_text(encoding="utf-8").strip())
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"--cfg prompts={folder}: {name}.md cannot be read there ({error}); "
                f"copy {files('open_clip_ext.negatives') / 'prompts'} and edit the copy"
            ) from error
    return "\n\n".join(filter(None, texts))


def _extra(text: str) -> dict[str, Any]:
    try:
        fields = json.loads(text or "{}")
    except ValueError as error:
        raise InputError(f"--cfg extra={text}: not JSON ({error})") from error
    if not isinstance(fields, dict) or {"model", "messages"} & set(fields):
        raise InputError(f"--cfg extra={text}: give a JSON object of fields other than model and messages")
    return fields


def _answer_model() -> Any:
    """The form of an answer: one key for each kind, a string or null, nothing else."""
    from pydantic import ConfigDict, create_model

    fields: dict[str, Any] = dict.fromkeys(KINDS, (str | None, ...))
    return create_model("Edits", __config__=ConfigDict(extra="forbid", strict=True), **fields)


def _response_formats(schema: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What a request has beside its messages, by name of the format."""
    strict = {"name": "edits", "strict": True, "schema": schema}
    return {
        "json_schema": {"response_format": {"type": "json_schema", "json_schema": strict}},
        # The schema beside it is llama.cpp's; others pass over it.
        "json_object": {"response_format": {"type": "json_object", "schema": schema}},
        "none": {},
    }


def _words(error: Exception) -> str:
    """A server's error in one line."""
    cause = f": {error.__cause__}" if error.__cause__ and str(error.__cause__) else ""
    return " ".join(f"{type(error).__name__}: {error}{cause}".split())[:SHOWN]


def _thousands(count: int) -> str:
    return f"{count / 1e6:.1f}M" if count >= 1e6 else f"{count / 1e3:.0f}k" if count >= 1e4 else str(count)


def _say(line: str) -> None:
    """A notice that leaves a progress bar whole."""
    from tqdm import tqdm

    tqdm.write(f"open_clip_ext: {line}", file=sys.stderr)
