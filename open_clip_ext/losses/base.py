"""What the losses share: distributed arguments, the gather, fp32 arithmetic, checks of input."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ClassVar, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from open_clip_ext.losses.functional import Batch
from open_clip_ext.losses.gather import average, gather
from open_clip_ext.precision import without_tf32

P = ParamSpec("P")
R = TypeVar("R")


class Loss(nn.Module):
    """Base of the built-in losses. A loss from elsewhere may use it, or only look like it.

    The host relies on this much:

    * `companions`: kinds of companion texts wanted for each caption, with the default count of
      each, and `paper`: one line of citation;
    * `__init__` names every option as an annotated keyword with a default, next to the distributed
      arguments of `open_clip.ClipLoss`, and raises ValueError on a bad value; nothing in it requires
      a gradient, as upstream's optimizer would not know of it;
    * `forward(..., output_dict=True)` returns weighted terms named `*_loss` that sum to the total.

    and calls these where a loss has them:

    * `configure(companions)` once, with the counts this run really uses;
    * `make_teacher(model)` once;
    * `commit()` after every optimizer step that took place, for state moved by training: forward
      runs several times per step under accumulation, and a step may be skipped;
    * `idle_options()`, the options that have no effect beside the others, each with the reason.

    Args:
        local_loss: each rank scores its own rows only.
        gather_with_grad: gradients cross ranks.
        cache_labels: accepted for the host's sake; labels here are one `arange`, not worth a cache.
        rank: this process.
        world_size: number of processes; 1 means no communication.
    """

    companions: ClassVar[Mapping[str, int]] = {}
    paper: ClassVar[str] = ""

    def __init__(
        self,
        *,
        local_loss: bool = False,
        gather_with_grad: bool = False,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__()
        self.local_loss = local_loss
        self.gather_with_grad = gather_with_grad
        self.cache_labels = cache_labels
        self.rank = rank
        self.world_size = world_size

    def gather(self, x: Tensor) -> Tensor:
        """`x` of all ranks, with gradients as the flags of this loss say."""
        return gather(
            x,
            rank=self.rank,
            world_size=self.world_size,
            local_loss=self.local_loss,
            gather_with_grad=self.gather_with_grad,
        )

    def average(self, x: Tensor) -> Tensor:
        """The mean over ranks of a mean of own rows, with gradients as the flags of this loss say.

        For terms in which a row meets no other row and no logit scale, so that nothing is gathered.
        """
        return average(
            x,
            world_size=self.world_size,
            local_loss=self.local_loss,
            gather_with_grad=self.gather_with_grad,
        )

    def share(
        self, image: Tensor, text: Tensor, neg: Tensor | None = None, valid: Tensor | None = None
    ) -> tuple[Batch, Batch]:
        """Give the rows this rank scores and the columns they are scored against.

        Args:
            image: `[b, D]`.
            text: `[b, D]`.
            neg: `[b, K, D]`, if the loss has negatives.
            valid: `[b, K]` bool; None means that all exist.

        Returns:
            Rows and columns; the same object unless `local_loss` splits them.
        """
        split = self.local_loss and self.world_size > 1
        rows = Batch(image, text)
        columns = Batch(self.gather(image), self.gather(text), first=self.rank * len(image) if split else 0)
        if neg is not None:
            # Always a tensor, so that no rank waits for a mask which another does not send.
            exists = torch.ones_like(neg[..., 0]) if valid is None else valid
            rows = rows._replace(neg=neg, valid=exists.bool())
            columns = columns._replace(neg=self.gather(neg), valid=self.gather(exists.bool()))
        return (rows if split else columns), columns

    @staticmethod
    def finish(terms: dict[str, Tensor], output_dict: bool) -> Tensor | dict[str, Tensor]:
        """Return the terms, or their sum."""
        return terms if output_dict else torch.stack(list(terms.values())).sum()


def in_fp32(forward: Callable[P, R]) -> Callable[P, R]:
    """Run `forward` without autocast and TF32, on fp32 copies of its fp16 and bf16 arguments; fp64 stays.

    At a logit scale of 100 the spacing of fp16 logits is about that of the differences that
    hard negatives are made of. TF32 has as many bits as fp16.
    """

    def up(x: Any) -> Any:
        floating = isinstance(x, Tensor) and x.is_floating_point()
        return x.float() if floating and x.dtype != torch.float64 else x

    @wraps(forward)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        devices = (x.device.type for x in (*args, *kwargs.values()) if isinstance(x, Tensor))
        with torch.autocast(next(devices, "cpu"), enabled=False), without_tf32():
            return forward(*map(up, args), **{k: up(x) for k, x in kwargs.items()})

    return wrapped


def check_shapes(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor | float,
    neg_text_features: Tensor | None = None,
    neg_valid: Tensor | None = None,
    num_neg: int | None = None,
    **teacher: Tensor | None,
) -> None:
    """Raise ValueError that names the first tensor whose shape does not fit.

    Args:
        image_features: `[B, D]`, sets B and D.
        text_features: `[B, D]`.
        logit_scale: one element.
        neg_text_features: `[B, K, D]`, sets K.
        neg_valid: `[B, K]`.
        num_neg: K, where the loss knows it already.
        teacher: named as the arguments of forward; each has its student's shape.
    """

    def expect(name: str, x: Tensor, *shape: int | str) -> None:
        fits = len(shape) == x.ndim and all(
            has == want if isinstance(want, int) else has > 0
            for has, want in zip(x.shape, shape, strict=True)
        )
        if not fits:
            free = "".join(f", {letter} >= 1" for letter in shape if isinstance(letter, str))
            wanted = ", ".join(map(str, shape))
            raise ValueError(f"{name} has shape {tuple(x.shape)}, expected ({wanted}){free}")

    expect("image_features", image_features, "B", "D")
    b, d = image_features.shape
    expect("text_features", text_features, b, d)
    if isinstance(logit_scale, Tensor) and logit_scale.numel() != 1:
        expect("logit_scale", logit_scale)
    k: int | str = num_neg or "K"
    if neg_text_features is not None:
        expect("neg_text_features", neg_text_features, b, k, d)
        k = neg_text_features.shape[1]
    if neg_valid is not None:
        expect("neg_valid", neg_valid, b, k)
    for name, x in teacher.items():
        if x is not None:
            expect(name, x, *((b, k, d) if x is not None and "neg" in name else (b, d)))


def check_at_least_zero(**options: float) -> None:
    """Raise ValueError unless every option is a finite number that is not negative."""
    for name, value in options.items():
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} is {value!r}, expected a number >= 0")


def check_choice(name: str, value: object, *choices: str) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(choices)}")
