"""The recipe `degla`: the five kinds of negatives of DeGLA, written by a language model.

The paper (Hu et al., ACM MM 2025, arXiv:2504.16801) describes the five kinds and names the model; its
prompts were not released (xiaoxing2001/DeGLA@1c5e960), so those in `prompts/` are ours.

One request per caption asks for all five. The instructions come first and never change, so that a
server with a prefix cache reads them once.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from open_clip_ext.errors import InputError, TrainingError
from open_clip_ext.negatives.endpoint import Endpoint, Fault
from open_clip_ext.negatives.gate import REASONS, Gate
from open_clip_ext.negatives.records import Candidate, draw, normalise
from open_clip_ext.negatives.replies import SHOWN, Answer

KINDS = ("reshuffle", "swap_noun", "swap_adj", "replace_adj", "replace_noun")
# Captions in a row without a single edit that end a run: when the server has not accepted a request yet,
# when there has been no edit yet, and later, when a model that is often of no use must not end it.
ALONE, FIRST, LATER = 3, 24, 200


class Unusable(Exception):
    """An answer that is not what was asked for; the message goes back to the model."""


@dataclass(frozen=True)
class Outcome:
    """What became of a caption: its candidates, and the fault if there is no edit among them."""

    candidates: list[Candidate]
    fault: Fault | None = None


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
            busy (429), broken (5xx, or 200 without a completion), silent or gone.
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
        self.seed, self.retries = seed, retries
        self.prices = price_in, price_out
        self.instructions = read_prompts(prompts)
        self.answer = _answer_model()
        formats = _response_formats(self.answer.model_json_schema())
        self.endpoint = Endpoint(
            base_url,
            model=model,
            fields={"temperature": temperature, "max_tokens": max_tokens},
            extra=_extra(extra),
            formats=formats if structured == "auto" else {structured: formats[structured]},
            concurrency=concurrency,
            timeout=timeout,
            patience=patience,
        )
        # Without a judge of meaning it looks at the words alone, and asks no tagger.
        self._gate = Gate(judge=None, tagger=None)  # type: ignore[arg-type]
        self.proven = False  # whether an earlier run had an edit
        self.useful = False  # whether this one has
        self.repeats = 0
        # Enough that a worker waits for the slowest of a batch only seldom, and to notice a fruitless run.
        self.batch_size = 64 * max(concurrency, 4)
        self._loop = asyncio.new_event_loop()
        try:
            if not model:
                self.endpoint.model = self._loop.run_until_complete(self.endpoint.only_model())
        except BaseException:
            self.close()
            raise

    def identity(self) -> dict[str, Any]:
        """Model, prompts and sampling; not where and how fast the model is asked."""
        return {
            "model": self.endpoint.model,
            "prompts": blake2b(self.instructions.encode(), digest_size=8).hexdigest(),
            **self.endpoint.fields,
            "extra": self.endpoint.extra,
            "retries": self.retries,
            "seed": self.seed,
        }

    def generate(self, captions: Sequence[str]) -> Iterator[tuple[int, list[Candidate]]]:
        """Yield (index, candidates) as the answers come; a caption whose request failed is left out.

        A model that gives no usable answer has its caption's five places rejected as `no_answer`, but
        only once another caption has got an edit: captions that all get none are left out.

        Raises TrainingError when the endpoint has stopped answering or its answers are of no use,
        InputError when it refuses the very first requests.
        """
        waiting = iter(enumerate(captions))
        asked: dict[asyncio.Task[Outcome], int] = {}
        held: list[tuple[int, Outcome]] = []  # without an edit, since the last that had one
        try:
            while True:
                # Alone at first: the request that finds out what the server accepts.
                while len(asked) < (self.endpoint.concurrency if self.endpoint.settled else 1):
                    if (item := next(waiting, None)) is None:
                        break
                    asked[self._loop.create_task(self._rewrite(item[1]))] = item[0]
                if not asked:
                    break
                done, _ = self._loop.run_until_complete(
                    asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
                )
                failed = [task for task in done if task.exception()]
                for task in done.difference(failed):
                    index, outcome = asked.pop(task), task.result()
                    if outcome.fault:
                        held.append((index, outcome))
                        continue
                    self.useful = True
                    yield index, outcome.candidates
                    yield from _released(held)
                for task in failed:
                    del asked[task]
                    self.endpoint.failed(task.exception())
                if len(held) >= (LATER if self.useful else FIRST if self.endpoint.settled else ALONE):
                    raise self._fruitless(held)
            if held and not (self.useful or self.proven):
                raise self._fruitless(held)
            yield from _released(held)
            if self.endpoint.stopped and self.endpoint.failures:
                raise self.endpoint.stopped
        finally:
            for task in asked:
                task.cancel()
            if asked:
                self._loop.run_until_complete(asyncio.wait(asked))

    def status(self) -> str:
        """Tokens read and written, their price, answers asked for again."""
        cost = (self.endpoint.tokens_in * self.prices[0] + self.endpoint.tokens_out * self.prices[1]) / 1e6
        return ", ".join(
            [
                f"{_thousands(self.endpoint.tokens_in)} tokens in",
                f"{_thousands(self.endpoint.tokens_out)} out",
                *([f"cost {cost:.2f}"] if any(self.prices) else []),
                *([f"{self.repeats} asked again"] if self.repeats else []),
            ]
        )

    def close(self) -> None:
        """Close the connections."""
        if not self._loop.is_closed():
            self._loop.run_until_complete(self.endpoint.close())
            self._loop.close()

    def _fruitless(self, held: Sequence[tuple[int, Outcome]]) -> InputError | TrainingError:
        """The end of a run in which the captions `held`, in a row, got no edit; by the commonest fault."""
        faults = [outcome.fault for _, outcome in held if outcome.fault]
        look = Counter(fault.look for fault in faults).most_common(1)[0][0]
        fault = next(fault for fault in faults if fault.look == look)
        if not self.endpoint.settled:
            return self.endpoint.refused(fault)
        captions = f"{len(held)} captions in a row" if len(held) > 1 else "the one caption"
        example = f", for example {fault.quote!r}" if fault.quote else ""
        # What worked before is not to be asked in another way: a store takes no texts made in two ways.
        help = "when it answers as before, run" if self.useful or self.proven else f"{fault.help}, and run"
        return TrainingError(
            f"{self.endpoint.base_url} gave no usable answer to {captions}: {look}{example}; nothing is "
            f"recorded for them: {help} the command again"
        )

    # --- one caption

    async def _rewrite(self, caption: str) -> Outcome:
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
                answer = await self.endpoint.ask(messages, seed + attempt)
            except openai.APIStatusError as error:
                if self.endpoint.turns_down(error):
                    # One caption that the server will not have, too long for it perhaps.
                    return Outcome(_rejected("refused"), self.endpoint.fault_of(error))
                # llama.cpp answers 500 when a constrained answer was cut off: another seed may do.
                if error.status_code < 500 or attempt == self.retries or not self.endpoint.settled:
                    raise
                continue
            try:
                found = self._read(answer)
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
                {"role": "assistant", "content": answer.text[:2000] or "{}"},
                {"role": "user", "content": f"This cannot be used: {wrong}. Give the whole object again."},
            ]
        if best is None:
            look = f"the answers are not of the form asked for ({wrong})"
            return Outcome(_rejected("no_answer"), self.endpoint.fault(answer, look))
        edits = [best[kind] for kind in KINDS if kind in best]
        if any(edit.text.strip() for edit in edits):
            return Outcome(edits)
        return Outcome(edits, self.endpoint.fault(answer, "every edit in the answers is null"))

    def _faults(self, caption: str, edits: dict[str, Candidate]) -> dict[str, str]:
        """What is wrong with the words of edits, for the model to read, by kind."""
        checked = self._gate.check(caption, (), list(edits.values()))
        return {edit.type: REASONS.get(edit.reason, edit.reason) for edit in checked if edit.reason}

    def _read(self, answer: Answer) -> dict[str, Candidate]:
        """The candidates of an answer by kind. Raises Unusable."""
        from pydantic import ValidationError

        # A model that thinks aloud, or puts the object into a fence.
        said = answer.text.rsplit("</think>", 1)[-1]
        start, end = said.find("{"), said.rfind("}")
        if answer.cut and end < 0:
            raise Unusable("the answer was too long and was cut off")
        if start < 0 or end < start:
            raise Unusable("there is no JSON object in it")
        try:
            edits = self.answer.model_validate_json(said[start : end + 1]).model_dump()
        except ValidationError as error:
            found = "; ".join(
                f"{'.'.join(map(str, one['loc'])) or 'the object'}: {one['msg']}" for one in error.errors()
            )
            raise Unusable(found[:SHOWN]) from error
        return {kind: Candidate(kind, edits[kind]) for kind in KINDS if edits[kind] is not None}


def read_prompts(folder: str = "") -> str:
    """The instructions: `task.md`, then a file for each kind, from `folder` or the package.

    Raises InputError if one cannot be read.
    """
    place: Any = Path(folder) if folder else files(__package__) / "prompts"
    texts = []
    for name in ("task", *KINDS):
        try:
            texts.append((place / f"{name}.md").read_text(encoding="utf-8").strip())
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"--cfg prompts={folder}: {name}.md cannot be read there ({error}); "
                f"copy {files(__package__) / 'prompts'} and edit the copy"
            ) from error
    return "\n\n".join(filter(None, texts))


def _rejected(reason: str) -> list[Candidate]:
    """The five places of a caption that got nothing."""
    return [Candidate(kind, "", reason=reason) for kind in KINDS]


def _released(held: list[tuple[int, Outcome]]) -> Iterator[tuple[int, list[Candidate]]]:
    """What was held back, to be recorded after all."""
    while held:
        index, outcome = held.pop(0)
        yield index, outcome.candidates


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


def _thousands(count: int) -> str:
    return f"{count / 1e6:.1f}M" if count >= 1e6 else f"{count / 1e3:.0f}k" if count >= 1e4 else str(count)
