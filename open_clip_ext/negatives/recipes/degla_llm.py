"""The recipe `degla`: the five types of negatives of DeGLA, written by a language model.

The paper (Hu et al., ACM MM 2025, arXiv:2504.16801) describes the five types and names the model; its
prompts were not released (xiaoxing2001/DeGLA@1c5e960), so those in `prompts/` are ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from open_clip_ext.errors import InputError
from open_clip_ext.negatives.llm.endpoint import Endpoint, extra_fields, response_formats
from open_clip_ext.negatives.llm.rewriter import Dialogue, Rewriter, answer_form
from open_clip_ext.negatives.records import Candidate


class DeGLA:
    """The five types of DeGLA by a language model behind an OpenAI-compatible endpoint.

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
    types = ("reshuffle", "swap_noun", "swap_adj", "replace_adj", "replace_noun")
    proven = False  # whether an earlier run had an edit

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
        _require_client()
        instructions, form = read_prompts(prompts), answer_form(self.types)
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
            self.endpoint, instructions, form, recipe="degla", seed=seed, retries=retries
        )
        self.rewriter = Rewriter(self.dialogue)
        self.prices = price_in, price_out
        # Enough that a worker waits for the slowest of a batch only seldom, and to notice a fruitless run.
        self.batch_size = 64 * max(concurrency, 4)

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


def read_prompts(folder: str = "") -> str:
    """The instructions: `task.md`, then a file for each type, from `folder` or the package.

    Raises InputError if one cannot be read.
    """
    place: Any = Path(folder) if folder else files(__package__) / "prompts"
    texts = []
    for name in ("task", *DeGLA.types):
        try:
            texts.append((place / f"{name}.md").read_text(encoding="utf-8").strip())
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"--cfg prompts={folder}: {name}.md cannot be read there ({error}); "
                f"copy {files(__package__) / 'prompts'} and edit the copy"
            ) from error
    return "\n\n".join(filter(None, texts))


def _require_client() -> None:
    try:
        import_module("openai")
    except ImportError as error:
        raise InputError(
            'the recipe degla needs the package openai: run `pip install "open_clip_ext[negatives]"`'
        ) from error


def _thousands(count: int) -> str:
    return f"{count / 1e6:.1f}M" if count >= 1e6 else f"{count / 1e3:.0f}k" if count >= 1e4 else str(count)
