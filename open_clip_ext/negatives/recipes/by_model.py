"""The recipes `degla`, `negation-llm`, `phrases-llm` and `positives-llm`: texts by a language model.

A recipe is a folder of prompts and what the keys of an answer hold. All prompts are ours. DeGLA's paper (Hu
et al., ACM MM 2025, arXiv:2504.16801) describes its five types and names the model; its prompts were not
released (xiaoxing2001/DeGLA@1c5e960).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar, Literal

from open_clip_ext.errors import InputError
from open_clip_ext.negatives.llm.endpoint import Endpoint, extra_fields, response_formats
from open_clip_ext.negatives.llm.rewriter import Dialogue, Part, Rewriter, answer_form
from open_clip_ext.negatives.recipes.degla_rules import DeGLARules
from open_clip_ext.negatives.recipes.negation import Negation
from open_clip_ext.negatives.recipes.positives import Positives
from open_clip_ext.negatives.records import ABSENCE, FOIL, NEGATIVE, PHRASE, POSITIVE, Candidate


class ByModel:
    """A recipe whose texts a language model behind an OpenAI-compatible endpoint writes.

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

    name: ClassVar[str]
    version: ClassVar[str] = "1"
    parts: ClassVar[Mapping[str, Part]]  # by their keys in an answer; each key has a prompt
    types: ClassVar[tuple[str, ...]]
    kinds: ClassVar[tuple[str, ...]]
    proven = False  # whether an earlier run had an edit

    def __init_subclass__(cls) -> None:
        cls.types = tuple(dict.fromkeys(part.type for part in cls.parts.values()))
        cls.kinds = tuple(dict.fromkeys(part.kind for part in cls.parts.values()))

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
                f"the recipe {self.name} needs an endpoint: --cfg base_url=http://HOST:PORT/v1 of any server "
                "that speaks the OpenAI protocol (vLLM, llama.cpp, `transformers serve`, a hosted one)"
            )
        _require_client(self.name)
        instructions, form = self.instructions(prompts), answer_form(tuple(self.parts))
        self.endpoint = Endpoint(
            base_url,
            model=model,
            fields={"temperature": temperature, "max_tokens": max_tokens},
            extra=extra_fields(extra),
            formats=response_formats(form.model_json_schema(), structured),
            concurrency=concurrency,
            timeout=timeout,
            patience=patience,
        )
        self.dialogue = Dialogue(
            self.endpoint, instructions, form, self.parts, recipe=self.name, seed=seed, retries=retries
        )
        self.rewriter = Rewriter(self.dialogue)
        self.prices = price_in, price_out
        # Enough that a worker waits for the slowest of a batch only seldom, and to notice a fruitless run.
        self.batch_size = 64 * max(concurrency, 4)

    @classmethod
    def instructions(cls, folder: str = "") -> str:
        """The prompts in one: `task.md`, then a file for each type, from `folder` or the package.

        Raises InputError if one cannot be read.
        """
        ours: Any = files(__package__) / "prompts" / cls.name.removesuffix("-llm")
        place = Path(folder) if folder else ours
        texts = []
        for name in ("task", *cls.types):
            try:
                texts.append((place / f"{name}.md").read_text(encoding="utf-8").strip())
            except (OSError, UnicodeDecodeError) as error:
                raise InputError(
                    f"--cfg prompts={folder}: {name}.md cannot be read there ({error}); copy {ours} and "
                    "edit the copy"
                ) from error
        return "\n\n".join(filter(None, texts))

    def identity(self) -> dict[str, Any]:
        """Model, prompts and sampling; not where and how fast the model is asked."""
        return {
            "model": self.endpoint.model,
            "prompts": blake2b(self.dialogue.instructions.encode(), digest_size=8).hexdigest(),
            **self.endpoint.fields,
            "extra": self.endpoint.extra,
            "retries": self.dialogue.retries,
            "seed": self.dialogue.seed,
        }

    def generate(self, captions: Sequence[str]) -> Iterator[tuple[int, list[Candidate]]]:
        """Yield (index, candidates) as the answers come; see `Rewriter.rewrite`."""
        return self.rewriter.rewrite(captions, self.proven)

    def status(self) -> str:
        """Tokens read and written, their price, answers asked for again."""
        tokens_in, tokens_out = self.endpoint.tokens_in, self.endpoint.tokens_out
        said = [f"{_thousands(tokens_in)} tokens in", f"{_thousands(tokens_out)} out"]
        if any(self.prices):
            said.append(f"cost {(tokens_in * self.prices[0] + tokens_out * self.prices[1]) / 1e6:.2f}")
        if self.dialogue.repeats:
            said.append(f"{self.dialogue.repeats} asked again")
        return ", ".join(said)

    def close(self) -> None:
        """Close the connections."""
        self.rewriter.close()


class DeGLA(ByModel):
    """The five types of negatives of DeGLA."""

    name = "degla"
    parts: ClassVar = {type: Part(type) for type in DeGLARules.types}


class NegationByModel(ByModel):
    """The recipe `negation`, by a model: what is there denied, and what is not."""

    name = "negation-llm"
    parts: ClassVar = {type: Part(type, ABSENCE if type == "absent" else NEGATIVE) for type in Negation.types}


class PhrasesByModel(ByModel):
    """The recipe `phrases`, by a model: an entity and a relation of a caption, each with a foil."""

    name = "phrases-llm"
    parts: ClassVar = {
        "entity": Part("entity", PHRASE),
        "entity_foil": Part("entity", FOIL, of="entity"),
        "relation": Part("relation", PHRASE),
        "relation_foil": Part("relation", FOIL, of="relation"),
    }


class PositivesByModel(ByModel):
    """The recipe `positives`, by a model: the edits of the negatives, where they keep what is said."""

    name = "positives-llm"
    parts: ClassVar = {type: Part(type, POSITIVE) for type in Positives.types}


def _require_client(recipe: str) -> None:
    try:
        import_module("openai")
    except ImportError as error:
        raise InputError(
            f'the recipe {recipe} needs the package openai: run `pip install "open_clip_ext[negatives]"`'
        ) from error


def _thousands(count: int) -> str:
    return f"{count / 1e6:.1f}M" if count >= 1e6 else f"{count / 1e3:.0f}k" if count >= 1e4 else str(count)
