"""A real HTTP server on loopback that answers as an OpenAI-compatible one, by a script."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Reply:
    """What the server does with one request."""

    content: str | list | None = None  # of the assistant's message
    message: dict = field(default_factory=dict)  # what else the message has
    status: int = 200
    body: bytes | None = None  # instead of a chat completion
    ending: str = "stop"  # finish_reason
    delay: float = 0.0
    drop: bool = False  # close the connection without an answer
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Endpoint:
    """A running server: its address, and the requests it has had."""

    url: str
    requests: list[dict] = field(default_factory=list)
    widest: int = 0  # requests at a time

    def captions(self) -> list[str]:
        return [caption_of(request) for request in self.requests]


def caption_of(request: dict) -> str:
    """The caption that a request is about."""
    return request["messages"][1]["content"].removeprefix("caption: ")


def edits(**kinds) -> str:
    """A well-formed answer; kinds that are not named are null."""
    empty = dict.fromkeys(("reshuffle", "swap_noun", "swap_adj", "replace_adj", "replace_noun"))
    return json.dumps({**empty, **kinds})


def good(request: dict, number: int) -> Reply:
    """Replaces the caption's second word."""
    words = caption_of(request).split()
    return Reply(edits(replace_noun=" ".join([words[0], "zebra", *words[2:]])))


@contextmanager
def serve(
    script: Callable[[dict, int], Reply] = good,
    models: tuple[str, ...] = ("tiny",),
    listed: Reply | None = None,
):
    """A server that answers the n-th chat request (from 0) with `script(request, n)`.

    It lists `models`, or answers with `listed` in their place.
    """
    lock = threading.Lock()
    open_requests = 0

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self):
            names = {"object": "list", "data": [model(name) for name in models]}
            answer = listed or Reply(body=json.dumps(names).encode())
            self.reply(answer.status, completion("", answer) if answer.body is None else answer.body)

        def do_POST(self):
            nonlocal open_requests
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(endpoint.requests)
                endpoint.requests.append(request)
                open_requests += 1
                endpoint.widest = max(endpoint.widest, open_requests)
            try:
                answer = script(request, number)
                time.sleep(answer.delay)
            finally:
                with lock:
                    open_requests -= 1
            if answer.drop:
                self.close_connection = True
                return
            body = completion(request["model"], answer) if answer.body is None else answer.body
            self.reply(answer.status, body, answer.headers)

        def reply(self, status, body, headers=()):
            self.send_response(status)
            for name, value in {
                "Content-Type": "application/json",
                "Content-Length": str(len(body)),
                **dict(headers),
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # a client that went away
    endpoint = Endpoint(f"http://127.0.0.1:{server.server_port}/v1")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield endpoint
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def model(name: str) -> dict:
    return {"id": name, "object": "model", "created": 0, "owned_by": "test"}


def completion(name: str, answer: Reply) -> bytes:
    if answer.status != 200:
        return json.dumps({"error": {"message": answer.content or "scripted", "type": "scripted"}}).encode()
    return json.dumps(
        {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": name,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": answer.content, **answer.message},
                    "finish_reason": answer.ending,
                }
            ],
            "usage": {"prompt_tokens": 1000, "completion_tokens": 50, "total_tokens": 1050},
        }
    ).encode()
