"""The demo's vocabulary, without its folder."""

from __future__ import annotations

import io
from typing import Any

from open_clip.tokenizer import SimpleTokenizer

from open_clip_ext.demo import vocabulary


def tokenizer(context_length: int) -> Any:
    """Upstream's tokenizer with this vocabulary."""
    return SimpleTokenizer(io.BytesIO(vocabulary.content()), context_length=context_length)
