"""Truncation: what the tokenizer cuts off captions and negatives, counted before training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from open_clip_ext.errors import InputError
from open_clip_ext.host.loaders.images import spread
from open_clip_ext.training import seeding

# Texts that are looked at, captions that are at a time, and context lengths up to which texts are measured.
TEXTS, BATCH, LONGEST = 10_000, 250, 32


def describe(
    tokenizer: Any, captions: Sequence[str], negatives: Sequence[Sequence[str]], where: str
) -> Iterator[str]:
    """What is cut off some captions and negatives, and of which negatives nothing is left; in sentences.

    Args:
        tokenizer: one of upstream's.
        captions: of the data.
        negatives: of each caption.
        where: the data, for a sentence.

    Raises InputError if there are negatives, and to the tokenizer none differs from its caption.
    """
    rows = [[captions[i], *filter(None, negatives[i])] for i in spread(len(captions), TEXTS)]
    rows = [rows[i] for i in spread(len(rows), max(1, TEXTS * len(rows) // sum(map(len, rows))))]
    seen = Counter(captions=len(rows), negatives=sum(map(len, rows)) - len(rows))
    cut: Counter[str] = Counter()
    longest = dict.fromkeys(seen, (0, ""))
    same = 0
    with seeding.preserve_rng_state():  # some of upstream's tokenizers draw what they leave out
        padding = tokenizer([""]).mode().values
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            texts = [text for row in batch for text in row]
            sizes = torch.tensor([len(row) for row in batch])
            caption = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)  # the place of each text's caption
            is_caption = caption == torch.arange(len(texts))
            ids = tokenizer(texts)
            same += int(((ids == ids[caption]).all(-1) & ~is_caption).sum())
            lengths = (ids != padding).sum(-1)
            # Two tokens may be added to a text, and what ends it may be the padding.
            for i in (lengths >= tokenizer.context_length - 2).nonzero().flatten().tolist():
                whole = tokenizer([texts[i]], context_length=LONGEST * tokenizer.context_length)
                length = int((whole != padding).sum())
                if length > lengths[i]:
                    kind = "captions" if is_caption[i] else "negatives"
                    cut[kind] += 1
                    longest[kind] = max(longest[kind], (length, texts[i]))
    for kind, number in cut.items():
        length, text = longest[kind]
        yield (
            f"{where}: {number} of {seen[kind]} {kind} looked at are cut after {tokenizer.context_length} "
            f"tokens; the longest has {length}: {text[:60]!r}"
        )
    sentence = (
        f"{where}: {same} of {seen['negatives']} negatives looked at are to the tokenizer the same as their "
        "caption (they differ behind the cut, or in upper case alone)"
    )
    if same and same == seen["negatives"]:
        raise InputError(f"{sentence}; shorten the captions, or make negatives that change their beginning")
    if same:
        yield f"{sentence} and count as missing"
