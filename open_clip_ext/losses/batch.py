"""A batch as the terms of a loss see it: a tensor is upcast and gathered when it is first asked for.

Further tensors would enter as names in `Loss.forward` and methods of `Rows`. Kinds that belong together place
by place are a matter of the collate, and any teacher of `make_teacher`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor

from open_clip_ext.losses.functional import Samples
from open_clip_ext.losses.identities import Identities

X = TypeVar("X")


def fp32(x: X) -> X:
    """`x` in fp32 if it is a tensor of fp16 or bf16; fp64 and whatever is no float stays."""
    narrow = isinstance(x, Tensor) and x.is_floating_point() and x.dtype != torch.float64
    return x.float() if narrow else x  # type: ignore[attr-defined]


class Tensors:
    """Tensors by name, each found once.

    Attributes:
        identified: whether identities of samples count.
    """

    def __init__(self, find: Callable[[str], Tensor], identified: bool = False) -> None:
        self._find, self.identified = find, identified
        self._known: dict[str, Tensor] = {}

    def __call__(self, name: str) -> Tensor:
        """The tensor of this name. Raises ValueError if it was not given, and a term asks for it."""
        if name not in self._known:
            self._known[name] = self._find(name)
        return self._known[name]

    def known(self, name: str) -> bool:
        """Whether anyone asked for it."""
        return name in self._known


class Rows:
    """Features of some samples, [B, ...], unit length, fp32 or fp64.

    Attributes:
        first: number of the rank's own first sample among these, where rows are scored against them.
    """

    def __init__(self, tensors: Tensors, prefix: str, first: int = 0) -> None:
        self._tensors, self._prefix, self.first = tensors, prefix, first

    @property
    def image(self) -> Tensor:
        """Images `[B, D]`."""
        return self._tensors(f"{self._prefix}image_features")

    @property
    def text(self) -> Tensor:
        """Captions `[B, D]`."""
        return self._tensors(f"{self._prefix}text_features")

    def features(self, kind: str) -> Tensor:
        """Companion texts of a kind `[B, K, D]`."""
        return self._tensors(f"{self._prefix}{kind}_text_features")

    def exists(self, kind: str) -> Tensor:
        """Which companions of a kind there are `[B, K]`, bool."""
        return self._tensors(f"{kind}_valid")

    def images(self, kind: str) -> Tensor:
        """Companion images of a kind `[B, M, D]`."""
        return self._tensors(f"{self._prefix}{kind}_image_features")

    def images_exist(self, kind: str) -> Tensor:
        """Which companion images of a kind there are `[B, M]`, bool."""
        return self._tensors(f"{kind}_image_valid")

    def tensors(self, kind: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Images, captions, companions of a kind, and which of them exist."""
        return self.image, self.text, self.features(kind), self.exists(kind)

    def true_texts(self, kind: str) -> tuple[Tensor, Tensor]:
        """Captions, and companions of a true kind behind them `[B, 1+K, D]`; which of these exist."""
        exists = self.exists(kind)
        texts = torch.cat([self.text[:, None], self.features(kind)], dim=1)
        return texts, torch.cat([torch.ones_like(exists[:, :1]), exists], dim=1)

    def of(self, kind: str | None = None) -> Samples:
        """The same for the functions of `functional`: as their `columns`, a kind as their negatives."""
        same = self.identities(kind)
        if kind is None:
            return Samples(self.image, self.text, first=self.first, same=same)
        return Samples(*self.tensors(kind), first=self.first, same=same)

    def identities(self, kind: str | None = None) -> Identities | None:
        """Which samples are the same, with a kind's texts as their negatives; None unless `same=mask`."""
        if not self._tensors.identified:
            return None
        picture, text = self._tensors("image_id"), self._tensors("text_id")[:, None]
        return Identities(picture, text, None if kind is None else self._tensors(f"{kind}_text_id"))

    def of_images(self, kind: str) -> Samples:
        """The same with images and texts exchanged: companion images of a kind as negatives of captions."""
        return Samples(self.text, self.image, self.images(kind), self.images_exist(kind), self.first)


