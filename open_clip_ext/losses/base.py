"""What the losses share: terms, distributed arguments, the gather, fp32 arithmetic, checks of input."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any, ClassVar, Literal, ParamSpec, TypeVar, overload

import torch
from torch import Tensor, nn

from open_clip_ext.losses import functional
from open_clip_ext.losses.batch import Batch, fp32
from open_clip_ext.losses.gather import average, gather
from open_clip_ext.losses.options import Declared, option
from open_clip_ext.precision import without_tf32

__all__ = [
    "Batch",
    "ContrastiveLoss",
    "HardNegativeLoss",
    "Loss",
    "Teacher",
    "check_shapes",
    "clip",
    "hard_negative_clip",
    "in_fp32",
    "option",
    "term",
]

P = ParamSpec("P")
R = TypeVar("R")
Term = TypeVar("Term", bound=Callable[[Any, Batch], Tensor])


@overload
def term(weight: Term) -> Term: ...
@overload
def term(weight: str = "", *, dense: bool = False, shared: bool = False) -> Callable[[Term], Term]: ...
def term(weight: Any = "", *, dense: bool = False, shared: bool = False) -> Any:
    """Mark a method as a term of its loss: it takes a `Batch`, gives a scalar, and is named `*_loss`.

    Args:
        weight: the option that weights it. Where that is 0, the method is not called, and the term is 0.
            `@term` alone marks a term without a weight.
        dense: it looks at the dense tokens of both towers, `Batch.dense`.
        shared: every loss has it, and is given without it where its weight is 0.
    """

    def mark(method: Any) -> Any:
        method.term_weight = "" if callable(weight) else weight
        method.term_is_dense = dense
        method.term_is_shared = shared
        return method

    return mark(weight) if callable(weight) else mark


@dataclass(frozen=True)
class Teacher:
    """A moving average of the student, made where the option `decay` is not idle.

    The option `decay` says with `needs` which weights must not be 0 for that.

    Args:
        decay: name of the option for the share of the teacher that stays at a step.
        checkpoint: name of the option for the file of weights that it starts from. Without one, or where
            that option is empty, it starts from the student's.
    """

    decay: str
    checkpoint: str = ""


class Loss(Declared):
    """Base of the built-in losses. A loss from elsewhere may use it, or only look like it.

    A subclass declares options (`option`) and terms (`term`); everything else follows.

    The host relies on this much:

    * `companions` and `companion_images`: kinds of companion texts and images wanted for each caption, with
      the default count of each, 0 for what is there where it is asked for; images of a kind of texts are
      theirs, place by place; `aligned`: groups of kinds that are drawn together, so that position k of one
      belongs to position k of the others; `pairs`, whether its companions are made of two samples of a batch
      (see CLIC); and `paper`: one line of citation;
    * `__init__` names every option as an annotated keyword with a default, next to the distributed
      arguments of `open_clip.ClipLoss`, and raises ValueError on a bad value; nothing in it requires
      a gradient, as upstream's optimizer would not know of it;
    * `forward(..., output_dict=True)` returns weighted terms named `*_loss` that sum to the total.

    and calls these where a loss has them:

    * `check_files()` once, before anything is loaded or written;
    * `configure(companions)` once, with the counts this run really uses;
    * `make_teacher(model)` and `make_anchor(model, tokenizer)` once;
    * `wants_dense()` once: whether forward is to get the dense tokens of both towers;
    * `commit()` after every optimizer step that took place, for state moved by training: forward
      runs several times per step under accumulation, and a step may be skipped;
    * `idle_options()`, the options that have no effect beside the others, each with the reason.

    It looks at two attributes: `identified`, whether forward wants the identities of samples; and `anchored`,
    whether the model is held to the one that the run started from.

    Args:
        same: whether samples of one picture or with one caption are negatives of each other, `keep`, or are
            left out of contrasts, `mask`.
        image_anchor: weight of `image_anchor_loss`.
        text_anchor: weight of `text_anchor_loss`.
        similarity_anchor: weight of `similarity_anchor_loss`.
        anchor_grid: blocks along a side of the anchors' mixed pictures.
        anchor_texts: a file with the anchors' reference texts, one per line; empty for words of the
            tokenizer's vocabulary.
        local_loss: each rank scores its own rows only.
        gather_with_grad: gradients cross ranks.
        cache_labels: accepted for the host's sake; labels here are one `arange`, not worth a cache.
        rank: this process.
        world_size: number of processes; 1 means no communication.
    """

    companions: ClassVar[Mapping[str, int]] = {}
    companion_images: ClassVar[Mapping[str, int]] = {}
    aligned: ClassVar[tuple[tuple[str, ...], ...]] = ()
    pairs: ClassVar[bool] = False
    paper: ClassVar[str] = ""
    teacher: ClassVar[Teacher | None] = None
    # Whether a term reads `Batch.bias`; where not, a model with a logit bias is refused.
    takes_bias: ClassVar[bool] = False
    # The weight of each term, those of the bases first; and of those that every loss has.
    weights: ClassVar[Mapping[str, str]] = {}
    shared_weights: ClassVar[Mapping[str, str]] = {}
    # Those of them that look at dense tokens.
    dense_terms: ClassVar[frozenset[str]] = frozenset()

    # Whether samples with the same picture or caption are negatives of each other, or left out.
    same: Literal["keep", "mask"] = option(default="keep")
    # What holds the model to the one that the run started from, away from the training data.
    image_anchor: float = option(default=0.0, least=0)
    text_anchor: float = option(default=0.0, least=0)
    similarity_anchor: float = option(default=0.0, least=0)
    anchor_grid: int = option(default=2, least=1, needs=("image_anchor", "similarity_anchor"))
    anchor_texts: str = option(default="", needs=("text_anchor", "similarity_anchor"))
    local_loss: bool = option(default=False)
    gather_with_grad: bool = option(default=False)
    cache_labels: bool = option(default=False)
    rank: int = option(default=0)
    world_size: int = option(default=1)

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        attributes = [item for base in reversed(cls.__mro__) for item in vars(base).items()]
        terms = {name: m for name, m in attributes if hasattr(m, "term_weight")}
        cls.weights = {name: m.term_weight for name, m in terms.items() if not m.term_is_shared}
        cls.shared_weights = {name: m.term_weight for name, m in terms.items() if m.term_is_shared}
        dense = {name: m.term_is_dense for name, m in attributes if hasattr(m, "term_is_dense")}
        cls.dense_terms = frozenset(name for name in dense if dense[name])
        for name, weight in cls.weights.items():
            if not name.endswith("_loss"):
                raise TypeError(f"{cls.__name__}.{name} is a term: its name must end in _loss")
            if weight and weight not in cls.__dataclass_fields__:
                raise TypeError(f"{cls.__name__}.{name} is weighted by {weight}, which is no option")
            if weight and not isinstance(cls.__dataclass_fields__[weight].default, int | float):
                raise TypeError(f"{cls.__name__}.{name} is weighted by {weight}, which is no number")
        for name, method in vars(cls).items():
            if name.endswith("_loss") and callable(method) and name not in terms:
                raise TypeError(f"{cls.__name__}.{name} is named as a term: mark it with @term, or rename it")
        if cls.teacher is not None:
            for name in filter(None, (cls.teacher.decay, cls.teacher.checkpoint)):
                if name not in cls.__dataclass_fields__:
                    raise TypeError(f"{cls.__name__}.teacher names {name}, which is no option")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._staged: dict[str, Tensor] = {}

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor,
        *tensors: Tensor | None,
        output_dict: bool = False,
        logit_bias: Tensor | None = None,
        **named: Tensor | None,
    ) -> Tensor | dict[str, Tensor]:
        """Score a batch in fp32 without TF32 and autocast, or in fp64 if it comes in fp64.

        Args:
            image_features: `[b, D]`, any float dtype.
            text_features: `[b, D]`.
            logit_scale: one element.
            *tensors: by place, what may also come by name.
            output_dict: return the weighted terms by name.
            logit_bias: one element, of a model that has one (SigLIP).
            **named: `{kind}_text_features [b, K, D]` and `{kind}_valid [b, K]` of each kind in turn, where
                no mask means that all exist; `{kind}_image_features [b, M, D]` and `{kind}_image_valid [b,
                M]` of each kind of images; then `teacher_image_features [b, D]`, `teacher_text_features [b,
                D]`, `teacher_{kind}_text_features [b, K, D]` and `teacher_{kind}_image_features [b, M, D]`,
                which get no gradient; for the anchors `anchor_image_features [b, D]` and
                `anchor_text_features [b, R, D]`, and of the model that the run started from
                `anchor_base_image_features` and `anchor_base_text_features`; identities, int64, `image_id
                [b]`, `text_id [b]` and `{kind}_text_id [b, K]`, which `same=mask` needs; where a term is
                marked as dense, `image_tokens [b, P, D]`,
                `text_tokens [b, L, D]`, `{kind}_text_tokens [b, K, L, D]` and bool masks of words,
                `text_token_mask [b, L]` and `{kind}_text_token_mask`.

        Raises:
            TypeError: an argument is none of these, or a logit bias that no term reads.
            ValueError: a shape does not fit, or a tensor is missing that a term needs.
        """
        names = [f"{kind}_{part}" for kind in self.companions for part in ("text_features", "valid")]
        images = [f"{kind}_image" for kind in self.companion_images]
        names += [f"{kind}_{part}" for kind in images for part in ("features", "valid")]
        names += ["teacher_image_features", "teacher_text_features"]
        names += [f"teacher_{kind}_text_features" for kind in self.companions]
        names += [f"teacher_{kind}_features" for kind in images]
        anchors = (("image", self.anchors_images), ("text", self.anchors_texts))
        names += [f"anchor_{base}{name}_features" for name, on in anchors if on for base in ("", "base_")]
        names += ["image_id", "text_id", *(f"{kind}_text_id" for kind in self.companions)]
        if self.dense_terms:
            texts = ["text", *(f"{kind}_text" for kind in self.companions)]
            names += [
                "image_tokens",
                *(f"{text}_{part}" for text in texts for part in ("tokens", "token_mask")),
            ]
        given = {**dict(zip(names, tensors, strict=False)), **named}
        wrong = sorted(set(given) - set(names))
        if wrong or len(given) < len(tensors) + len(named):
            what = ", ".join(wrong) or f"{len(tensors)} by place, {len(named)} by name"
            raise TypeError(f"{type(self).__name__} takes {', '.join(names)}, got {what}")
        if logit_bias is not None and not self.takes_bias:
            raise TypeError(
                f"{type(self).__name__} takes no logit_bias: its softmax would not change by one; give it a "
                "model without (CLIP), or choose a loss that takes one"
            )
        if self.identified and any(given.get(f"{kind}_features") is not None for kind in images):
            raise ValueError(
                "same=mask cannot tell which pictures companion images show; leave out the one or the other"
            )
        scalars = {"logit_scale": logit_scale, "logit_bias": logit_bias}
        counts = self.known_counts()
        check_shapes(image_features, text_features, scalars, given, self.companions, counts, images)
        given |= {"image_features": image_features, "text_features": text_features}
        split = self.local_loss and self.world_size > 1
        first = self.rank * len(image_features) if split else None
        with torch.autocast(image_features.device.type, enabled=False), without_tf32():
            terms = self.terms(Batch(given, logit_scale, self.gather, first, logit_bias, self.identified))
            return terms if output_dict else torch.stack(list(terms.values())).sum()

    def terms(self, x: Batch) -> dict[str, Tensor]:
        """The weighted terms by name; 0 where the weight is 0, and without those of every loss where it is.

        Under a compiler this is the graph: `forward`, which switches TF32 off while it runs, cannot be in it.

        Raises TypeError if there is none, or one is no scalar tensor; ValueError if `same=mask` changes none.
        """
        if not self.weights:
            raise TypeError(f"{type(self).__name__} has no term: mark a method with @term")
        found = {}
        used = {name: weight for name, weight in self.shared_weights.items() if getattr(self, weight)}
        for name, weight in {**self.weights, **used}.items():
            factor = getattr(self, weight) if weight else 1.0
            value = getattr(self, name)(x) if factor else x.own.image.new_zeros(())
            if not isinstance(value, Tensor) or value.numel() != 1:
                what = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
                raise TypeError(f"{type(self).__name__}.{name} returned {what}, expected a scalar tensor")
            found[name] = factor * value
        if self.identified and not x.looked_at_identities:
            raise ValueError(f"same=mask has no effect on any term of {type(self).__name__}")
        return found

    @term("image_anchor", shared=True)
    def image_anchor_loss(self, x: Batch) -> Tensor:
        """How far the features of mixed pictures moved; see `functional.moved`."""
        return self.average(functional.moved(x.anchor.own.image, x.anchor_base.own.image))

    @term("text_anchor", shared=True)
    def text_anchor_loss(self, x: Batch) -> Tensor:
        """How far the features of reference texts moved; see `functional.moved`."""
        return self.average(functional.moved(x.anchor.own.text, x.anchor_base.own.text))

    @term("similarity_anchor", shared=True)
    def similarity_anchor_loss(self, x: Batch) -> Tensor:
        """How far similarities of mixed pictures and reference texts moved; `functional.moved_similarity`."""
        pairs = ((y.rows.image, y.columns.text) for y in (x.anchor, x.anchor_base))
        return functional.moved_similarity(*pairs)

    @property
    def identified(self) -> bool:
        """Whether forward wants the identities of samples."""
        return self.same == "mask"

    @property
    def anchored(self) -> bool:
        """Whether an anchor has a weight."""
        return self.anchors_images or self.anchors_texts

    @property
    def anchors_images(self) -> bool:
        """Whether mixed pictures count."""
        return bool(self.image_anchor or self.similarity_anchor)

    @property
    def anchors_texts(self) -> bool:
        """Whether reference texts count."""
        return bool(self.text_anchor or self.similarity_anchor)

    def wants_dense(self) -> bool:
        """Whether a term whose weight is not 0 looks at dense tokens."""
        weights = (self.weights[name] for name in self.dense_terms)
        return any(not weight or getattr(self, weight) for weight in weights)

    def check_files(self) -> None:
        """Look at the files that options name.

        Raises InputError if one cannot be read, or is not what it must be.
        """
        if self.teacher is not None and self.teacher.checkpoint:
            from open_clip_ext import teacher

            if checkpoint := getattr(self, self.teacher.checkpoint):
                teacher.examine(checkpoint)
        if self.anchor_texts:
            from open_clip_ext.anchoring import texts

            texts.from_file(self.anchor_texts)

    def make_teacher(self, model: nn.Module) -> nn.Module | None:
        """The teacher that the class declares; None if it declares none, or nothing looks at it."""
        if self.teacher is None or self.teacher.decay in self.idle_options():
            return None
        from open_clip_ext.teacher import EMATeacher

        named = self.teacher.checkpoint
        checkpoint = getattr(self, named) if named else None
        return EMATeacher(model, decay=getattr(self, self.teacher.decay), checkpoint=checkpoint or None)

    def make_anchor(self, model: nn.Module, tokenizer: Any) -> nn.Module | None:
        """What the anchors hold the model to; None if neither has a weight.

        Args:
            model: that the run starts from.
            tokenizer: a list of strings to token ids `[N, L]` int64.

        Raises InputError if there are no reference texts.
        """
        if not self.anchored:
            return None
        from open_clip_ext.anchoring import anchor

        return anchor.make(
            model,
            grid=self.anchor_grid if self.anchors_images else 0,
            each=1 if self.anchors_texts else 0,
            file=self.anchor_texts,
            tokenizer=tokenizer,
        )

    def known_counts(self) -> Mapping[str, int]:
        """How many companions of a kind must come, where the state of this loss says so."""
        return {}

    def stage(self, **buffers: Tensor) -> None:
        """Note in forward, in training mode, what `commit` moves into the buffers of these names.

        Without gradients, which would lead from one step into the one before. Raises TypeError if a
        buffer is not there or has another shape.
        """
        known = dict(self.named_buffers(recurse=False))
        for name, value in buffers.items():
            if name not in known or known[name].shape != value.shape:
                have = f"{tuple(known[name].shape)}" if name in known else "no such buffer"
                raise TypeError(f"{type(self).__name__}.stage({name}={tuple(value.shape)}): there is {have}")
        if self.training:
            self._staged = {**self._staged, **{name: x.detach() for name, x in buffers.items()}}

    def commit(self) -> None:
        """Move what was staged last into its buffers, if there is anything."""
        for name, value in self._staged.items():
            getattr(self, name).copy_(value)
        self._staged = {}

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

    def _load_from_state_dict(self, state: Mapping[str, Any], prefix: str, *args: Any) -> None:
        self._staged = {}  # of the life before
        for name, buffer in self.named_buffers(recurse=False):
            saved = state.get(prefix + name)
            # A buffer without numbers waits for K, which may be unknown here or where the state was saved.
            if saved is not None and not (saved.numel() and buffer.numel()):
                setattr(self, name, buffer.new_zeros(saved.shape))
        super()._load_from_state_dict(state, prefix, *args)


def clip(x: Batch) -> Tensor:
    """`functional.clip` of a batch."""
    return functional.clip(x.rows.image, x.rows.text, x.scale, columns=x.columns.of(), bias=x.bias)


def hard_negative_clip(x: Batch) -> Tensor:
    """`functional.hard_negative_clip` of a batch."""
    v, t, n, valid = x.rows.tensors("neg")
    columns = x.columns.of("neg")
    return functional.hard_negative_clip(v, t, n, x.scale, valid, columns=columns, bias=x.bias)


class ContrastiveLoss(Loss):
    """Base of the losses that begin with CLIP's, or with SigLIP's on a model with a logit bias."""

    takes_bias = True

    @term()
    def contrastive_loss(self, x: Batch) -> Tensor:
        """See `functional.clip`."""
        return clip(x)


class HardNegativeLoss(Loss):
    """Base of the losses that begin with NegCLIP's: negatives are further columns for every image."""

    takes_bias = True
    companions: ClassVar[Mapping[str, int]] = {"neg": 4}

    @term()
    def contrastive_loss(self, x: Batch) -> Tensor:
        """See `functional.hard_negative_clip`."""
        return hard_negative_clip(x)


