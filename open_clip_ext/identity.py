"""Identities of pictures and texts: int64 numbers that are equal where these are."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def picture_identity(name: str | bytes) -> int:
    """The identity of a picture from its name or from its file: 64 bits of a hash, the same everywhere."""
    content = name.encode("utf-8", "surrogatepass") if isinstance(name, str) else name
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little", signed=True)


def text_identities(texts: Tensor) -> Tensor:
    """The identities `[...]` of token ids `texts [..., L]` int64; 0 for a text that does not exist.

        sum_l w_l texts_l mod 2^64        w: odd numbers that look random (the steps of SplitMix64)

    With random w, two different texts would have the same identity with a probability below 2^-47.
    """
    w = torch.arange(1, texts.shape[-1] + 1, device=texts.device) * -0x61C8864680B583EB
    w = (w ^ (w >> 30)) * -0x40A7B892E31B1A47
    w = (w ^ (w >> 27)) * -0x6B2FB644ECCEEE15
    return (texts * (w ^ (w >> 31) | 1)).sum(-1)
