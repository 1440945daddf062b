"""Run text towers at the real length of each text.

Under a causal mask no token attends to later ones, so a tower that pools at the end-of-text token
computes the same features without the padding after it. Upstream adds the positional embedding and the
mask at full length. During a call, both are replaced here by their leading parts, and upstream's
`encode_text` does the rest.

Shapes: N texts, L tokens (the context length), D embedding.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.transformer import TextTransformer
from torch import Tensor, nn
from torch.func import functional_call

from open_clip_ext.model.override import override, state_of
from open_clip_ext.precision import without_tf32

# Texts are run at these widths, and at the context length. Most captions have 10 to 20 tokens.
WIDTHS = (8, 12, 16, 20, 24, 32, 48, 64)
# The cost of one more group, in tokens. On a CPU the weights are read and their gradients added once more
# (measured). On an accelerator small kernels are launched (estimated, not measured).
CPU_GROUP_COST = 40
GROUP_COST = 4096

STATE = "_open_clip_ext_tower"


def trim(model: nn.Module, evaluation: bool = False) -> str | None:
    """Make `model` encode texts at their real length, if that gives the same features; in place.

    Only this instance gets another `encode_text` (see `override`).

    Args:
        model: an open_clip model.
        evaluation: trim in evaluation mode too. By default only training is trimmed.

    Returns:
        None if the model was changed; otherwise the reason why texts must stay at full context length.
    """
    reason = _obstacle(model) or _difference(TrimmableText(model))
    if reason is not None:
        return reason
    base: Any = type(model)
    tower = TrimmableText(model)

    def encode_text(self: Any, text: Tensor, normalize: bool = False) -> Tensor:
        if not (self.training or evaluation):
            return base.encode_text(self, text, normalize)  # type: ignore[no-any-return]
        features: Tensor = encode(state_of(self, STATE), text, normalize)
        return features

    override(model, STATE, tower, encode_text=encode_text)
    return None


def tower_of(model: nn.Module) -> TrimmableText | None:
    """What runs the texts of a model that `trim` changed; None if it did not."""
    return vars(model).get(STATE)


@torch.compiler.disable(recursive=False)  # type: ignore[no-untyped-call, untyped-decorator]
def encode(
    tower: TrimmableText, text: Tensor, normalize: bool = False, group_cost: int | None = None
) -> Tensor:
    """Features `[N, D]` of token ids `text [N, L]`, run in groups of similar length.

    From a tower that pools nothing, features `[N, width, D]` of all tokens; the narrower ones end in zeros.

    The grouping depends on the data, so `--torchcompile` compiles only the run of a single group.
    """
    if group_cost is None:
        group_cost = CPU_GROUP_COST if text.device.type == "cpu" else GROUP_COST
    groups = plan(tower.lengths(text).tolist(), text.shape[1], group_cost)
    order = torch.tensor([row for _, rows in groups for row in rows], device=text.device)
    parts = torch.split(text[order], [len(rows) for _, rows in groups])
    features = []
    # A plain loop: a comprehension would be compiled again for every number of groups.
    for (width, _), part in zip(groups, parts, strict=True):
        # Contiguous: otherwise the compiler specialises on where in `text` the rows lie.
        found = tower.run(part[:, :width].contiguous(), normalize)
        features.append(found if found.ndim == 2 else F.pad(found, (0, 0, 0, groups[-1][0] - width)))
    return torch.cat(features)[order.argsort()]


def plan(lengths: Sequence[int], context: int, group_cost: int) -> list[tuple[int, list[int]]]:
    """Assign each row of `lengths` to a width that holds it; return the widths with their rows.

    Each row is assigned to the smallest width that holds it. Then, starting with the narrowest, a group
    joins the next wider one if that adds no more than `group_cost` tokens.
    """
    widths = [width for width in WIDTHS if width < context] + [context]
    groups: dict[int, list[int]] = {}
    for row, length in enumerate(lengths):
        groups.setdefault(widths[bisect_left(widths, length)], []).append(row)
    planned = []
    rows: list[int] = []
    used = sorted(groups)
    for width, wider in pairwise([*used, 0]):
        rows = rows + groups[width]
        if not wider or len(rows) * (wider - width) > group_cost:
            planned.append((width, rows))
            rows = []
    return planned


class TrimmableText(nn.Module):
    """Upstream's `encode_text` of a CLIP model, callable at any width up to the context length."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.stock = type(model).encode_text
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


def _obstacle(model: Any) -> str | None:
    """Why features depend on the padding, or may do so; None if they certainly do not."""
    if type(model) not in (CLIP, CustomTextCLIP):
        return f"{type(model).__name__} is not known to allow less"
    text = model if type(model) is CLIP else model.text
    if type(text) not in (CLIP, TextTransformer):
        return f"its text tower {type(text).__name__} is not known to allow less"
    if "encode_text" in vars(model) or "forward" in vars(text):
        return "its encode_text is not upstream's"
    tower = TrimmableText(model)
    mask = getattr(text, "attn_mask", None)
    length = len(text.positional_embedding)
    if getattr(text, "cls_emb", None) is not None:
        return "it has a class token"
    if mask is None:
        return "it has no causal mask"
    if mask.shape != (length, length) or not mask.triu(1).eq(torch.full_like(mask, -torch.inf).triu(1)).all():
        return "its mask is not causal"
    if getattr(text, "use_pad_mask", False):
        return "it masks padding"
    if tower.pool_type not in ("argmax", "eos"):
        return f"it pools the token {tower.pool_type!r}"
    if getattr(text, "output_tokens", False):
        return "it returns the states of all tokens"
    return None


@torch.no_grad()
def _difference(tower: TrimmableText) -> str | None:
    """Compare with upstream's features, on random texts of every width."""
    model, text = tower.model, tower.text
    length = len(text.positional_embedding)
    draw = torch.Generator().manual_seed(0)
    highest = text.vocab_size - 1
    ids = torch.randint(1, highest, (2 * len(WIDTHS) + 2, length), generator=draw)
    end = highest if tower.pool_type == "argmax" else tower.eos_id
    for row, last in zip(ids, [1, *(w + d for w in WIDTHS for d in (-1, 0)), length - 1], strict=True):
        last = min(last, length - 1)
        row[last], row[last + 1 :] = end, 0
    ids = ids.to(text.positional_embedding.device)
    was = model.training
    model.eval()
    with without_tf32():  # its rounding alone changes the features of twelve layers by more than is allowed
        expected = tower(ids, True)
        features = encode(tower, ids, True, group_cost=0)
    model.train(was)
    off = (features - expected).double().norm(dim=-1).max().item()
    # 3e-4, 3e-2, 9e-2 in fp32, fp16, bf16. Rounding changed normalized features by up to 5e-6, 1e-3 and 1e-2
    # (measured). A missing token, a wrong position or attention to padding changes them by about 1.
    if not off <= torch.finfo(features.dtype).eps ** 0.5:
        return f"shorter texts change its features by {off:.1e}"
    return None
