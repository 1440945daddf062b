"""Scoring SugarCrepe: everything encoded once, against a loop that encodes what each item shows and says.

The loop is what the benchmark's authors do: for each item decode and encode the picture, encode the caption
and the negative, compare. Upstream's `encode_text` runs them at 77 tokens.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import captions
import measure
import open_clip
import step
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from open_clip_ext.evaluation.encode import Encoder
from open_clip_ext.evaluation.items import Item, Picture
from open_clip_ext.evaluation.readers import sugarcrepe
from open_clip_ext.evaluation.scoring import composition
from open_clip_ext.model import text_trimming

ITEMS_PER_PICTURE = 5  # SugarCrepe has 7,511 items on 1,560 photographs


def compare(annotations: str, photos: str, pictures: int, pairs: int, tiny: bool) -> dict:
    """Times of both ways, in turns, and how far their similarities are apart.

    Args:
        annotations: SugarCrepe's folder; empty for drawn pictures with made captions.
        photos: those of its photographs that are here.
        pictures: how many to take.
        pairs: times that both are run.
        tiny: with a toy in place of ViT-B-32.
    """
    stock, trimmed = (step.create(tiny).to(measure.DEVICE).eval() for _ in range(2))
    trimmed.load_state_dict(stock.state_dict())
    text_trimming.trim(trimmed, evaluation=True)
    preprocess = image_transform_v2(PreprocessCfg(size=stock.visual.image_size), is_train=False)
    tokenizer = open_clip.get_tokenizer("ViT-B-32", context_length=stock.context_length)
    with tempfile.TemporaryDirectory() as folder:
        items = real(annotations, photos, pictures) if annotations else drawn(Path(folder), pictures)
        margins: dict[str, list[float]] = {}

        @torch.inference_mode()
        def plain() -> None:
            margins["plain"] = []
            for item in items:
                image = preprocess(Image.open(item.pictures[0].path).convert("RGB"))[None]
                shown = stock.encode_image(image.to(measure.DEVICE), normalize=True)
                said = stock.encode_text(tokenizer(list(item.captions)).to(measure.DEVICE), normalize=True)
                true, false = (shown @ said.T)[0].tolist()
                margins["plain"].append(true - false)

        def ours() -> None:
            encoder = Encoder(trimmed, preprocess, tokenizer)
            margins["ours"] = [row["margin"] for row in composition.rows(encoder, items)]

        found = measure.in_turns(plain, ours, pairs, "encoding")
    apart = max(abs(a - b) for a, b in zip(margins["plain"], margins["ours"], strict=True))
    pictures = len({item.pictures for item in items})
    return {"items": len(items), "pictures": pictures, **found, "margins_apart": apart}


def real(annotations: str, photos: str, pictures: int) -> list[Item]:
    """The items of SugarCrepe on the first photographs that are here."""
    items = sugarcrepe.read(annotations=Path(annotations), images=Path(photos)).items
    there = [item for item in items if item.pictures[0].exists()]
    chosen = sorted({item.pictures[0].path for item in there})[:pictures]
    return [item for item in there if item.pictures[0].path in set(chosen)]


def drawn(folder: Path, pictures: int) -> list[Item]:
    """As many items per picture as SugarCrepe has, with captions of its length."""
    texts, negatives = captions.choose([], pictures * ITEMS_PER_PICTURE, 1)
    items = []
    for n in range(pictures):
        path = folder / f"{n}.jpg"
        Image.effect_noise((640, 480), 50 + n).convert("RGB").save(path)
        for k in range(n * ITEMS_PER_PICTURE, (n + 1) * ITEMS_PER_PICTURE):
            items.append(Item(str(k), (Picture(str(path)),), (texts[k], negatives[k][0]), "i2t", (0,)))
    return items
