"""The stock vocabulary, reduced to the words of the drawn world.

The embeddings of all 49,408 tokens would be most of the parameters of a tiny CLIP, and the optimizer would
spend nearly half of a training step on them. Only the merges that build the world's words are kept, in the
stock order. These words are still split into the same tokens, with other ids. Other words are spelled out.
"""

from __future__ import annotations

import gzip

# The path in a model's config is relative to the working directory, so the demo's commands run in the output
# folder.
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
