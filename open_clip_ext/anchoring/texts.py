"""Texts that say what captions do not: from a file, or of the words that the tokenizer knows."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from open_clip_ext.errors import InputError

# Texts of the words of a vocabulary, and words in each.
TEXTS = 8192
MOST_WORDS = 8
# Fewer words than these are no vocabulary of a language.
ENOUGH = 50


def from_file(path: str) -> list[str]:
    """The lines of a text file, without those that are blank.

    Raises InputError if it cannot be read or has no text.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise InputError(
            f"anchor_texts={path}: cannot be read ({error}); give a text file in UTF-8"
        ) from error
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise InputError(f"anchor_texts={path}: has no text; give a file with one text per line")
    return texts


def of_words(tokenizer: Any) -> list[str]:
    """`TEXTS` texts of one to `MOST_WORDS` words that are drawn from a tokenizer's vocabulary.

    They are the same for every run with this tokenizer.

    Raises InputError if its words are not known.
    """
    words = vocabulary(tokenizer)
    if len(words) < ENOUGH:
        raise InputError(
            f"text_anchor: the words of the tokenizer {type(tokenizer).__name__} are not known; give texts, "
            "with --loss-cfg anchor_texts=FILE"
        )
    rng = random.Random(0)
    return [" ".join(rng.choices(words, k=rng.randint(1, MOST_WORDS))) for _ in range(TEXTS)]


def vocabulary(tokenizer: Any) -> list[str]:
    """The tokens of upstream's tokenizers that are whole words, sorted; none of another tokenizer."""
    if hasattr(tokenizer, "encoder"):  # SimpleTokenizer
        tokens = tokenizer.encoder
    elif hasattr(getattr(tokenizer, "tokenizer", None), "get_vocab"):  # HFTokenizer
        tokens = tokenizer.tokenizer.get_vocab()
    else:
        return []
    return sorted(word for word in _whole(tokens) if word.isalpha() and len(word) > 1)


def _whole(tokens: Iterable[str]) -> set[str]:
    """The tokens that begin a word and end it, as far as their marks tell."""
    tokens = list(tokens)
    if ended := {token.removesuffix("</w>") for token in tokens if token.endswith("</w>")}:
        return set(filter(str.isascii, ended))  # other letters are written as bytes
    if begun := {token[1:] for token in tokens if token.startswith("Ġ")}:
        return set(filter(str.isascii, begun))
    if begun := {token[1:] for token in tokens if token.startswith("▁")}:
        return begun
    return {token for token in tokens if not token.startswith("##")}
