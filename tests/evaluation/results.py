"""Result folders as `eval run` writes them, of models that are drawn: no tower, but real photos."""

from __future__ import annotations

import copy
import functools
import random
from pathlib import Path

import support

from open_clip_ext.evaluation import result_folder
from open_clip_ext.evaluation.evaluate import subsets
from open_clip_ext.evaluation.scoring import aggregate, bootstrap

SUBSETS = ("replace_obj", "replace_att", "swap_obj", "swap_att", "add_obj")
CLASSES = ("circle", "square", "triangle")


def photo_folder(folder: Path, count: int = 24) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for i, photo in enumerate(support.photos(count, seed=7)):
        paths.append(folder / f"{i}.png")
        photo.image.resize((240, 180)).save(paths[-1])
    return paths


def row(key, group, pictures, captions, correct, margin):
    return {
        "id": key,
        "group": group,
        "pictures": [str(path) for path in pictures],
        "captions": list(captions),
        "correct": correct,
        "half": {name: float(value) for name, value in correct.items()},
        "margin": margin,
        "tied": False,
    }


def composition(pictures, skill, model_seed, n=300):
    """A caption against a false one; how hard an item is belongs to the item, luck to the model."""
    items, luck = random.Random(1), random.Random(model_seed)
    rows = []
    for i in range(n):
        picture, group = items.choice(pictures), items.choice(SUBSETS)
        margin = (skill - items.random() + 0.15 * luck.gauss(0, 1)) / 10
        captions = (f"a <b>{group}</b> caption {i} & more", f"a false | caption {i}")
        rows.append(row(str(i), group, [picture], captions, {"accuracy": int(margin > 0)}, margin))
    return rows


def classification(pictures, skill, model_seed, n=300):
    items, luck = random.Random(2), random.Random(model_seed)
    rows = []
    for i in range(n):
        label = items.randrange(len(CLASSES))
        margin = (skill - items.random() + 0.1 * luck.gauss(0, 1)) / 10
        captions = [CLASSES[label], CLASSES[(label + luck.choice([1, 2])) % 3]]
        name = Path(pictures[0]).with_name(f"test-{i}.png")
        rows.append(row(str(i), CLASSES[label], [name], captions, {"top1": int(margin > 0)}, margin))
    return rows


def entry(name, family, rows, names, **changes):
    found = bootstrap.of_rows(name, [rows], names)
    return {
        "family": family,
        "n": len(rows),
        "missing": 0,
        "files": {f"annotations/{name}.json": f"{name}-hash".ljust(64, "0")},
        "notes": [],
        "ties": "strict",
        "primary": names[0],
        "scores": {
            agg: aggregate.score(agg, rows) | {"interval": list(bootstrap.interval(one.drawn[:, 0]))}
            for agg, one in found.items()
        },
        "subsets": subsets(rows),
        "items": f"items/{name}.jsonl",
        "rows": rows,
        **changes,
    }


def benchmarks(pictures, composition_skill=0.6, zero_shot_skill=0.8, model_seed=0):
    return copy.deepcopy(_benchmarks(tuple(pictures), composition_skill, zero_shot_skill, model_seed))


@functools.cache
def _benchmarks(pictures, composition_skill, zero_shot_skill, model_seed):
    return {
        "sugarcrepe": entry(
            "sugarcrepe", "composition", composition(pictures, composition_skill, model_seed),
            ["micro", "macro"],
        ),
        "cifar10": entry(
            "cifar10", "zero-shot", classification(pictures, zero_shot_skill, model_seed),
            ["top1 micro", "top1 macro"], notes=["3 classes, 1 templates"],
        ),
    }  # fmt: skip


MODEL = {"name": "ViT-B-32", "checkpoint": "epoch_1.pt", "sha256": "ab" * 32, "activation": "QuickGELU",
         "precision": "fp32", "preprocess": {"size": 224}}  # fmt: skip


def write(folder: Path, made, **model) -> Path:
    result_folder.write(folder, {**MODEL, **model}, made)
    return folder
