"""Fine-tune a tiny CLIP on photos with human captions, through upstream's command line, and look.

    python tests/photos.py FOLDER OUT      FOLDER holds captions.csv (filepath,title) and the photos

The negatives are word swaps. Trains with `--loss degla` from CSV, from webdataset shards, and in two
processes, and prints the loss terms and the pairwise accuracy on held-out photos before and after.
"""

from __future__ import annotations

import csv
import json
import random
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import open_clip
import support
import torch
from PIL import Image

MODEL = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 64, "layers": 3, "width": 128, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 2},
}
TERMS = ("contrastive_loss", "igc_loss", "tgc_loss", "distill_loss", "loss")


def swaps(caption: str, count: int, rng: random.Random) -> list[str]:
    """Up to `count` different captions made by exchanging two words of more than three letters."""
    words = caption.split()
    places = [i for i, word in enumerate(words) if len(word) > 3 and word.isalpha()]
    made: list[str] = []
    for _ in range(5 * count):
        if len(places) < 2 or len(made) == count:
            break
        i, j = rng.sample(places, 2)
        swapped = words[:]
        swapped[i], swapped[j] = words[j], words[i]
        text = " ".join(swapped)
        if text != caption and text not in made:
            made.append(text)
    return made


def read(folder: Path, seed: int = 0) -> tuple[list[support.Photo], list[support.Photo]]:
    """Photos with captions and swaps; the second list holds a tenth of the photos, split by photo."""
    rng = random.Random(seed)
    with (folder / "captions.csv").open(newline="", encoding="utf-8") as file:
        rows = [(row["filepath"], row["title"]) for row in csv.DictReader(file)]
    names = sorted({name for name, _ in rows})
    held = set(rng.sample(names, len(names) // 10))
    images = {name: Image.open(folder / name).convert("RGB") for name in names}
    photos = [(n, support.Photo(images[n], c, swaps(c, 4, rng))) for n, c in rows]
    return [p for n, p in photos if n not in held], [p for n, p in photos if n in held]


def write_model(folder: Path, weights: Path | None = None, config: dict[str, Any] | None = None) -> str:
    """A `--model local-dir:...`, with the weights of a trainer's checkpoint if there is one."""
    folder.mkdir(parents=True)
    content = {"model_cfg": config or MODEL, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    if weights is not None:
        state = torch.load(weights, weights_only=True, map_location="cpu")["state_dict"]
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
        torch.save(state, folder / "open_clip_pytorch_model.bin")
    return f"local-dir:{folder}"


@torch.inference_mode()
def pairwise_accuracy(model: str, photos: Iterable[support.Photo]) -> float:
    """Share of (caption, negative) pairs in which the photo is closer to its caption. Ties are lost."""
    clip, preprocess = open_clip.create_model_from_pretrained(model)
    tokenize = open_clip.get_tokenizer(model)
    won: list[bool] = []
    for photo in photos:
        if photo.negatives:
            image = clip.encode_image(preprocess(photo.image)[None], normalize=True)
            texts = clip.encode_text(tokenize([photo.caption, *photo.negatives]), normalize=True)
            caption, *negatives = (image @ texts.T)[0].tolist()
            won += [caption > negative for negative in negatives]
    return sum(won) / len(won)


def fine_tune(
    out: Path, name: str, base: str, *flags: object, processes: int = 1
) -> tuple[support.Finished, str]:
    """Train with degla; the finished run and the folder of the trained model."""
    run = support.train(
        out, "--model", base, "--loss", "degla", "--loss-cfg", "ema_decay=0.99", *flags,
        name=name, processes=processes, timeout=3600,
    )  # fmt: skip
    assert run.status == 0, run.output
    last = max((run.folder / "checkpoints").glob("epoch_*.pt"), key=lambda p: p.stat().st_mtime)
    config = json.loads((Path(base.removeprefix("local-dir:")) / "open_clip_config.json").read_text())
    return run, write_model(out / f"{name}-model", last, config["model_cfg"])


def main(folder: Path, out: Path) -> None:
    torch.manual_seed(0)
    seen, held = read(folder)
    print(f"{len(seen)} captions to train on, {len(held)} of other photos held out")
    table = support.write_csv(out / "csv", seen)
    shards = support.write_shards(out / "shards", seen, shards=4)
    base = write_model(out / "base")
    torch.save(open_clip.create_model(base).state_dict(), out / "base" / "open_clip_pytorch_model.bin")
    print(f"pairwise accuracy before: {pairwise_accuracy(base, held):.3f}")
    common = ("--epochs", 6, "--warmup", 20, "--lr", 5e-4, "--log-every-n-steps", 1000)
    for name, processes, flags in (
        ("csv", 1, ("--dataset-type", "csv", "--train-data", table, "--csv-separator", ",",
                    "--batch-size", 64)),
        ("webdataset", 1, ("--dataset-type", "webdataset", "--train-data", shards, "--batch-size", 64,
                           "--train-num-samples", len(seen), "--workers", 1)),
        ("two processes", 2, ("--dataset-type", "csv", "--train-data", table, "--csv-separator", ",",
                              "--batch-size", 32, "--local-loss", "--gather-with-grad")),
    ):  # fmt: skip
        run, model = fine_tune(out, name.replace(" ", "-"), base, *common, *flags, processes=processes)
        print(f"\n{name}: pairwise accuracy after: {pairwise_accuracy(model, held):.3f}")
        for term in TERMS:
            # Upstream logs an epoch's first and last step; the value in brackets is that step's.
            print(f"  {term:<17}" + " ".join(f"{v:8.4f}" for v in run.values(term)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
