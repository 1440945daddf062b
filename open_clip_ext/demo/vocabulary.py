"""The stock vocabulary without what the world never says.

Most parameters of a tiny CLIP would be the embeddings of 49,408 tokens, and nearly half of a training
step the optimizer's work on them. Only the merges that build the world's words are kept, in the stock
order: so these words come to the same tokens as before, under other numbers. Other words are spelled out.
"""

from __future__ import annotations

import gzip
import io
from functools import cache
from typing import Any

# Upstream reads the path in a model's config from the working directory, so the demo's commands run in
# the output folder.
FILE = "vocabulary.txt.gz"


def content() -> bytes:
    """The vocabulary file: a head line, then one merge per line."""
    from open_clip.tokenizer import SimpleTokenizer

    from open_clip_ext.demo import world

    stock = SimpleTokenizer()
    made_of = {"".join(pair): pair for pair in stock.bpe_ranks}
    kept: set[tuple[str, str]] = set()
    parts = [part for word in world.words() for part in stock.bpe(word).split()]
    while parts:
        pair = made_of.get(parts.pop())
        if pair is not None:
            kept.add(pair)
            parts += pair
    lines = ["#version: 0.2", *(" ".join(pair) for pair in sorted(kept, key=stock.bpe_ranks.__getitem__))]
    return gzip.compress("\n".join(lines).encode(), mtime=0)


@cache
def tokenizer(context_length: int) -> Any:
    """Upstream's tokenizer with this vocabulary."""
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer(io.BytesIO(content()), context_length=context_length)
