"""Microseconds of CPU that a caption takes: upstream's tokenizer, and the collate around it."""

from __future__ import annotations

import captions
import measure
import open_clip

from open_clip_ext.data import HardNegativeCollate

K = 4


def compare(files: list[str], count: int, pairs: int) -> dict:
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    collate = HardNegativeCollate(tokenizer, K)
    texts, negatives = captions.choose(files, count, K)
    flat = [text for row in zip(texts, negatives, strict=True) for text in (row[0], *row[1])]
    companions = [{"neg": row} for row in negatives]
    tokenizer(flat)  # fills its cache of words
    found = measure.in_turns(
        lambda: tokenizer(flat), lambda: collate.texts(texts, companions), pairs, "tokenizer"
    )
    lengths = [int((row != 0).sum()) for row in tokenizer(flat)]
    return {
        "upstream_us": found["straightforward_s"] / len(flat) * 1e6,
        "collate_us": found["ours_s"] / len(flat) * 1e6,
        "captions": len(flat),
        "tokens_mean": sum(lengths) / len(lengths),
        "tokens_99": sorted(lengths)[int(0.99 * len(lengths))],
        "tokens_max": max(lengths),
    }
