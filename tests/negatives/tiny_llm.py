"""A language model of a few thousand random weights, and its real server."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def write_llm(folder: Path, texts: list[str], talks: list[list[dict]] | None = None) -> Path:
    """A random LlamaForCausalLM with a byte-level BPE tokenizer trained on `texts`.

    It learns `talks`, lists of chat messages, by heart where there are any.
    """
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    bpe = ByteLevelBPETokenizer()
    special = ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    bpe.train_from_iterator(texts, vocab_size=600, special_tokens=special, show_progress=False)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, eos_token="<|end|>", pad_token="<|end|>", chat_template=TEMPLATE
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=4096,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    if talks:
        _learn(model, tokenizer, talks)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _learn(model, tokenizer, talks: list[list[dict]]) -> None:
    import torch

    texts = [tokenizer.apply_chat_template(talk, tokenize=False) for talk in talks]
    ids = tokenizer(texts, return_tensors="pt", padding=True).input_ids
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(150):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@contextmanager
def serve_llm(log: Path):
    """`transformers serve` on loopback, which loads the folder that a request names; yields its base URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [Path(sys.executable).with_name("transformers"), "serve", "--host", "127.0.0.1"]
    command += ["--port", port, "--device", "cpu"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with (
        log.open("wb") as output,
        subprocess.Popen(
            list(map(str, command)), stdout=output, stderr=output, env=environment, start_new_session=True
        ) as process,
    ):
        try:
            _wait(f"http://127.0.0.1:{port}/health", process, log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def _wait(url: str, process: subprocess.Popen, log: Path) -> None:
    for _ in range(600):
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"transformers serve did not start:\n{log.read_text()[-3000:]}")
