"""What one core of the data loader does per second: JPEG to picture, and caption with negatives to token ids.

A worker of upstream's DataLoader is one process with one thread, so its rate is that of one core.
"""

from __future__ import annotations

import io
from pathlib import Path

import captions
import measure
import open_clip
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image, ImageFilter
from tqdm import tqdm

from open_clip_ext.data import HardNegativeCollate

K = 4
SIDE = 224


def rates(photos: str, files: list[str], count: int, rounds: int) -> dict:
    """Least milliseconds per picture and per sample's texts, and what one core does per second.

    Args:
        photos: folder of JPEG files; empty for drawn ones of 640x480.
        files: captions in SugarCrepe's format; empty for made ones.
        count: pictures and captions per round.
        rounds: each step is timed this often, in turns, and its least time counts.
    """
    jpegs = read(photos, count) if photos else drawn(count)
    transform = image_transform_v2(PreprocessCfg(size=SIDE), is_train=True)
    collate = HardNegativeCollate(open_clip.get_tokenizer("ViT-B-32"), K)
    texts, negatives = captions.choose(files, count, K)
    companions = [{"neg": row} for row in negatives]
    decoded = [decode(jpeg) for jpeg in jpegs]
    actions = {
        "decode_ms": lambda: [decode(jpeg) for jpeg in jpegs],
        "transform_ms": lambda: [transform(picture) for picture in decoded],
        "texts_ms": lambda: collate.texts(texts, companions),
    }
    for action in actions.values():  # fills caches, such as that of words
        action()
    taken: dict[str, list[float]] = {name: [] for name in actions}
    for _ in tqdm(range(rounds), desc="loader", leave=False):
        for name, action in actions.items():
            taken[name].append(measure.cpu_seconds(action))
    least = {name: min(values) / count * 1e3 for name, values in taken.items()}
    pictures = least["decode_ms"] + least["transform_ms"]
    return {
        "pictures": len(jpegs),
        "kilobytes": sum(map(len, jpegs)) / len(jpegs) / 1e3,
        **least,
        "pictures_per_core_s": 1e3 / pictures,
        "texts_per_core_s": 1e3 * (1 + K) / least["texts_ms"],
        "samples_per_core_s": 1e3 / (pictures + least["texts_ms"]),
    }


def decode(jpeg: bytes) -> Image.Image:
    """As upstream's loaders do, which leave the conversion to the transform."""
    picture = Image.open(io.BytesIO(jpeg))
    picture.load()
    return picture


def read(photos: str, count: int) -> list[bytes]:
    paths = sorted(Path(photos).glob("*.jpg"))
    return [paths[i % len(paths)].read_bytes() for i in range(count)]


def drawn(count: int) -> list[bytes]:
    """Grey clouds with some grain, of 640x480 and about as many bytes as photographs of COCO."""
    made = []
    for n in range(count):
        clouds = Image.effect_noise((640, 480), 200 + n).filter(ImageFilter.GaussianBlur(1.5))
        buffer = io.BytesIO()
        clouds.convert("RGB").save(buffer, "JPEG", quality=95)
        made.append(buffer.getvalue())
    return made
