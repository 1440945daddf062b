"""Features of pictures and texts: each is computed once, in batches, and optionally cached on disk.

The cache key of a feature is everything it depends on: the weights and structure of the model (with its
activation), its preprocessing and precision, and the bytes of the picture file with the box, or the
tokens of the text. Texts with the same tokens therefore share one feature, and tie.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
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
from open_clip_ext.evaluation.items import Picture
from open_clip_ext.files import atomic_write

Features = dict[bytes, NDArray[np.float32]]
WORKERS = min(16, os.cpu_count() or 1)


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
        self.encoded = {"pictures": 0, "texts": 0}  # rows encoded so far, for reports
        self.folder = cache / fingerprint(model, preprocess, precision) if cache else None
        self._stores = {kind: _Store(kind, self.folder) for kind in self.encoded}

    def pictures(self, pictures: Sequence[Picture]) -> Tensor:
        """Unit-length fp32 features `[N, D]` on the CPU.

        Raises InputError if a file is missing or does not decode, or a feature is not finite.
        """
        with ThreadPoolExecutor(WORKERS) as pool:
            files = {picture.path: picture for picture in pictures}
            hashes = dict(zip(files, pool.map(_digest, files.values()), strict=True))
            keys = [hashlib.sha256(hashes[p.path] + repr(p.box).encode()).digest() for p in pictures]

            def batches(places: list[int]) -> Iterator[tuple[list[int], Tensor]]:
                parts = [places[i : i + self.batch] for i in range(0, len(places), self.batch)]
                ahead = [pool.submit(self._pixels, pictures[i]) for i in parts[0]]
                for part, following in zip(parts, [*parts[1:], []], strict=True):
                    done, ahead = ahead, [pool.submit(self._pixels, pictures[i]) for i in following]
                    yield part, torch.stack([future.result() for future in done])

            return self._features(
                "pictures", keys, batches, self.model.encode_image, lambda i: pictures[i].path
            )

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Unit-length fp32 features `[N, D]` on the CPU.

        Raises InputError if a feature is not finite.
        """
        tokens = self.tokenizer(list(texts))
        keys = [hashlib.sha256(row.numpy().tobytes()).digest() for row in tokens]

        def batches(places: list[int]) -> Iterator[tuple[list[int], Tensor]]:
            # Sorted by length, longest first: if memory runs out, it does so in the first batch.
            places = sorted(places, key=lambda i: -int(tokens[i].count_nonzero()))
            for part in (places[i : i + 4 * self.batch] for i in range(0, len(places), 4 * self.batch)):
                yield part, tokens[part]

        return self._features(
            "texts", keys, batches, self.model.encode_text, lambda i: f"the text {texts[i]!r}"
        )

    def _pixels(self, picture: Picture) -> Tensor:
        """A decoded, cropped and preprocessed picture `[3, H, W]`."""
        try:
            with Image.open(io.BytesIO(picture.read())) as file:
                image = file.convert("RGB")
        except Exception as error:  # decoders may raise anything
            raise InputError(f"{picture.path}: does not decode as a picture ({error})") from error
        if picture.box:
            x, y, w, h = picture.box
            left, top = max(x, 0), max(y, 0)
            right, bottom = min(x + w, image.width), min(y + h, image.height)
            if right - left < 1 or bottom - top < 1:
                raise InputError(
                    f"{picture.path}: the box {picture.box} is outside of it ({image.width} x {image.height})"
                )
            image = image.crop((x, y, x + w, y + h))
        return self.preprocess(image)

    def _features(
        self,
        kind: str,
        keys: list[bytes],
        batches: Callable[[list[int]], Iterator[tuple[list[int], Tensor]]],
        forward: Callable[..., Tensor],
        name: Callable[[int], str],
    ) -> Tensor:
        store = self._stores[kind]
        new = {key: place for place, key in enumerate(keys) if key not in store.features}
        if new:
            with tqdm(total=len(new), desc=kind, unit=kind[:-1], disable=None, leave=False) as bar:
                for places, inputs in batches(list(new.values())):
                    rows = self._forward(forward, inputs)
                    bad = ~np.isfinite(rows).all(-1)
                    if bad.any():
                        raise InputError(
                            f"{name(places[int(bad.argmax())])}: the model's features of it are not finite; "
                            "this checkpoint cannot be scored"
                        )
                    store.add([keys[place] for place in places], rows)
                    self.encoded[kind] += len(places)
                    bar.update(len(places))
        return torch.from_numpy(np.stack([store.features[key] for key in keys]))

    @torch.inference_mode()
    def _forward(self, forward: Callable[..., Tensor], inputs: Tensor) -> NDArray[np.float32]:
        if inputs.is_floating_point() and (dtype := get_input_dtype(self.precision)):
            inputs = inputs.to(dtype)
        amp = contextlib.nullcontext()
        if self.precision.startswith("amp"):
            mixed = torch.bfloat16 if self.precision.endswith("bf16") else torch.float16
            amp = torch.autocast(self.device.type, dtype=mixed)  # type: ignore[assignment]
        with amp:
            features = forward(inputs.to(self.device, non_blocking=True))
        unit = torch.nn.functional.normalize(features.float(), dim=-1, eps=0.0)  # 0 / 0 must not pass as 0
        return unit.cpu().numpy()


class _Store:
    """Features by key, in memory and, one file per batch, in a folder.

    Files are written atomically, so a kill loses only the current batch, and jobs may share the folder.
    """

    def __init__(self, kind: str, folder: Path | None) -> None:
        self.kind, self.folder = kind, folder
        self.features: Features = {}
        if folder is not None:
            with _cache_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
            for path in sorted(folder.glob(f"{kind}-*.safetensors")):
                self._read(path)

    def add(self, keys: list[bytes], rows: NDArray[np.float32]) -> None:
        """Keep the features `rows [N, D]`."""
        self.features.update(zip(keys, rows, strict=True))
        if self.folder is None:
            return
        from safetensors.numpy import save

        content: dict[str, NDArray[Any]] = {
            "keys": np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), -1),
            "features": rows,
        }
        name = hashlib.sha256(b"".join(keys)).hexdigest()[:32]
        with _cache_errors(self.folder):
            path = self.folder / f"{self.kind}-{name}.safetensors"
            atomic_write(path, lambda part: part.write_bytes(save(content)))

    def _read(self, path: Path) -> None:
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            content = load(path.read_bytes())
            keys, rows = content["keys"], content["features"]
        except (SafetensorError, KeyError):
            return  # a broken file is ignored: its batch is encoded and written again
        self.features.update(zip((key.tobytes() for key in keys), rows, strict=True))


@contextlib.contextmanager
def _cache_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{folder}: features cannot be kept there ({error.strerror}); name another --cache, or none"
        ) from error


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


def _digest(picture: Picture) -> bytes:
    try:
        return hashlib.sha256(picture.read()).digest()
    except OSError as error:
        raise InputError(f"{picture.path}: cannot be read as a picture ({error.strerror})") from error
