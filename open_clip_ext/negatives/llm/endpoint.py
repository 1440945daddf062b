"""An OpenAI-compatible endpoint: requests, what becomes of failures, and what to do about them.

What a caption is rejected for is never asked again. So a failure of the server must not pass for an
answer of the model, nor a request that no caption would get an answer to for a refusal of one caption.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from open_clip_ext.errors import InputError, TrainingError
from open_clip_ext.negatives.llm import replies
from open_clip_ext.negatives.llm.replies import Answer

# What a server answers that does not know a response_format; llama-cpp-python says 500.
REFUSALS = (400, 422, 500, 501)
BUSY = (408, 409, 425, 429)
GONE = 503  # what no answer at all counts as
NO_COMPLETION = "no completion"
FORMAT = ("response_format", "json_schema", "json_object")
LENGTH = re.compile(r"context|exceed|too (large|long|many)", re.IGNORECASE)
MODERATED = re.compile(r"flagged|moderation|content[ _](filter|policy|management)", re.IGNORECASE)
ADDRESS = "correct the address (most end in /v1)"
OTHER_MODEL = "name another model with --cfg model=NAME"
HELP = {
    401: "put the right key into OPENAI_API_KEY",
    402: "OPENAI_API_KEY has to be the key of an account that can pay",
    403: f"put a key that may use the model into OPENAI_API_KEY, or {OTHER_MODEL}",
    404: f"{ADDRESS}, or {OTHER_MODEL}",
    405: ADDRESS,
}


@dataclass(frozen=True)
class Fault:
    """Why nothing came of a caption: what its answers look like, one of them, what helps."""

    look: str
    quote: str
    help: str


def response_formats(schema: Mapping[str, Any], structured: str) -> dict[str, dict[str, Any]]:
    """What a request has besides its messages, by name of the format: those to be tried, in order.

    Args:
        schema: the JSON schema of an answer.
        structured: the name of the one format to be used, or "auto" for all.
    """
    strict = {"name": "edits", "strict": True, "schema": schema}
    formats: dict[str, dict[str, Any]] = {
        "json_schema": {"response_format": {"type": "json_schema", "json_schema": strict}},
        # The schema in this one is for llama.cpp; other servers ignore it.
        "json_object": {"response_format": {"type": "json_object", "schema": schema}},
        "none": {},
    }
    return formats if structured == "auto" else {structured: formats[structured]}


def extra_fields(text: str) -> dict[str, Any]:
    """The fields of `--cfg extra`. Raises InputError if it is not a JSON object that may be added."""
    try:
        fields = json.loads(text or "{}")
    except ValueError as error:
        raise InputError(f"--cfg extra={text}: not JSON ({error})") from error
    if not isinstance(fields, dict) or {"model", "messages"} & set(fields):
        raise InputError(f"--cfg extra={text}: give a JSON object of fields other than model and messages")
    return fields


class Endpoint:
    """A client of an endpoint.

    The key, if the endpoint wants one, is read from OPENAI_API_KEY.

    Args:
        base_url: its address.
        model: the model's name there; empty for the only one, see `only_model`.
        fields: fields of each request; None leaves one to the server.
        extra: further fields, which win over `fields`; None leaves a field out.
        formats: fields that ask for the form of an answer, by a name. The first that the server
            accepts is used.
        concurrency: requests at a time; as many failures in a row are the endpoint's.
        timeout: seconds to wait for an answer.
        patience: how often a request is repeated that failed.

    Raises InputError if the client cannot use the address or the key.
    """

    def __init__(
        self,
        base_url: str,
        *,
        model: str,
        fields: Mapping[str, Any],
        extra: Mapping[str, Any],
        formats: Mapping[str, Mapping[str, Any]],
        concurrency: int,
        timeout: float,
        patience: int,
    ) -> None:
        import openai

        key = os.environ.get("OPENAI_API_KEY", "").strip()
        if not key.isascii() or len(key.split()) > 1:
            raise InputError("OPENAI_API_KEY: no key has blanks, line breaks or letters outside ASCII in it")
        if not _is_address(base_url):
            raise InputError(f"--cfg base_url={base_url}: give an address such as http://HOST:PORT/v1")
        self.base_url, self.model = base_url, model
        self.fields, self.extra, self.formats = fields, extra, formats
        self.concurrency = concurrency
        self.format = ""  # the name of the one that the server accepts
        self.failures = 0  # requests that failed since the last that did not
        self.stopped: TrainingError | None = None  # the last failure, as the end of the run
        self.tokens_in = self.tokens_out = 0
        self._client = openai.AsyncOpenAI(
            base_url=base_url,
            api_key=key or "none",
            timeout=timeout,
            max_retries=patience,
            http_client=openai.DefaultAsyncHttpxClient(event_hooks={"response": [_give_true_status]}),
        )
        self._hasty = self._client.with_options(max_retries=0)

    @property
    def settled(self) -> bool:
        """Whether the server has accepted a request."""
        return bool(self.format)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def only_model(self) -> str:
        """The name of the only model there. Raises InputError if there is not exactly one."""
        import openai

        where = f"--cfg base_url={self.base_url}"
        try:
            listed = await self._client.models.with_raw_response.list()
        except openai.OpenAIError as error:
            help = HELP[401] if _status(error) in (401, 403) else f"start the server, {ADDRESS}"
            raise InputError(
                f"{where}: the models there cannot be listed ({_words(error)}); {help}, or name one with "
                "--cfg model=NAME"
            ) from error
        body = replies.body_of(listed.http_response)
        try:
            names = [str(model["id"]) for model in body["data"]]
        except (LookupError, TypeError) as error:
            raise InputError(
                f"{where}: what is there is no list of models ({replies.words(body) or 'an empty body'}); "
                f"{ADDRESS}, or name one with --cfg model=NAME"
            ) from error
        if len(names) != 1:
            raise InputError(
                f"{where}: it has {len(names)} models; name one with "
                f"--cfg model=NAME{': ' if names else ''}{', '.join(names[:20])}"
            )
        return names[0]

    # --- requests

    async def ask(self, messages: Sequence[Any], seed: int) -> Answer:
        """The answer to `messages`. Until one has come, only one request may be under way.

        Raises openai.OpenAIError.
        """
        if self.settled:
            return await self._request(self._client, self.format, messages, seed)
        return await self._settle(messages, seed)

    async def _settle(self, messages: Sequence[Any], seed: int) -> Answer:
        """An answer in the first format that the server accepts."""
        import openai

        refused: dict[str, openai.APIStatusError] = {}
        for form in self.formats if len(self.formats) > 1 else ():
            try:
                answer = await self._try(form, messages, seed)
            except openai.APIStatusError as error:
                if error.status_code not in REFUSALS or self._named(error) not in ("", *FORMAT):
                    raise
                refused[form] = error
            else:
                for other, reason in refused.items():
                    _say(
                        f"{self.base_url} fails with response_format {other} ({_words(reason)}): using {form}"
                    )
                return answer
        if all(error.status_code >= 500 for error in refused.values()):
            # Not the format, the server: it is waited for.
            return await self._request(self._client, next(iter(self.formats)), messages, seed)
        # Not the format either: the reason is the one that does not speak of it.
        reasons = sorted(refused.values(), key=self._named)  # those that name nothing come first
        raise reasons[0]

    async def _try(self, form: str, messages: Sequence[Any], seed: int) -> Answer:
        """An answer in a format that may be the wrong one: a status that may mean that is not waited on."""
        import openai

        try:
            return await self._request(self._hasty, form, messages, seed)
        except openai.APIError as error:
            if _status(error) in REFUSALS or _is_refusal(error):
                raise
        return await self._request(self._client, form, messages, seed)

    async def _request(self, client: Any, form: str, messages: Sequence[Any], seed: int) -> Answer:
        # Raw, since not every server sends what the client's types promise.
        raw = await client.chat.completions.with_raw_response.create(
            model=self.model,
            messages=messages,
            **self._fields(form, seed),
            extra_body={name: value for name, value in self.extra.items() if value is not None},
        )
        reply = raw.http_response.json()
        self.format, self.failures = form, 0
        self.tokens_in += replies.tokens(reply, "prompt_tokens")
        self.tokens_out += replies.tokens(reply, "completion_tokens")
        return replies.answer(reply["choices"][0])

    def _fields(self, form: str, seed: int = 0) -> dict[str, Any]:
        """The fields of a request that are ours."""
        fields = {**self.fields, "seed": seed, **self.formats[form]}
        return {name: value for name, value in fields.items() if value is not None and name not in self.extra}

    # --- failures

    def turns_down(self, error: Any) -> bool:
        """Whether a refusal may be of this caption alone, and not of the way we ask."""
        if error.status_code == 403:
            return bool(MODERATED.search(_words(error)))
        return error.status_code in (400, 413, 422) and not self._named(error)

    def failed(self, error: BaseException | None) -> None:
        """Count a failed request. Raises what ends the run."""
        import openai

        if not isinstance(error, openai.OpenAIError):
            assert error is not None
            raise error
        if _is_refusal(error) and (not self.settled or _status(error) in (401, 402)):
            raise self.refused(self.fault_of(error)) from error
        self.failures += 1
        what = "has stopped answering" if self.settled else "does not answer"
        # What worked before is not to be asked in another way: a store takes no texts made in two ways.
        help = "" if self.settled else self._help(error)
        kept = "every finished caption is in the store: when the endpoint is back, run the same command again"
        self.stopped = TrainingError(
            f"{self.base_url} {what} ({_words(error)}); {help}{'; ' if help else ''}{kept}"
        )
        # One failure may be one caption's; as many as there are requests at a time are the endpoint's.
        if self.failures >= self.concurrency or not self.settled:
            raise self.stopped from error

    def refused(self, fault: Fault) -> InputError:
        """The end of a run whose requests the server turns down."""
        kept = "; every finished caption is in the store" if self.settled else ""
        return InputError(
            f"--cfg base_url={self.base_url}: it refuses the request ({fault.quote}); {fault.help}{kept}"
        )

    def fault_of(self, refusal: Exception) -> Fault:
        """Why nothing came of a caption that was turned down."""
        otherwise = f"change the request with --cfg, or {OTHER_MODEL}"
        return Fault("it refuses the requests", _words(refusal), self._help(refusal) or otherwise)

    def fault(self, answer: Answer, otherwise: str) -> Fault:
        """Why nothing came of a caption, by an answer that is of no use.

        Args:
            answer: the answer.
            otherwise: what the answers look like if only their text is wrong.
        """
        longer = "give a larger --cfg max_tokens"
        thoughtless = "switch thinking off with " + self._extra(
            chat_template_kwargs={"enable_thinking": False}
        )
        if answer.thinking and answer.cut:
            look, help = "the answers are cut off while the model is thinking", f"{thoughtless}, or {longer}"
        elif answer.thinking:
            look = f"the answers stand in `{answer.instead}` and their content is empty"
            help = f"{thoughtless}, or start the server without its parser of reasoning"
        elif answer.cut:
            look, help = "the answers are cut off", longer
        elif answer.ending == "content_filter":
            look, help = "the answers are stopped by the server's content filter", OTHER_MODEL
        elif answer.instead == "refusal":
            look, help = "the model refuses", f"edit the prompts, or {OTHER_MODEL}"
        elif answer.instead:
            look = f"the answers have `{answer.instead}` in them and no text"
            help = f"start the server without tools, or {OTHER_MODEL}"
        elif not answer.text.strip():
            look, help = "the answers are empty", f"look at the log of the server, or {OTHER_MODEL}"
        else:
            look, help = otherwise, f"edit the prompts, or {OTHER_MODEL}"
        return Fault(look, replies.short(answer.text if answer.text.strip() else answer.quote, 100), help)

    def _named(self, error: Any) -> str:
        """The field of a request that a refusal is about; empty if it is about the messages."""
        sent = [*FORMAT, *self._fields(next(iter(self.formats))), *self.extra]
        if places := replies.named(replies.body_of(error.response)):
            name = next((part for place in places for part in place if part in sent), "")
        else:
            found = re.search(rf"(?<!\w)({'|'.join(map(re.escape, sent))})(?!\w)", _words(error))
            name = found[1] if found else ""
        # Whether the longest answer is too long depends on the messages.
        return "" if "max" in name and LENGTH.search(_words(error)) else name

    def _help(self, error: Exception) -> str:
        """What helps against an error; empty if nothing in particular."""
        import openai

        if not isinstance(error, openai.APIStatusError):
            return ""
        if error.response.extensions.get("found", "").endswith(NO_COMPLETION):
            if error.response.text.startswith("data:"):
                return "it streams its answers: give " + self._extra(stream=False)
            return ADDRESS
        if error.status_code not in REFUSALS:
            return HELP.get(error.status_code, "")
        name = self._named(error)
        if name in FORMAT:
            return "give --cfg structured=none"
        if name in self.extra:
            return f"take {name} out of --cfg extra"
        if name == "max_tokens" and "max_completion_tokens" in _words(error):
            instead = self._extra(max_completion_tokens=self.fields[name])
            return f"give --cfg max_tokens=none {instead.removeprefix('--cfg ')}"
        if name:
            return f"give --cfg {name}=none" if name in self.fields else "give " + self._extra(**{name: None})
        if LENGTH.search(_words(error)):
            return "give a smaller --cfg max_tokens, or serve the model with a longer context"
        return ""

    def _extra(self, **fields: Any) -> str:
        """The option that adds fields to each request."""
        return f"--cfg 'extra={json.dumps({**self.extra, **fields})}'"


async def _give_true_status(response: Any) -> None:
    """Give a failure that comes with status 200 the status that it should have.

    Gateways send such ones when the server behind them fails. With its true status it is repeated,
    counted and reported as any other.
    """
    if not response.is_success or response.request.url.path.endswith("/models"):
        return
    await response.aread()
    body = replies.body_of(response)
    if not replies.is_completion(body):
        code = replies.code(body)
        found = f"error {code}" if code else NO_COMPLETION
        response.extensions["found"] = f"status {response.status_code}, but {found}"
        response.status_code = code or 502


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _status(error: Exception) -> int:
    return getattr(error, "status_code", GONE)


def _is_refusal(error: Exception) -> bool:
    """Whether the same request will be turned down again."""
    return _status(error) < 500 and _status(error) not in BUSY


def _words(error: Exception) -> str:
    """An error in one line: a server's own words, or what happened to the connection."""
    import openai

    if isinstance(error, openai.APIStatusError):
        status = error.response.extensions.get("found", f"status {error.status_code}")
        return f"{status}: {replies.words(replies.body_of(error.response)) or 'an empty body'}"
    cause = f": {error.__cause__}" if error.__cause__ and str(error.__cause__) else ""
    return replies.short(f"{str(error).rstrip('.')}{cause}")


def _say(line: str) -> None:
    """A notice that leaves a progress bar whole."""
    from tqdm import tqdm

    tqdm.write(f"open_clip_ext: {line}", file=sys.stderr)
