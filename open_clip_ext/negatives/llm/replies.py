"""What the body of an HTTP response says: an answer of a model, or a failure in the words of a server.

Servers that speak the OpenAI protocol differ in both, so nothing here relies on a form.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

THINKING = ("reasoning", "reasoning_content", "thinking")
SHOWN = 300  # characters of a server's or a model's words in a sentence of ours
# Where a server puts its words, and where the status of a failure that it reports with status 200.
WORDS = ("error", "message", "detail", "msg")
CODES = ("code", "status", "status_code")
MARKUP = re.compile(r"<(script|style)\b.*?</\1>|<[^>]*>", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Answer:
    """What a model said.

    Attributes:
        text: the content, without parts of another type, such as thinking.
        ending: why it ended; "length" if it was cut off.
        instead: the field, or the type of part, that has something in it while there is no text.
        quote: what stands there.
    """

    text: str
    ending: str = ""
    instead: str = ""
    quote: str = ""

    @property
    def cut(self) -> bool:
        """Whether it was cut off."""
        return self.ending == "length"

    @property
    def thinking(self) -> bool:
        """Whether there is only thinking in it."""
        return self.instead in THINKING or (self.cut and "<think" in self.text.rsplit("</think>", 1)[-1])


def body_of(response: Any) -> Any:
    """The body of a response: what its JSON means, or its text."""
    try:
        return response.json()
    except ValueError:
        return response.text


def is_completion(body: Any) -> bool:
    """Whether a body has an answer of a model, be it an empty one."""
    choice = _first_choice(body)
    if not choice or body.get("error") or choice.get("error") or choice.get("finish_reason") == "error":
        return False
    message = choice.get("message")
    return isinstance(message, dict) and isinstance(message.get("content"), str | list | None)


def code(body: Any) -> int | None:
    """The HTTP status that an error gives inside a body; None if it gives none."""
    places = [body.get("error"), _first_choice(body).get("error"), body] if isinstance(body, dict) else []
    found = [str(place.get(name)) for place in places if isinstance(place, dict) for name in CODES]
    return next((int(status) for status in found if re.fullmatch(r"[45]\d\d", status)), None)


def answer(choice: Mapping[str, Any]) -> Answer:
    """What a choice of a completion says."""
    message = choice["message"]
    content = message.get("content") or []
    parts = [content] if isinstance(content, str) else content
    text = "".join(map(_text, parts))
    instead, quote = "", None
    if not text.strip():
        others: dict[str, Any] = {str(part.get("type")): part for part in parts if isinstance(part, dict)}
        for name in ("refusal", *THINKING, "tool_calls", "function_call"):
            others.setdefault(name, message.get(name))
        instead, quote = next(((name, value) for name, value in others.items() if value), ("", ""))
    return Answer(
        text,
        ending=str(choice.get("finish_reason") or ""),
        instead=instead,
        quote=quote if isinstance(quote, str) else json.dumps(quote),
    )


def tokens(body: Mapping[str, Any], name: str) -> int:
    """How many tokens a completion says that it took; 0 if it does not say."""
    usage = body.get("usage")
    count = usage.get(name) if isinstance(usage, dict) else 0
    return count if isinstance(count, int) else 0


def words(body: Any) -> str:
    """The words of a server in a body, in one line."""
    return short(_phrase(body))


def named(body: Any) -> list[list[str]]:
    """The fields of a request that a body points to as wrong, each as a path."""
    match body:
        case {"loc": [*place]}:
            return [list(map(str, place))]
        case {"param": str(param)} if param:
            return [re.split(r"[.\[]", param)]
        case dict():
            return [place for value in body.values() for place in named(value)]
        case list():
            return [place for value in body for place in named(value)]
    return []


def short(text: str, longest: int = SHOWN) -> str:
    """A text in one line, cut to a length that can be read."""
    line = " ".join(text.split())
    return line if len(line) <= longest else f"{line[:longest]}..."


def _first_choice(body: Any) -> dict[str, Any]:
    match body:
        case {"choices": [dict(choice), *_]}:
            return choice
    return {}


def _text(part: Any) -> str:
    """The text of a part of a content; none for thinking, calls and refusals."""
    match part:
        case str():
            return part
        case {"type": "text" | "output_text", "text": str(text)}:
            return text
    return ""


def _phrase(body: Any) -> str:
    match body:
        case str():
            return MARKUP.sub(" ", body) if body.lstrip().startswith("<") else body
        case list():
            return "; ".join(map(_phrase, body))
        case {"loc": [*place], "msg": str(text)}:
            return f"{'.'.join(map(str, place))}: {text}"
        case {"message": str(text), "metadata": {"raw": raw}}:  # of the server behind a gateway
            return f"{text} ({_phrase(raw)})"
        case dict():
            for inner in (*map(body.get, WORDS), _first_choice(body).get("error")):
                if inner and isinstance(inner, str | dict | list):
                    return _phrase(inner)
    return json.dumps(body, ensure_ascii=False)
