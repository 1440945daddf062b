"""The student's forward pass with companion texts and images, and its teacher's beside it.

The one instance gets a `forward` that also takes `[B, 1+C, L]` texts and `[B, 1+M, 3, H, W]` images (see
`override`).

Shapes: B samples, C companion texts and M companion images per caption, L tokens, D embedding.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from open_clip_ext.data import present
from open_clip_ext.errors import InputError
from open_clip_ext.identity import text_identities
from open_clip_ext.model.dense import DenseTokens
from open_clip_ext.model.override import override, state_of

STATE = "_open_clip_ext"


class Beside(NamedTuple):
    """What a batch gets beside the student's own pass.

    Attributes:
        taught: the teacher's `image_features [N, D]` and `text_features [N', D]`; empty without a teacher.
        drawn: what `Anchor.draw` drew; None without an anchor.
    """

    taught: dict[str, Tensor]
    drawn: Any


class Extension:
    """What an extended model carries: its companion kinds; its teacher and anchor, which are no part of it.

    Attributes:
        identified: whether texts bring the identities of pictures along.
        kept: what was computed in passes without gradients, each with the images of its batch.
    """

    def __init__(
        self,
        companions: Mapping[str, int],
        teacher: nn.Module | None,
        dense: DenseTokens | None,
        images: Mapping[str, int],
        identified: bool,
        anchor: Any,
    ) -> None:
        self.companions, self.images = dict(companions), dict(images)
        self.identified = identified
        self.teacher, self.anchor = teacher, anchor
        self.dense = dense
        self.kept: deque[tuple[Tensor, Beside]] = deque()

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def beside(self, image: Tensor, own: Tensor, text: Tensor, batch: Tensor) -> Beside:
        """What is computed once per micro-batch, which is known by the images of its `batch`.

        Under `--accum-freq` upstream passes each micro-batch twice, first without gradients: what
        is computed then is kept for the second pass, in order. The teacher does not move in
        between, and the student meets what was drawn for it in both.

        Args:
            image: all images that exist, `[N, 3, H, W]`.
            own: those of the captions, `[B, 3, H, W]`.
            text: token ids of all texts that exist, `[N', L]`.
            batch: the images as upstream gave them.
        """
        learning = torch.is_grad_enabled()
        if learning and self.kept and self.kept[0][0] is batch:
            return self.kept.popleft()[1]
        found = Beside(
            self.teacher(image, text) if self.teacher is not None else {},
            self.anchor.draw(own) if self.anchor is not None else None,
        )
        if learning:
            self.kept.clear()
        else:
            self.kept.append((batch, found))
        return found


def extend_forward(
    model: nn.Module,
    companions: Mapping[str, int],
    teacher: nn.Module | None = None,
    dense: DenseTokens | None = None,
    images: Mapping[str, int] | None = None,
    *,
    identified: bool = False,
    anchor: Any = None,
) -> None:
    """Make `model`, an open_clip CLIP, take companions in the order of `companions` and `images`; in place.

    Texts `[B, 1+C, L]` and images `[B, 1+M, 3, H, W]` then give, beside upstream's outputs for the captions
    and their images,

        {kind}_text_features  [B, n, D]   unit length; zeros where there is no such text
        {kind}_valid          [B, n]      bool: which exist
        {kind}_image_features [B, n, D]   unit length; zeros where there is no such image, which is all NaN
        {kind}_image_valid    [B, n]      bool: which exist

    and with a teacher, in training mode, `teacher_image_features`, `teacher_text_features`,
    `teacher_{kind}_text_features` and `teacher_{kind}_image_features`, fp32 arithmetic under the caller's
    autocast; with an `anchor` (see `anchoring`), in training mode,

        anchor_image_features      [B, D]      of mixed pictures; `anchor_base_image_features` of its model
        anchor_text_features       [B, R, D]   of reference texts; `anchor_base_text_features`

    with `dense`, in training mode,

        image_tokens             [B, P, D]      patches of the captions' images, not normalized
        text_tokens              [B, L', D]     words of the captions, and `text_token_mask [B, L']`
        {kind}_text_tokens       [B, n, L', D]  words of the companions, and `{kind}_text_token_mask`

    If `identified`, a row behind the texts, `[B, 1+C+1, L]`, begins with the identity of the picture (see
    `data.with_pictures`), and there are, int64,

        image_id             [B]         equal for the same picture
        text_id              [B]         equal for captions with the same token ids
        {kind}_text_id       [B, n]      the same of companions

    Texts `[B, L]` in evaluation, and `encode_*`, go the stock way. Every tensor has B as its first axis,
    because upstream concatenates them under accumulation; InputError names one of the model's that has not.
    """
    base = type(model)

    def forward(self: Any, image: Any = None, text: Tensor | None = None, **decoding: Any) -> Any:
        if decoding:  # what CoCa's `generate` gives
            return base.forward(self, image, text, **decoding)
        extension = extension_of(self)
        teaching = extension.teacher is not None and self.training
        anchored = extension.anchor is not None and self.training
        dense = extension.dense if self.training else None
        pictures = image is not None and image.ndim == 5
        plain = text is not None and text.ndim == 2 and not pictures and dense is None
        if text is None or (plain and not teaching and not anchored):
            return base.forward(self, image, text)

        batch, texts = image, text if text.ndim == 3 else text[:, None]
        own = image[:, 0] if pictures else image
        identities = {}
        if extension.identified and text.ndim == 3:
            texts, ids = texts[:, :-1], texts[:, -1, 0]
            identities = _identities(texts, ids, extension.companions)
        exists = present(texts)  # [B, 1+C]
        exists[:, 0] = True  # so that the tower runs on every rank, whatever the captions are
        rows = texts[exists]
        if pictures:
            seen = ~image[:, :, 0, 0, 0].isnan()  # [B, 1+M]
            seen[:, 0] = True
            image = image[seen]

        output: dict[str, Tensor]
        if hasattr(self, "text_decoder"):
            output = _decoded(self, base, image, rows, seen if pictures else None, exists)
        elif dense is None or image is None:
            output = base.forward(self, image, rows)
        else:
            output = base.forward(self) | dense(image, rows)
            for name in ("text_tokens", "text_token_mask"):
                output |= _split(output[name], exists, extension.companions, name)
        output |= _split(output["text_features"], exists, extension.companions)
        output |= {f"{kind}_valid": valid for kind, valid in _kinds(exists[:, 1:], extension.companions)}
        if pictures:
            output |= _split(output["image_features"], seen, extension.images, "image_features")
            if "image_tokens" in output:  # companions' are not asked for
                output["image_tokens"] = output["image_tokens"][seen.nonzero()[:, 1] == 0]
            output |= {f"{kind}_image_valid": valid for kind, valid in _kinds(seen[:, 1:], extension.images)}
        output |= identities
        if teaching or anchored:
            taught, drawn = extension.beside(image, own, rows, batch)
        if anchored:
            output |= {**extension.anchor.features(self, own, drawn), **drawn.features}
        if teaching:
            features = {"image_features": taught["image_features"]}
            features |= _split(taught["text_features"], exists, extension.companions)
            if pictures:
                features |= _split(taught["image_features"], seen, extension.images, "image_features")
            output |= {f"teacher_{name}": tensor for name, tensor in features.items()}
        if self.training and not torch.is_grad_enabled():  # what upstream keeps, to concatenate it
            _check_batch_axis(output, len(texts))
        return output

    override(
        model, STATE, Extension(companions, teacher, dense, images or {}, identified, anchor), forward=forward
    )


def _decoded(
    model: Any, base: Any, image: Tensor, rows: Tensor, seen: Tensor | None, exists: Tensor
) -> dict[str, Tensor]:
    """What CoCa returns of captions and their images, with the features of companions among theirs.

    Its decoder wants an image for each text, and companions are none that it should learn to write.
    """
    own = exists.nonzero()[:, 1] == 0  # [N]
    shown = slice(None) if seen is None else seen.nonzero()[:, 1] == 0
    output: dict[str, Tensor] = base.forward(model, image[shown], rows[own])
    output["text_features"] = _joined(output["text_features"], own, rows, model.encode_text)
    if seen is not None:
        output["image_features"] = _joined(output["image_features"], shown, image, model.encode_image)
    return output


def _joined(own: Tensor, where: Any, inputs: Tensor, encode: Any) -> Tensor:
    """Features of all `inputs` in their order, of which those `where` has are known."""
    if where.all():
        return own
    features = torch.cat([own, encode(inputs[~where], normalize=True)])
    return features[torch.cat([where.nonzero(), (~where).nonzero()])[:, 0].argsort()]


def extension_of(model: nn.Module) -> Extension:
    """What `extend_forward` gave `model`."""
    return state_of(model, STATE)  # type: ignore[no-any-return]


def unwrap(model: Any) -> nn.Module:
    """The model under DDP and torch.compile wrappers, in whatever order they were put on."""
    while True:
        if hasattr(model, "_orig_mod"):
            model = model._orig_mod
        elif isinstance(model, nn.parallel.DistributedDataParallel):
            model = model.module
        else:
            return model  # type: ignore[no-any-return]


def _check_batch_axis(output: Mapping[str, Tensor], batch: int) -> None:
    for name, tensor in output.items():
        if name not in ("logit_scale", "logit_bias") and tensor.shape[:1] != (batch,):
            raise InputError(
                f"the model's output {name} has shape {tuple(tensor.shape)}, and batches are put together "
                f"along a first axis of {batch} samples under --accum-freq; leave that out"
            )


def _split(
    rows: Tensor, exists: Tensor, companions: Mapping[str, int], name: str = "text_features"
) -> dict[str, Tensor]:
    """What is known of the N texts or images that exist, `[N, ...]`, as one tensor per kind.

    The others get zeros.
    """
    axes = rows.shape[1:]
    found = rows.new_zeros(*exists.shape, *axes).masked_scatter(exists[(..., *[None] * len(axes))], rows)
    kinds = _kinds(found[:, 1:], companions)
    return {name: found[:, 0]} | {f"{kind}_{name}": part for kind, part in kinds}


def _identities(texts: Tensor, pictures: Tensor, companions: Mapping[str, int]) -> dict[str, Tensor]:
    """Those of pictures `[B]`, and of texts `[B, 1+C, L]` by kind."""
    ids = text_identities(texts)
    kinds = {f"{kind}_text_id": its for kind, its in _kinds(ids[:, 1:], companions)}
    return {"image_id": pictures, "text_id": ids[:, 0], **kinds}


def _kinds(companions_axis: Tensor, companions: Mapping[str, int]) -> list[tuple[str, Tensor]]:
    """`[B, C, ...]` cut into the kinds of companions."""
    return list(zip(companions, torch.split(companions_axis, list(companions.values()), dim=1), strict=True))