class Dense:
    """Dense tokens of this rank's samples, fp32 or fp64; they are never gathered."""

    def __init__(self, own: Tensors) -> None:
        self._own = own

    @property
    def patches(self) -> Tensor:
        """Patches of the images `[b, P, D]`, not normalized."""
        return self._own("image_tokens")

    def words(self, kind: str = "") -> tuple[Tensor, Tensor]:
        """Tokens of the captions `[b, L, D]`, not normalized, and which belong to the text `[b, L]`.

        Of a kind of companions, `[b, K, L, D]` and `[b, K, L]`. The start and end of a text belong to it.
        """
        text = f"{kind}_text" if kind else "text"
        return self._own(f"{text}_tokens"), self._own(f"{text}_token_mask")


class View:
    """The samples of a batch as one model sees them.

    Attributes:
        own: samples of this rank.
        columns: samples of all ranks, in their order.
        rows: those whose loss this rank gives: the own ones under `local_loss`, else all.
    """

    def __init__(self, own: Tensors, everywhere: Tensors, first: int | None, prefix: str = "") -> None:
        self.own = Rows(own, prefix)
        self.columns = Rows(everywhere, prefix, first or 0)
        self.rows = self.columns if first is None else self.own


class Batch(View):
    """What the terms of a loss are given: the student's view, the teacher's, the logit scale and bias.

    Every rank must ask for the same tensors in the same order, as terms do that depend on options alone.

    Args:
        tensors: the arguments of forward by name. Without a mask, all companions of its kind exist.
        logit_scale: one element, exponentiated.
        gather: brings a tensor of this rank together with those of all ranks.
        first: number of this rank's first sample among all, if it gives the loss of its own samples
            alone; None if it gives that of all.
        logit_bias: one element; None if the model has none.
        identified: whether samples that are the same are no negatives of each other.

    Attributes:
        scale: the logit scale.
        bias: the logit bias, if the model has one.
        dense: dense tokens of the rank's own samples, where a term is marked to need them.
        teacher: the same samples as the teacher sees them; gets no gradient.
        anchor: mixed pictures `[b, D]` and reference texts `[b, R, D]`, in place of images and captions.
        anchor_base: the same as the model sees them that the run started from; gets no gradient.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor | None],
        logit_scale: Tensor,
        gather: Callable[[Tensor], Tensor],
        first: int | None = None,
        logit_bias: Tensor | None = None,
        identified: bool = False,
    ) -> None:
        def find(name: str) -> Tensor:
            x = tensors.get(name)
            if x is None and name.endswith("_valid"):
                # Always a tensor, so that no rank waits for a mask which another does not send.
                kind = name.removesuffix("_valid")
                features = own(f"{kind}_features" if kind.endswith("_image") else f"{kind}_text_features")
                return torch.ones_like(features[..., 0], dtype=torch.bool)
            if x is None and name.endswith("_id"):
                raise ValueError(f"{name} is missing, and same=mask needs it")
            if x is None:
                raise ValueError(f"{name} is missing, and a term with a weight above 0 needs it")
            if name.endswith(("_valid", "_mask")):
                return x.bool()
            if name.endswith("_text_id"):
                # A missing companion reads as its caption, and so adds nothing to the texts of its pair.
                exists = own(f"{name.removesuffix('_text_id')}_valid")
                return torch.where(exists, x, own("text_id")[:, None])
            return fp32(x.detach() if name.startswith(("teacher_", "anchor_base_")) else x)

        own = Tensors(find, identified)
        everywhere = Tensors(lambda name: gather(own(name)), identified)
        super().__init__(own, everywhere, first)
        self._own, self._gather = own, gather if first is None else None
        self.scale, self.bias = fp32(logit_scale), fp32(logit_bias)
        self._given = {name for name, x in tensors.items() if x is not None}
        self.dense = Dense(own)
        self.teacher = View(own, everywhere, first, "teacher_")
        self.anchor = View(own, everywhere, first, "anchor_")
        self.anchor_base = View(own, everywhere, first, "anchor_base_")

    @property
    def looked_at_identities(self) -> bool:
        """Whether a term asked for those of samples."""
        return self._own.known("image_id")

    def of_rows(self, x: Tensor) -> Tensor:
        """What a term made of the rank's own samples, `[b, ...]`, as it is of all `rows`."""
        return x if self._gather is None else self._gather(x)

    def has(self, kind: str) -> bool:
        """Whether texts of a kind that may be absent (count 0) come with this run; on every rank alike."""
        return f"{kind}_text_features" in self._given

    def has_images(self, kind: str) -> bool:
        """The same of images."""
        return f"{kind}_image_features" in self._given
