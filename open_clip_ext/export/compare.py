"""Compare what was written with the original: features, from picture and caption on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import transformers
from PIL import Image
from torch import Tensor

from open_clip_ext.evaluation import models

TOLERANCE = 1e-5
Compared = dict[str, Tensor]
# Of several lengths: the last two are longer than any context.
CAPTIONS = (
    "a dog",
    "Two cats' toys: a red ball (left) and a blue one, 3 feet apart!",
    "  The café's naïve waiter isn't   smiling\nat 19:45.",
    "日本の犬 next to a snow-covered fence",
    "a black horse and a white dog run along the beach " * 12,
    "x1-" * 200,
)
# Of several sizes. After resizing the crop leaves an even number of pixels: where it leaves 3 more than a
# multiple of 4, torchvision's crop begins one pixel later than that of `transformers`.
SIZES = ((300, 100), (100, 300), (240, 240), (31, 31))


def pictures() -> list[Image.Image]:
    """Drawn pictures: patches of random colours, and noise."""
    drawn = np.random.default_rng(0)
    made = []
    for width, height in SIZES:
        colours = drawn.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        noise = drawn.integers(0, 64, (height, width, 3), dtype=np.uint8)
        patches = np.asarray(Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC))
        made.append(Image.fromarray(patches // 4 * 3 + noise))
    return made


def of_open_clip(model: Any, preprocess: Callable[..., Any], tokenizer: Callable[..., Any]) -> Compared:
    """What is compared, of an open_clip model with its own preprocessing and tokenizer.

    Returns:
        Image features `[N, D]` and text features `[M, D]` of unit length, and the logit scale and bias.
    """
    with torch.inference_mode():
        found = {
            "image features": model.encode_image(
                torch.stack([preprocess(picture) for picture in pictures()]), normalize=True
            ),
            "text features": model.encode_text(tokenizer(list(CAPTIONS)), normalize=True),
        }
    return found | _scalars(model)


def of_open_clip_folder(folder: Path) -> Compared:
    """What is compared, of a folder that stock open_clip loads."""
    name = f"{models.LOCAL}{folder}"
    with models.quiet():
        model, preprocess = open_clip.create_model_from_pretrained(name)
        tokenizer = open_clip.get_tokenizer(name)
    return of_open_clip(model.eval(), preprocess, tokenizer)


def of_transformers_folder(folder: Path) -> Compared:
    """What is compared, of a folder that stock `transformers` loads, with pictures resized by PIL."""
    with silent():
        model = transformers.AutoModel.from_pretrained(folder)
        processor = transformers.AutoProcessor.from_pretrained(folder)
        images = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
        texts = processor(text=list(CAPTIONS), padding="max_length", truncation=True, return_tensors="pt")
    with torch.inference_mode():
        outputs = model(**images(pictures(), return_tensors="pt"), **texts)
    found = {"image features": outputs.image_embeds, "text features": outputs.text_embeds}
    return found | _scalars(model)


def _scalars(model: Any) -> Compared:
    named = {"logit scale": model.logit_scale, "logit bias": getattr(model, "logit_bias", None)}
    return {name: value.detach().reshape(()) for name, value in named.items() if value is not None}


def differences(one: Compared, other: Compared) -> dict[str, float]:
    """The greatest absolute difference of each; not a number where a value is not finite."""
    return {name: float((value - other[name]).abs().max()) for name, value in one.items()}


@contextmanager
def silent() -> Iterator[None]:
    """Suppress progress bars and remarks of `transformers`."""
    logs = transformers.utils.logging
    level, bars = logs.get_verbosity(), logs.is_progress_bar_enabled()
    logs.set_verbosity_error()
    logs.disable_progress_bar()
    try:
        with models.quiet():
            yield
    finally:
        logs.set_verbosity(level)
        if bars:
            logs.enable_progress_bar()
