"""Captions rewritten by a language model: what is said about one of them, and the schedule of many.

A request asks for all types of edits of one caption. The instructions come first and never change, so
that a server with a prefix cache reads them once.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from open_clip_ext.errors import InputError, TrainingError
from open_clip_ext.negatives.gate import REASONS, Gate
from open_clip_ext.negatives.llm.endpoint import Endpoint, Fault
from open_clip_ext.negatives.llm.replies import SHOWN, Answer
from open_clip_ext.negatives.records import NEGATIVE, Candidate, draw, normalise

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


@dataclass(frozen=True)
class Part:
    """What a key of an answer holds.

    Attributes:
        type: of the text.
        kind: of the text.
        of: the key of the text that it belongs to; empty if it belongs to the caption itself.
    """

    type: str
    kind: str = NEGATIVE
    of: str = ""


def answer_form(keys: Sequence[str]) -> Any:
    """The form of an answer, a pydantic model: each key a string or null, nothing else."""
    from pydantic import ConfigDict, create_model

    fields: dict[str, Any] = dict.fromkeys(keys, (str | None, ...))
    return create_model("Edits", __config__=ConfigDict(extra="forbid", strict=True), **fields)


class Dialogue:
    """Asks for the edits of a caption until they can be used.

    Args:
        endpoint: where the model is asked.
        instructions: what it is told first.
        form: of an answer; see `answer_form`.
        parts: what its keys hold.
        recipe: name of the recipe, on which the seeds of the requests depend.
        seed: of the sampling.
        retries: how often it is asked again about a caption.

    Attributes:
        repeats: how often it has been asked again, over all captions.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        instructions: str,
        form: Any,
        parts: Mapping[str, Part],
        *,
        recipe: str,
        seed: int,
        retries: int,
    ) -> None:
        self.endpoint = endpoint
        self.instructions = instructions
        self.form = form
        self.parts = parts
        self.recipe, self.seed, self.retries = recipe, seed, retries
        self.repeats = 0
        # Without a judge of meaning it looks at the words alone, and asks no tagger.
        self._gate = Gate(judge=None, tagger=None)  # type: ignore[arg-type]

    async def edits(self, caption: str) -> Outcome:
        """Ask until the answer is usable, at most `retries` times more.

        Raises openai.OpenAIError if a request failed for another reason than the caption.
        """
        import openai

        messages: list[Any] = [
            {"role": "system", "content": self.instructions},
            {"role": "user", "content": f"caption: {normalise(caption)}"},
        ]
        # 31 bits: servers differ in what they take for an integer.
        seed = draw(self.seed, self.recipe, caption).getrandbits(31)
        best: dict[str, str] | None = None
        for attempt in range(self.retries + 1):
            self.repeats += attempt > 0
            try:
                answer = await self.endpoint.ask(messages, seed + attempt)
            except openai.APIStatusError as error:
                if self.endpoint.turns_down(error):
                    # One caption that the server will not have, too long for it perhaps.
                    return Outcome(self._rejected("refused"), self.endpoint.fault_of(error))
                # llama.cpp answers 500 when a constrained answer was cut off: another seed may do.
                if error.status_code < 500 or attempt == self.retries or not self.endpoint.settled:
                    raise
                continue
            try:
                found = self._read(answer)
            except Unusable as error:
                wrong = str(error)
            else:
                # What was good before stays: an answer may correct one edit and spoil another.
                best = self._better(caption, best or {}, found)
                wrong = "; ".join(f"{key}: {fault}" for key, fault in self._faults(caption, best).items())
            if not wrong:
                break
            messages = [
                *messages[:2],
                {"role": "assistant", "content": answer.text[:2000] or "{}"},
                {"role": "user", "content": f"This cannot be used: {wrong}. Give the whole object again."},
            ]
        if best is None:
            look = f"the answers are not of the form asked for ({wrong})"
            return Outcome(self._rejected("no_answer"), self.endpoint.fault(answer, look))
        edits = list(self._candidates(best).values())
        if any(edit.text.strip() for edit in edits):
            return Outcome(edits)
        return Outcome(edits, self.endpoint.fault(answer, "every edit in the answers is null"))

    def _candidates(self, texts: Mapping[str, str]) -> dict[str, Candidate]:
        """The candidates of texts by their keys, in order; not those that belong to one that is missing."""
        return {
            key: Candidate(part.type, texts[key], part.kind, of=texts[part.of] if part.of else "")
            for key, part in self.parts.items()
            if key in texts and (not part.of or texts.get(part.of, "").strip())
        }

    def _faults(self, caption: str, texts: Mapping[str, str]) -> dict[str, str]:
        """What is wrong with the words of texts, for the model to read, by key."""
        edits = self._candidates(texts)
        checked = self._gate.check(caption, (), list(edits.values()))
        found = zip(edits, checked, strict=True)
        return {key: REASONS.get(edit.reason, edit.reason) for key, edit in found if edit.reason}

    def _better(self, caption: str, texts: Mapping[str, str], newer: Mapping[str, str]) -> dict[str, str]:
        """What is good of the texts so far, and newer ones in the place of what is not.

        A text and those that belong to it stay or go together.
        """

        def unit(key: str) -> str:
            return self.parts[key].of or key

        spoilt = {unit(key) for key in self._faults(caption, texts)}
        kept = {key: text for key, text in texts.items() if unit(key) not in spoilt}
        units = set(map(unit, kept))
        return kept | {key: text for key, text in newer.items() if unit(key) not in units}

    def _read(self, answer: Answer) -> dict[str, str]:
        """The texts of an answer by key. Raises Unusable."""
        from pydantic import ValidationError

        # A model that thinks aloud, or puts the object into a fence.
        said = answer.text.rsplit("</think>", 1)[-1]
        start, end = said.find("{"), said.rfind("}")
        if answer.cut and end < 0:
            raise Unusable("the answer was too long and was cut off")
        if start < 0 or end < start:
            raise Unusable("there is no JSON object in it")
        try:
            edits = self.form.model_validate_json(said[start : end + 1]).model_dump()
        except ValidationError as error:
            found = "; ".join(
                f"{'.'.join(map(str, one['loc'])) or 'the object'}: {one['msg']}" for one in error.errors()
            )
            raise Unusable(found[:SHOWN]) from error
        return {key: edits[key] for key in self.parts if edits[key] is not None}

    def _rejected(self, reason: str) -> list[Candidate]:
        """The places of a caption that got nothing."""
        return [Candidate(part.type, "", part.kind, reason) for part in self.parts.values() if not part.of]


