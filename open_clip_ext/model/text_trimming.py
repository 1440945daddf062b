"""Run text towers at the real length of each text, in groups of similar length.

Which towers allow that, and how they are run, is in `text_towers`.

Shapes: N texts, L tokens (the context length), D embedding.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from open_clip_ext.errors import InputError
from open_clip_ext.model import text_towers
from open_clip_ext.model.checkpoints import first_line
from open_clip_ext.model.override import override, state_of
from open_clip_ext.model.text_towers import Tower
from open_clip_ext.precision import without_tf32

# Texts are run at these widths, and at the context length. Most captions have 10 to 20 tokens.
WIDTHS = (8, 12, 16, 20, 24, 32, 48, 64)
# The cost of one more group, in tokens. On a CPU the weights are read and their gradients added once more
# (measured). On an accelerator small kernels are launched (estimated, not measured).
CPU_GROUP_COST = 40
GROUP_COST = 4096

STATE = "_open_clip_ext_tower"


def trim(model: nn.Module, empty: Tensor | None = None, *, evaluation: bool = False) -> str | None:
    """Make `model` encode texts at their real length, if that gives the same features; in place.

    Only this instance encodes texts otherwise (see `override`).

    Args:
        model: an open_clip model.
        empty: token ids `[L]` that the tokenizer makes of an empty text: how long texts are, and what
            fills them. Without it, they are taken for what the tower expects.
        evaluation: trim in evaluation mode too. By default only training is trimmed.

    Returns:
        None if the model was changed; otherwise the reason why texts must stay at full context length.

    Raises:
        InputError: the tower fails on a text of L tokens.
    """
    tower = text_towers.tower(model)
    if isinstance(tower, str):
        return tower
    reason = tower.obstacle(empty) or _difference(tower, tower.context(empty))
    if reason is not None:
        return reason
    stock = tower.stock

    def encode_text(self: Any, text: Tensor, normalize: bool = False) -> Tensor:
        if not (self.training or evaluation):
            return stock(self, text, normalize)  # type: ignore[no-any-return]
        features: Tensor = encode(state_of(self, STATE), text, normalize)
        return features

    override(model, STATE, tower, **{text_towers.entry(model): encode_text})
    return None


def tower_of(model: nn.Module) -> Tower | None:
    """What runs the texts of a model that `trim` changed; None if it did not."""
    return vars(model).get(STATE)


@torch.compiler.disable(recursive=False)  # type: ignore[no-untyped-call, untyped-decorator]
def encode(tower: Tower, text: Tensor, normalize: bool = False, group_cost: int | None = None) -> Tensor:
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


def _advice(tower: Tower) -> str:
    """What may help a tower that fails."""
    if len({parameter.dtype for parameter in tower.text.parameters()}) > 1:
        # Upstream makes some of its weights small, as OpenAI did, and knows how to run its own towers alone.
        return "give --precision amp_bf16 or fp32, for it cannot be run in fp16 or bf16"
    return "change context_length or hf_pooler_type in its configuration"


@torch.no_grad()
def _difference(tower: Tower, context: int) -> str | None:
    """Compare with upstream's features, on random texts of every width up to `context` tokens."""
    model = tower.model
    lengths = torch.tensor([2, *(width + more for width in WIDTHS for more in (0, 1)), context])
    ids = tower.examples(lengths, context, torch.Generator().manual_seed(0))
    ids = ids.to(next(tower.text.parameters()).device)
    was = model.training
    model.eval()
    try:
        with (
            without_tf32()
        ):  # its rounding alone changes the features of twelve layers by more than is allowed
            expected = tower(ids, True)
            features = encode(tower, ids, True, group_cost=0)
            off = (features - expected).double().norm(dim=-1).max().item()
    except (IndexError, RuntimeError, TypeError) as error:
        raise InputError(
            f"the text tower of --model fails on texts of {ids.shape[1]} tokens ({first_line(error)}); "
            f"{_advice(tower)}"
        ) from error
    finally:
        model.train(was)
    # 3e-4, 3e-2, 9e-2 in fp32, fp16, bf16. Rounding changed normalized features by up to 5e-6, 1e-3 and 1e-2
    # (measured). A missing token, a wrong position or attention to padding changes them by about 1.
    if not off <= torch.finfo(features.dtype).eps ** 0.5:
        return f"shorter texts change its features by {off:.1e}"
    return None