def in_fp32(forward: Callable[P, R]) -> Callable[P, R]:
    """The arithmetic of `Loss`, for a loss that is none: fp32 without autocast and TF32; fp64 stays.

    At a logit scale of 100 the spacing of fp16 logits is about that of the differences that
    hard negatives are made of. TF32 has as many bits as fp16.
    """

    @wraps(forward)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        devices = (x.device.type for x in (*args, *kwargs.values()) if isinstance(x, Tensor))
        with torch.autocast(next(devices, "cpu"), enabled=False), without_tf32():
            return forward(*map(fp32, args), **{k: fp32(x) for k, x in kwargs.items()})  # type: ignore[arg-type]

    return wrapped


def check_shapes(
    image_features: Tensor,
    text_features: Tensor,
    scalars: Mapping[str, Tensor | float | None],
    tensors: Mapping[str, Tensor | None],
    kinds: Iterable[str],
    counts: Mapping[str, int],
    images: Iterable[str] = (),
) -> None:
    """Raise ValueError that names the first tensor whose shape does not fit.

    Args:
        image_features: `[B, D]`, sets B and D.
        text_features: `[B, D]`.
        scalars: of one element each, by their names in forward.
        tensors: companions, their masks, the teacher's features, identities and dense tokens, by their names
            in forward.
        kinds: of companion texts.
        counts: K of the kinds for which it is known; of the others, their features set it.
        images: kinds of companion images, `{kind}_image`.
    """

    def expect(name: str, x: Tensor | None, *shape: int | str) -> None:
        if x is None:
            return
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
    for name, scalar in scalars.items():
        if isinstance(scalar, Tensor) and scalar.numel() != 1:
            expect(name, scalar)
    for name in ("teacher_image_features", "teacher_text_features"):
        expect(name, tensors.get(name), b, d)
    reference = tensors.get("anchor_text_features")
    expect("anchor_text_features", reference, b, "R", d)
    r = "R" if reference is None else reference.shape[1]
    expect("anchor_base_text_features", tensors.get("anchor_base_text_features"), b, r, d)
    for name in ("anchor_image_features", "anchor_base_image_features"):
        expect(name, tensors.get(name), b, d)
    expect("image_tokens", tensors.get("image_tokens"), b, "P", d)
    words = tensors.get("text_tokens")
    expect("text_tokens", words, b, "L", d)
    length: int | str = "L" if words is None else words.shape[1]
    expect("text_token_mask", tensors.get("text_token_mask"), b, length)
    expect("image_id", tensors.get("image_id"), b)
    expect("text_id", tensors.get("text_id"), b)
    for kind in kinds:
        features = tensors.get(f"{kind}_text_features")
        k: int | str = counts.get(kind, "K")
        expect(f"{kind}_text_features", features, b, k, d)
        k = k if features is None else features.shape[1]
        expect(f"{kind}_valid", tensors.get(f"{kind}_valid"), b, k)
        expect(f"{kind}_text_id", tensors.get(f"{kind}_text_id"), b, k)
        expect(f"teacher_{kind}_text_features", tensors.get(f"teacher_{kind}_text_features"), b, k, d)
        expect(f"{kind}_text_tokens", tensors.get(f"{kind}_text_tokens"), b, k, length, d)
        expect(f"{kind}_text_token_mask", tensors.get(f"{kind}_text_token_mask"), b, k, length)
    for kind in images:
        features = tensors.get(f"{kind}_features")
        expect(f"{kind}_features", features, b, "M", d)
        m = "M" if features is None else features.shape[1]
        expect(f"{kind}_valid", tensors.get(f"{kind}_valid"), b, m)
        expect(f"teacher_{kind}_features", tensors.get(f"teacher_{kind}_features"), b, m, d)
