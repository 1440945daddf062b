"""The drawn world as webdataset shards."""

from __future__ import annotations

import io
import json
import random
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from open_clip_ext.demo import companions, world

Sample = Callable[[random.Random], Mapping[str, bytes]]  # the files of a sample by extension


def pretraining(rng: random.Random) -> dict[str, bytes]:
    """A sample with a web-like caption."""
    scene, caption = world.pretraining_sample(rng)
    return {"png": png(scene), "txt": caption.encode()}


def fine_tuning(kinds: Sequence[str]) -> Sample:
    """Samples with a full caption, negatives, and companions of these kinds, as `companions` names them.

    Pictures, captions and negatives do not depend on the kinds.
    """
    return partial(_pair, (companions.NEGATIVES, *kinds))


def write(folder: Path, sample: Sample, samples: int, shards: int, seed: int) -> Iterator[int]:
    """Write so many samples as shards; yields the number written from time to time."""
    rng = random.Random(seed)
    for shard in range(shards):
        with tarfile.open(folder / f"{shard:04d}.tar", "w") as tar:
            for index in range(shard * samples // shards, (shard + 1) * samples // shards):
                for extension, content in sample(rng).items():
                    member = tarfile.TarInfo(f"{index:06d}.{extension}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
                if index % 100 == 0:
                    yield index
    yield samples


def png(scene: world.Scene) -> bytes:
    """The picture of a scene as a file."""
    picture = io.BytesIO()
    world.draw(scene).save(picture, "png", compress_level=1)
    return picture.getvalue()


def _pair(kinds: Sequence[str], rng: random.Random) -> dict[str, bytes]:
    pair = world.fine_tuning_sample(rng)
    files = {"png": png(pair.scene), "txt": pair.true.text().encode()}
    for kind in kinds:
        if kind in companions.TEXTS:
            name = "negatives" if kind == companions.NEGATIVES else kind
            files[f"{name}.json"] = json.dumps(companions.TEXTS[kind](pair)).encode()
        else:
            scenes = enumerate(companions.IMAGES[kind](pair))
            files |= {f"{kind}.{place}.png": png(scene) for place, scene in scenes if scene}
    return files
