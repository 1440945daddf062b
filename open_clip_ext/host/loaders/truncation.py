"""Truncation: what the tokenizer cuts off captions and companions, counted before training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from open_clip_ext.errors import InputError
from open_clip_ext.host.loaders.images import spread
from open_clip_ext.training import seeding
from open_clip_ext.training.kinds import several

# Texts that are looked at, captions that are at a time, and context lengths up to which texts are measured.
TEXTS, BATCH, LONGEST = 10_000, 250, 32


def describe(
    tokenizer: Any, captions: Sequence[str], companions: Mapping[str, Sequence[Sequence[str]]], where: str
) -> Iterator[str]:
    """What is cut off some captions and companions, and of which companions nothing is left; in sentences.

    Args:
        tokenizer: one of upstream's.
        captions: of the data.
        companions: of each kind those of each caption.
        where: the data, for a sentence.

    Raises InputError if there are companions of a kind, and to the tokenizer none differs from its caption.
    """
    names = {several(kind): lists for kind, lists in companions.items()}
    rows = [
        [
            ("captions", captions[i]),
            *((name, text) for name, lists in names.items() for text in lists[i] if text),
        ]
        for i in spread(len(captions), TEXTS)
    ]
    rows = [rows[i] for i in spread(len(rows), max(1, TEXTS * len(rows) // sum(map(len, rows))))]
    seen = Counter(name for row in rows for name, _ in row)
    cut: Counter[str] = Counter()
    longest = dict.fromkeys(seen, (0, ""))
    same: Counter[str] = Counter()
    with seeding.preserve_rng_state():  # some of upstream's tokenizers draw what they leave out
        padding = tokenizer([""]).mode().values
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            kinds, texts = zip(*(pair for row in batch for pair in row), strict=True)
            sizes = torch.tensor([len(row) for row in batch])
            caption = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)  # the place of each text's caption
            is_caption = caption == torch.arange(len(texts))
            ids = tokenizer(list(texts))
            repeats = (ids == ids[caption]).all(-1) & ~is_caption
            same.update(kinds[i] for i in repeats.nonzero().flatten().tolist())
            lengths = (ids != padding).sum(-1)
            # Two tokens may be added to a text, and what ends it may be the padding.
            for i in (lengths >= tokenizer.context_length - 2).nonzero().flatten().tolist():
                whole = tokenizer([texts[i]], context_length=LONGEST * tokenizer.context_length)
                length = int((whole != padding).sum())
                if length > lengths[i]:
                    cut[kinds[i]] += 1
                    longest[kinds[i]] = max(longest[kinds[i]], (length, texts[i]))
    for kind, number in cut.items():
        length, text = longest[kind]
        yield (
            f"{where}: {number} of {seen[kind]} {kind} looked at are cut after {tokenizer.context_length} "
            f"tokens; the longest has {length}: {text[:60]!r}"
        )
    for kind, number in same.items():
        sentence = (
            f"{where}: {number} of {seen[kind]} {kind} looked at are to the tokenizer the same as their "
            "caption (they differ behind the cut, in upper case alone, or not at all)"
        )
        if number == seen[kind]:
            raise InputError(f"{sentence}; shorten the captions, or make {kind} that change their beginning")
        yield f"{sentence} and count as missing"
