"""Dense tokens of both towers: patches and words, projected into the shared space.

Upstream's towers pool and then project. One that is told to pool nothing projects every token, and the pooled
features are picked from these. So upstream's `encode_image` and `encode_text` do all of it.

Shapes: B images, N texts, P patches, L tokens, D embedding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.transformer import TextTransformer, VisionTransformer
from torch import Tensor

from open_clip_ext.errors import InputError
from open_clip_ext.model import text_trimming
from open_clip_ext.model.text_towers import CausalText


class DenseTokens:
    """Runs both towers for their features and their tokens.

    Texts are run at their real length where `text_trimming.trim` has been there before.

    Args:
        model: an open_clip model, not yet extended by `forward.extend_forward`.
        same_width: give texts the context length, whatever the batch has, so that tokens of several batches
            can be put together.

    Raises:
        InputError: a tower gives no tokens, or none in the space of its features.
    """

    def __init__(self, model: Any, *, same_width: bool = False) -> None:
        reason = _obstacle(model)
        if reason is not None:
            raise InputError(f"this model gives no dense tokens: {reason}")
        self.model, self.same_width = model, same_width
        self.trimmed = text_trimming.tower_of(model) is not None
        self.tower = CausalText(model)

    # Only the towers are compiled: what pools nothing for a while breaks a graph anyway.
    @torch.compiler.disable(recursive=False)  # type: ignore[no-untyped-call, untyped-decorator]
    def __call__(self, image: Tensor, text: Tensor) -> dict[str, Tensor]:
        """Features and tokens of images `[B, 3, H, W]` and token ids `[N, L]`.

        Returns:
            image_features, text_features: `[B, D]` and `[N, D]`, unit length, as the model's.
            image_tokens: patches `[B, P, D]`, not normalized.
            text_tokens: `[N, L', D]`, not normalized; L' is the longest width run, or L.
            text_token_mask: `[N, L']` bool: up to and including the end of the text.
        """
        pool = self.model.visual.pool_type
        with self._unpooled():
            tokens = self.model.encode_image(image)  # the class token comes first
            words = text_trimming.encode(self.tower, text) if self.trimmed else self.tower.run(text, False)
        if self.same_width:
            words = F.pad(words, (0, 0, 0, text.shape[1] - words.shape[1]))
        patches = tokens[:, 1:]
        lengths = self.tower.lengths(text)
        pooled = words[torch.arange(len(words), device=words.device), lengths - 1]
        return {
            "image_features": F.normalize(tokens[:, 0] if pool == "tok" else patches.mean(1), dim=-1),
            "text_features": F.normalize(pooled, dim=-1),
            "image_tokens": patches,
            "text_tokens": words,
            "text_token_mask": torch.arange(words.shape[1], device=words.device) < lengths[:, None],
        }

    def memory(self, batch: int, texts: int, itemsize: int) -> str:
        """One sentence on the memory of a batch's tokens.

        Args:
            batch: images, of all batches that are put together.
            texts: of each image.
            itemsize: bytes of a number.
        """
        visual = self.model.visual
        patches = visual.grid_size[0] * visual.grid_size[1]
        kept = max(1, int(patches * (1 - getattr(visual.patch_dropout, "prob", 0))))
        shapes = (
            (batch, kept, visual.output_dim),
            (batch, texts, self.model.context_length, visual.output_dim),
        )
        sizes = [torch.Size(shape).numel() * itemsize / 2**20 for shape in shapes]
        return (
            f"dense tokens of a batch: images {list(shapes[0])} {sizes[0]:.1f} MiB, texts {list(shapes[1])} "
            f"{'' if self.same_width or not self.trimmed else 'at most '}{sizes[1]:.1f} MiB"
        )

    @contextmanager
    def _unpooled(self) -> Iterator[None]:
        """Both towers without pooling, for this call: evaluation uses the same modules."""
        places = (self.model.visual, "pool_type"), (self.tower.text, f"{self.tower.prefix}pool_type")
        was = [getattr(*place) for place in places]
        try:
            for place in places:
                setattr(*place, "none")
            yield
        finally:
            for place, value in zip(places, was, strict=True):
                setattr(*place, value)


def _obstacle(model: Any) -> str | None:
    """Why a tower gives no tokens in the space of its features; None if both do."""
    if not isinstance(model, CLIP | CustomTextCLIP):
        return f"{type(model).__name__} is not known to"
    visual, text = model.visual, model if isinstance(model, CLIP) else model.text
    # SigLIP's is a model of timm, the `trunk`.
    if getattr(getattr(visual, "trunk", visual), "attn_pool", None) is not None:
        return "its image tower pools by attention, so its patches are not in the space of its features"
    if type(visual) is not VisionTransformer:
        return f"its image tower {type(visual).__name__} has none, or not in the space of its features"
    if visual.final_ln_after_pool or visual.pool_type not in ("tok", "avg"):
        return "its image tower normalizes after it has pooled, or does not pool"
    if text is not model and type(text) is not TextTransformer:
        return f"its text tower {type(text).__name__} has none in the space of its features"
    if getattr(text, "cls_emb", None) is not None:
        return "its text tower has a class token"
    pool = CausalText(model).pool_type
    if pool not in ("argmax", "eos"):
        return f"its text tower pools the token {pool!r}, which does not tell how long a text is"
    return None
