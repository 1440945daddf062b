"""Captions and their negatives: made ones, as long as those of COCO, or those of a file."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from pathlib import Path

# Each is one token to CLIP's tokenizer, so that a caption's length can be chosen.
TEXT = (
    "a the two small large red green blue white black old young man woman child dog cat horse bird bus train "
    "boat table chair street beach field kitchen park snow window tree house sitting standing riding holding "
    "walking eating playing next under behind near with and on in of front his her"
)
WORDS = TEXT.split()


def made(count: int, negatives: int, seed: int = 0) -> tuple[list[str], list[list[str]]]:
    """Token lengths with mean 14.7, 99th percentile 24 and at most 52, start and end included.

    A negative has one word of its caption exchanged, and sometimes one more.
    """
    rng = random.Random(seed)
    captions, edited = [], []
    for _ in range(count):
        length = min(52, max(7, round(rng.lognormvariate(2.66, 0.2226)))) - 2
        words = rng.choices(WORDS, k=length)
        captions.append(" ".join(words))
        edited.append([" ".join(_edit(words, rng)) for _ in range(negatives)])
    return captions, edited


def _edit(words: list[str], rng: random.Random) -> list[str]:
    at = rng.randrange(len(words))
    others = [word for word in WORDS if word != words[at]]
    new = rng.sample(others, k=rng.choice((1, 1, 1, 2)) if len(words) < 50 else 1)
    return [*words[:at], *new, *words[at + 1 :]]


def read(paths: list[str], count: int, negatives: int, seed: int = 0) -> tuple[list[str], list[list[str]]]:
    """From files in SugarCrepe's format; a caption with too few negatives gets those of others."""
    of: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        for item in json.loads(Path(path).read_text()).values():
            of[item["caption"]].append(item["negative_caption"])
    pool = [text for texts in of.values() for text in texts]
    rng = random.Random(seed)
    captions = rng.choices(sorted(of), k=count)
    return captions, [(of[c] + rng.choices(pool, k=negatives))[:negatives] for c in captions]


def choose(paths: list[str], count: int, negatives: int) -> tuple[list[str], list[list[str]]]:
    return read(paths, count, negatives) if paths else made(count, negatives)
