"""Text towers that give the same features without the padding after a text, and how each of them is run.

Shapes: N texts, L tokens (the context length), D embedding.
"""

from __future__ import annotations

from typing import Any

import torch
from open_clip.hf_model import HFTextEncoder
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH
from open_clip.transformer import TextTransformer
from torch import Tensor, nn
from torch.func import functional_call


class CausalText(nn.Module):
    """A text tower with a causal mask, which pools at the end-of-text token.

    No token attends to later ones, so that what is pooled does not depend on the padding. Upstream adds the
    positional embedding and the mask at full length. During a call, both are replaced here by their leading
    parts, and upstream's `encode_text` does the rest.
    """

    why = "under its causal mask no token sees the padding"

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.stock = getattr(type(model), entry(model))
        # CLIP has the parts of its text tower as its own attributes, two of them under other names.
        self.place, self.prefix = ("model", "text_") if isinstance(model, CLIP) else ("model.text", "")
        self.pool_type = getattr(self.text, f"{self.prefix}pool_type", "argmax")
        self.eos_id: Any = getattr(self.text, f"{self.prefix}eos_id", None)

    @property
    def text(self) -> Any:
        """The module that holds the positional embedding and the mask."""
        return self.get_submodule(self.place)

    def forward(self, text: Tensor, normalize: bool) -> Tensor:
        """Upstream's `encode_text` of `text [N, width]`."""
        return self.stock(self.model, text, normalize)  # type: ignore[no-any-return]

    def run(self, text: Tensor, normalize: bool) -> Tensor:
        """Features of `text [N, width]`."""
        width = text.shape[1]
        position, mask = self.text.positional_embedding, self.text.attn_mask
        if width == len(position):
            return self(text, normalize)  # type: ignore[no-any-return]
        parts = {
            f"{self.place}.positional_embedding": position[:width],
            # Contiguous: kernels on accelerators need aligned rows of the mask.
            f"{self.place}.attn_mask": mask[:width, :width].contiguous(),
        }
        return functional_call(self, parts, (text, normalize), tie_weights=False)  # type: ignore[no-any-return]

    def lengths(self, text: Tensor) -> Tensor:
        """Tokens up to the pooled one, `[N]`: the first of highest id, or the first end-of-text."""
        ends = text if self.pool_type == "argmax" else text.eq(self.eos_id).int()
        return ends.argmax(-1) + 1

    def context(self, empty: Tensor | None) -> int:
        """The number of tokens at full length."""
        return len(self.text.positional_embedding)

    def obstacle(self, empty: Tensor | None) -> str | None:
        """Why its features depend on the padding, or may do so; None if they certainly do not."""
        mask = getattr(self.text, "attn_mask", None)
        length = len(self.text.positional_embedding)
        if getattr(self.text, "cls_emb", None) is not None:
            return "it has a class token"
        if mask is None:
            return "it has no causal mask"
        future = mask.triu(1)
        if mask.shape != (length, length) or not future.eq(torch.full_like(mask, -torch.inf).triu(1)).all():
            return "its mask is not causal"
        if getattr(self.text, "use_pad_mask", False):
            return "it masks padding"
        if self.pool_type not in ("argmax", "eos"):
            return f"it pools the token {self.pool_type!r}"
        if getattr(self.text, "output_tokens", False):
            return "it returns the states of all tokens"
        return None

    def examples(self, lengths: Tensor, context: int, draw: torch.Generator) -> Tensor:
        """Random texts `[N, L]` of `lengths [N]` tokens, at least 2; of L tokens where they would be more."""
        highest = self.text.vocab_size - 1
        end = highest if self.pool_type == "argmax" else self.eos_id
        ids = torch.randint(1, highest, (len(lengths), context), generator=draw)
        after = torch.arange(context) - (lengths.clamp(max=context) - 1)[:, None]
        return ids.masked_fill(after > 0, 0).masked_fill(after == 0, end)


class MaskedText(nn.Module):
    """A text tower of transformers: upstream hides the padding from it, and from what pools its tokens.

    Positions are counted from the beginning of a text, or are distances. So a text can simply be cut off
    behind its last token.
    """

    why = "its tower masks padding"

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.stock = getattr(type(model), entry(model))
        self.padding: Any = getattr(self.text.config, "pad_token_id", None)

    @property
    def text(self) -> Any:
        """Upstream's `HFTextEncoder`."""
        return self.model.text

    def forward(self, text: Tensor, normalize: bool) -> Tensor:
        """Upstream's `encode_text` of `text [N, width]`."""
        return self.stock(self.model, text, normalize)  # type: ignore[no-any-return]

    run = forward

    def lengths(self, text: Tensor) -> Tensor:
        """Tokens up to the last that is no padding, `[N]`, at least 1."""
        places = torch.arange(1, text.shape[1] + 1, device=text.device)
        return places.where(text.ne(self.padding), 1).amax(-1)

    def context(self, empty: Tensor | None) -> int:
        """The number of tokens at full length, which the tokenizer alone knows: its tower could take more."""
        return DEFAULT_CONTEXT_LENGTH if empty is None else len(empty)

    def obstacle(self, empty: Tensor | None) -> str | None:
        """Why its features depend on the padding, or may do so; None if they do not as far as is known."""
        if self.padding is None:
            return "its configuration names no padding"
        if empty is not None and empty[-1] != self.padding:
            return (
                f"the tokenizer fills texts with the id {int(empty[-1])} at their end, and its tower masks "
                f"the id {self.padding}"
            )
        if self.text.output_tokens:
            return "it returns the states of all tokens"
        return None

    def examples(self, lengths: Tensor, context: int, draw: torch.Generator) -> Tensor:
        """Random texts `[N, L]` of `lengths [N]` tokens; of L tokens where they would be more."""
        ids = torch.randint(1, self.text.vocab_size, (len(lengths), context), generator=draw)
        ids = ids.where(ids.ne(self.padding), ids - 1)
        return ids.masked_fill(torch.arange(context) >= lengths[:, None], self.padding)


Tower = CausalText | MaskedText


def entry(model: Any) -> str:
    """The method that runs the texts in `forward` too; upstream's main branch has one of its own for that."""
    return "_encode_text" if hasattr(model, "_encode_text") else "encode_text"


def tower(model: Any) -> Tower | str:
    """How to run the texts of an open_clip model; or why it is not known, in words."""
    if type(model) not in (CLIP, CustomTextCLIP):
        return f"{type(model).__name__} is not known to allow less"
    text = model if type(model) is CLIP else model.text
    if entry(model) in vars(model) or "forward" in vars(text):
        return "its encode_text is not upstream's"
    if type(text) is HFTextEncoder:
        return MaskedText(model)
    if type(text) not in (CLIP, TextTransformer):
        return f"its text tower {type(text).__name__} is not known to allow less"
    return CausalText(model)