class Rewriter:
    """Has many captions rewritten, several at a time, and ends a run in which nothing comes of it.

    It finds out the name of the model if the endpoint has none yet.

    Args:
        dialogue: rewrites one caption.

    Raises InputError if the model has to be named.
    """

    def __init__(self, dialogue: Dialogue) -> None:
        self.dialogue = dialogue
        self.endpoint = dialogue.endpoint
        self._useful = False  # whether this run has had an edit
        self._loop = asyncio.new_event_loop()
        try:
            if not self.endpoint.model:
                self.endpoint.model = self._loop.run_until_complete(self.endpoint.only_model())
        except BaseException:
            self.close()
            raise

    def rewrite(self, captions: Sequence[str], proven: bool) -> Iterator[tuple[int, list[Candidate]]]:
        """Yield (index, candidates) as the answers come; a caption whose request failed is left out.

        A model that gives no usable answer has its caption's places rejected as `no_answer`, but only
        once another caption has got an edit: captions that all get none are left out.

        Args:
            captions: what is to be rewritten.
            proven: whether an earlier run had an edit.

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
                    asked[self._loop.create_task(self.dialogue.edits(item[1]))] = item[0]
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
                    self._useful = True
                    yield index, outcome.candidates
                    yield from _released(held)
                for task in failed:
                    del asked[task]
                    self.endpoint.failed(task.exception())
                if len(held) >= (LATER if self._useful else FIRST if self.endpoint.settled else ALONE):
                    raise self._fruitless(held, proven)
            if held and not (self._useful or proven):
                raise self._fruitless(held, proven)
            yield from _released(held)
            if self.endpoint.stopped and self.endpoint.failures:
                raise self.endpoint.stopped
        finally:
            for task in asked:
                task.cancel()
            if asked:
                self._loop.run_until_complete(asyncio.wait(asked))

    def close(self) -> None:
        """Close the connections."""
        if not self._loop.is_closed():
            self._loop.run_until_complete(self.endpoint.close())
            self._loop.close()

    def _fruitless(self, held: Sequence[tuple[int, Outcome]], proven: bool) -> InputError | TrainingError:
        """The end of a run in which the captions `held`, in a row, got no edit; by the commonest fault."""
        faults = [outcome.fault for _, outcome in held if outcome.fault]
        look = Counter(fault.look for fault in faults).most_common(1)[0][0]
        fault = next(fault for fault in faults if fault.look == look)
        if not self.endpoint.settled:
            return self.endpoint.refused(fault)
        captions = f"{len(held)} captions in a row" if len(held) > 1 else "the one caption"
        example = f", for example {fault.quote!r}" if fault.quote else ""
        # What worked before is not to be asked in another way: a store takes no texts made in two ways.
        help = "when it answers as before, run" if self._useful or proven else f"{fault.help}, and run"
        return TrainingError(
            f"{self.endpoint.base_url} gave no usable answer to {captions}: {look}{example}; nothing is "
            f"recorded for them: {help} the command again"
        )


def _released(held: list[tuple[int, Outcome]]) -> Iterator[tuple[int, list[Candidate]]]:
    """What was held back, to be recorded after all."""
    while held:
        index, outcome = held.pop(0)
        yield index, outcome.candidates
