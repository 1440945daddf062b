"""Features of pictures and texts: each is computed once, in batches, and optionally cached on disk.

The cache key of a feature is everything it depends on: the weights and structure of the model (with its
activation), its preprocessing and precision, and the bytes of the picture file with the box, or the
tokens of the text. Texts with the same tokens therefore share one feature, and tie.

The last digits of a feature also depend on what shares its batch. So batches follow from what is asked for
alone, never from what the cache holds: a batch of which some features are missing is computed whole. A run
that continues another one, and several processes with a part of the batches each, therefore get the features
of one undisturbed process.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip import get_input_dtype
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from open_clip_ext.errors import InputError
from open_clip_ext.evaluation.feature_store import FeatureStore
from open_clip_ext.evaluation.items import Box, Picture

WORKERS = min(16, os.cpu_count() or 1)


@dataclass(frozen=True)
class Batch:
    """The inputs of one forward pass.

    Attributes:
        kind: `pictures` or `texts`.
        keys: of their features, N different ones.
        inputs: N pictures, or token ids `[N, L]`.
        names: of the inputs, for error messages.
    """

    kind: str
    keys: list[bytes]
    inputs: Any
    names: list[str]

    def __len__(self) -> int:
        """The number of inputs."""
        return len(self.keys)


class Encoder:
    """Computes the features that scoring asks for.

    Args:
        model: an open_clip model, in evaluation mode on `device`.
        preprocess: from a PIL image to its tensor.
        tokenizer: from texts to token ids `[N, L]`.
        device: of the model; None means the device of its weights.
        precision: upstream's name of it; `amp` and `amp_bf16` mean autocast.
        cache: a folder that keeps features between runs; None keeps them only in this object.
        batch: number of pictures in a forward pass; for texts it is four times as many.
    """

    def __init__(
        self,
        model: Any,
        preprocess: Callable[[Image.Image], Tensor],
        tokenizer: Callable[[list[str]], Tensor],
        device: str | torch.device | None = None,
        precision: str = "fp32",
        cache: Path | None = None,
        batch: int = 64,
    ) -> None:
        self.model = model
        self.preprocess = preprocess
        self.tokenizer = tokenizer
        self.device = torch.device(device or next(model.parameters()).device)
        self.precision = precision
        self.batch = batch
        self.encoded = {"pictures": 0, "texts": 0}  # features computed so far, for reports
        self.folder = cache / fingerprint(model, preprocess, precision) if cache else None
        self._stores = {kind: FeatureStore(kind, self.folder) for kind in self.encoded}
        self._keys: dict[Picture | str, bytes] = {}  # of all that was asked for
        self._planned: set[bytes] = set()
        self._hashes: dict[str, bytes] = {}  # of picture files by their paths

    def pictures(self, pictures: Sequence[Picture], *, unit: bool = True) -> Tensor:
        """Fp32 features `[N, D]` on the CPU, of unit length or as the model gives them.

        Raises InputError if a file is missing or does not decode, or a feature is not finite.
        """
        return self._features("pictures", pictures, unit)

    def texts(self, texts: Sequence[str], *, unit: bool = True) -> Tensor:
        """Fp32 features `[N, D]` on the CPU, of unit length or as the model gives them.

        Raises InputError if a feature is not finite.
        """
        return self._features("texts", texts, unit)

    def _features(self, kind: str, inputs: Sequence[Picture] | Sequence[str], unit: bool) -> Tensor:
        batches = self.missing(self.plan(kind, inputs))
        if batches:
            total = sum(map(len, batches))
            with tqdm(total=total, desc=kind, unit=kind[:-1], disable=None, leave=False) as bar:
                self.encode(batches, bar.update)
        every = torch.from_numpy(self._stores[kind].rows([self._keys[thing] for thing in inputs]))
        features, lengths = every[:, :-1], every[:, -1:]
        return features.contiguous() if unit else features * lengths

    # --- batches ---

    def plan(self, kind: str, inputs: Sequence[Any]) -> list[Batch]:
        """Batches of the `inputs` that were in no plan before, whether their features are there or not.

        Args:
            kind: `pictures` or `texts`.
            inputs: pictures or texts.

        Raises InputError if a picture file cannot be read.
        """
        unknown = [thing for thing in dict.fromkeys(inputs) if thing not in self._keys]
        if not unknown:
            return []
        if kind == "pictures":
            keys, names, size = self._picture_keys(unknown), [p.path for p in unknown], self.batch
        else:
            tokens = self.tokenizer(unknown)
            keys = [hashlib.sha256(row.numpy().tobytes()).digest() for row in tokens]
            names, size = [f"the text {text!r}" for text in unknown], 4 * self.batch
        self._keys.update(zip(unknown, keys, strict=True))
        first = {key: place for place, key in reversed([*enumerate(keys)])}  # of equal ones
        places = sorted(place for key, place in first.items() if key not in self._planned)
        self._planned.update(first)
        if kind == "texts":
            # Sorted by length, longest first: if memory runs out, it does so in the first batch.
            places.sort(key=lambda place: -int(tokens[place].count_nonzero()))
        return [
            Batch(
                kind,
                [keys[place] for place in part],
                tokens[part] if kind == "texts" else [unknown[place] for place in part],
                [names[place] for place in part],
            )
            for part in (places[start : start + size] for start in range(0, len(places), size))
        ]

    def missing(self, batches: Sequence[Batch]) -> list[Batch]:
        """Those of the batches of which a feature is not there."""
        return [batch for batch in batches if not self._stores[batch.kind].has(batch.keys)]

    def refresh(self) -> None:
        """Read the features that other processes have put into the cache."""
        for store in self._stores.values():
            store.refresh()

    def encode(self, batches: Sequence[Batch], done: Callable[[int], object]) -> None:
        """Compute the features of `batches`; call `done` with the number of inputs after each.

        Raises InputError if a picture does not decode, or a feature is not finite.
        """
        forward = {"pictures": self.model.encode_image, "texts": self.model.encode_text}
        with ThreadPoolExecutor(WORKERS) as pool:
            inputs = {
                "pictures": self._decoded(pool, [batch for batch in batches if batch.kind == "pictures"]),
                "texts": (batch.inputs for batch in batches if batch.kind == "texts"),
            }
            for batch in mixed(batches):
                rows = self._forward(forward[batch.kind], next(inputs[batch.kind]))
                bad = ~np.isfinite(rows).all(-1)
                if bad.any():
                    raise InputError(
                        f"{batch.names[int(bad.argmax())]}: the model's features of it are not finite; "
                        "this checkpoint cannot be scored"
                    )
                self.encoded[batch.kind] += self._stores[batch.kind].add(batch.keys, rows)
                done(len(batch))

    def _picture_keys(self, pictures: Sequence[Picture]) -> list[bytes]:
        """From the bytes of each file, read once, and what of it is shown."""
        files = {p.path: p for p in pictures if p.path not in self._hashes}
        with ThreadPoolExecutor(WORKERS) as pool:
            hashes = tqdm(
                pool.map(digest, files.values()),
                "reading",
                len(files),
                unit="file",
                disable=None,
                leave=False,
            )
            self._hashes.update(zip(files, hashes, strict=True))
        return [hashlib.sha256(self._hashes[p.path] + _part(p)).digest() for p in pictures]

    def _decoded(self, pool: ThreadPoolExecutor, batches: Sequence[Batch]) -> Iterator[Tensor]:
        """The pixels `[N, 3, H, W]` of each batch; while one is encoded, the next one is decoded."""
        ahead: list[Future[Tensor]] = []
        for batch, following in zip([None, *batches], [*batches, None], strict=True):
            done, ahead = (
                ahead,
                [pool.submit(self._pixels, p) for p in (following.inputs if following else ())],
            )
            if batch:
                yield torch.stack([future.result() for future in done])

    def _pixels(self, picture: Picture) -> Tensor:
        """A decoded, masked, cropped and preprocessed picture `[3, H, W]`."""
        try:
            with Image.open(io.BytesIO(picture.read())) as file:
                image = file.convert("RGB")
        except Exception as error:  # decoders may raise anything
            raise picture.undecodable(error) from error
        if picture.visible:
            whole, image = image, Image.new("RGB", image.size)
            for box in picture.visible:
                part = _pixels_of(picture, box, whole)
                image.paste(whole.crop(part), part)
        if picture.box:
            x, y, w, h = picture.box
            left, top = max(x, 0), max(y, 0)
            right, bottom = min(x + w, image.width), min(y + h, image.height)
            if right - left < 1 or bottom - top < 1:
                raise _outside(picture, picture.box, image)
            image = image.crop((x, y, x + w, y + h))
        return self.preprocess(image)

    @torch.inference_mode()
    def _forward(self, forward: Callable[..., Tensor], inputs: Tensor) -> NDArray[np.float32]:
        """`[N, D + 1]`: unit features, and their length before that."""
        if inputs.is_floating_point() and (dtype := get_input_dtype(self.precision)):
            inputs = inputs.to(dtype)
        amp = contextlib.nullcontext()
        if self.precision.startswith("amp"):
            mixed = torch.bfloat16 if self.precision.endswith("bf16") else torch.float16
            amp = torch.autocast(self.device.type, dtype=mixed)  # type: ignore[assignment]
        with amp:
            features = forward(inputs.to(self.device, non_blocking=True))
        features = features.float()
        unit = torch.nn.functional.normalize(features, dim=-1, eps=0.0)  # 0 / 0 must not pass as 0
        return torch.cat([unit, features.norm(dim=-1, keepdim=True)], -1).cpu().numpy()


def mixed(batches: Sequence[Batch]) -> list[Batch]:
    """Pictures and texts spread evenly: the pace so far then tells how long the rest takes."""
    total, before = Counter(batch.kind for batch in batches), Counter[str]()
    places = []
    for batch in batches:
        places.append((before[batch.kind] + 0.5) / total[batch.kind])
        before[batch.kind] += 1
    return [batch for _, batch in sorted(zip(places, batches, strict=True), key=lambda pair: pair[0])]


def fingerprint(model: Any, preprocess: object, precision: str) -> str:
    """A folder name made of everything but the input that features depend on."""
    from importlib.metadata import version

    # The repr of the model shows the activation; the weights do not.
    packages = (version(name) for name in ("torch", "torchvision", "pillow", "open_clip_torch"))
    parts = (weights_digest(model), repr(model), repr(preprocess), precision, *packages)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def weights_digest(model: Any) -> str:
    """The sha256 of all weights, independent of the file they came from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _part(picture: Picture) -> bytes:
    """What of the file is shown, as a part of a key."""
    return (repr(picture.box) + repr(picture.visible or "")).encode()


def _pixels_of(picture: Picture, box: Box, image: Image.Image) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of all pixels of an image that a box touches."""
    x, y, w, h = box
    left, top = max(math.floor(x), 0), max(math.floor(y), 0)
    right, bottom = min(math.ceil(x + w), image.width), min(math.ceil(y + h), image.height)
    if left >= right or top >= bottom:
        raise _outside(picture, box, image)
    return left, top, right, bottom


def _outside(picture: Picture, box: Box, image: Image.Image) -> InputError:
    return InputError(f"{picture.path}: the box {box} is outside of it ({image.width} x {image.height})")


def digest(picture: Picture) -> bytes:
    """The sha256 of a picture file; raises InputError if it cannot be read."""
    try:
        return hashlib.sha256(picture.read()).digest()
    except OSError as error:
        raise InputError(f"{picture.path}: cannot be read as a picture ({error.strerror})") from error
