"""All settings of the demo, and the flags of the trainer made from them.

A recipe is written to `recipe.json` next to the results. Edit a copy and run it with `--recipe`.
Options that depend on the measured base (`tuned_options`) are computed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from open_clip_ext.demo import vocabulary
from open_clip_ext.errors import InputError

MODEL = {
    "model_cfg": {
        "embed_dim": 128,
        "vision_cfg": {
            "image_size": 32, "patch_size": 16, "layers": 3, "width": 96, "head_width": 32, "mlp_ratio": 4.0,
        },
        "text_cfg": {
            "context_length": 20, "layers": 2, "width": 64, "heads": 2,
            "vocab_size": 665, "tokenizer_kwargs": {"bpe_path": vocabulary.FILE},
        },
    },
    "preprocess_cfg": {
        "size": [32, 32], "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25],
        "interpolation": "bicubic", "resize_mode": "shortest",
    },
}  # fmt: skip

# DeGLA's published run: batch 256, weight 0.005 of a distillation that is a sum over the batch, and a teacher
# that at the end still contains 0.9996^(5 epochs * 1617 steps) = 3.9 % of the initial weights.
PUBLISHED_BATCH = 256
PUBLISHED_DISTILL = 0.005
PUBLISHED_TEACHER_LEFT = 0.9996 ** (5 * 1617)
# CE-CLIP's threshold cap of 10 logits is meant for a logit scale of 100.
PUBLISHED_CAP = 10.0
PUBLISHED_SCALE = 100.0


@dataclass(frozen=True)
class Schedule:
    """The schedule of one run of the trainer. An epoch is one pass over the `samples` drawn pictures."""

    samples: int
    epochs: int
    batch: int
    lr: float
    warmup: int

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return math.ceil(self.samples / self.batch) * self.epochs


# Of a world: numpy takes seeds below 2**32, and each base has 1,000 times that of its world.
MOST_SEED = 4_000_000


@dataclass(frozen=True)
class Recipe:
    """The settings of a demo run.

    Attributes:
        shards: number of shards per data set; at least the number of workers.
        workers: of upstream's loader.
        at_once: number of simultaneous trainings and evaluations, with one thread each. On two cores this
            is faster, steadier and easier to repeat than one run with two threads.
        world_seed: seed of everything drawn, and of the untrained models. Demos with different seeds share
            nothing. Every base derives its own seed from it (`base_seed`).
        pretraining: schedule of a base.
        fine_tuning: schedule of every method, except for the learning rate.
        lr: learning rates of methods that differ from `fine_tuning.lr`.
        select_lr: learning rates that `--select` tries for each method.
        dev_seed: evaluation seed on which settings are chosen. Never reported.
        test_seeds: evaluation seeds that are reported, pooled. Each base has its own items.
        test_size: items of each kind per evaluation seed.
        gate: how far a base must be from chance towards 100 % in every zero-shot set, as a share.
        ceiling: the highest value allowed for a base in a zero-shot set, in percent.
        swap_band: allowed distance from 50 % of a base's exchanged words and relations, in points.
        weights: of the fine-tuned model in its mixtures with the base.
        siglip: whether the models have a logit bias, so that losses are SigLIP's. The towers stay.
    """

    shards: int = 8
    workers: int = 1
    at_once: int = 2
    world_seed: int = 0
    pretraining: Schedule = Schedule(samples=12_800, epochs=5, batch=64, lr=2e-3, warmup=60)
    fine_tuning: Schedule = Schedule(samples=2_560, epochs=8, batch=32, lr=6e-4, warmup=20)
    lr: Mapping[str, float] = field(default_factory=dict)
    select_lr: tuple[float, ...] = (5e-4, 1e-3, 2e-3)
    dev_seed: int = 1
    test_seeds: tuple[int, ...] = (11, 12)
    test_size: int = 400
    gate: float = 0.2
    ceiling: float = 98.0
    swap_band: float = 10.0
    weights: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8)
    siglip: bool = False

    @property
    def model(self) -> dict[str, Any]:
        """The configuration of all models, as upstream reads it."""
        if not self.siglip:
            return MODEL
        # One in `batch` pairs is right. Upstream's -10 stands for one in 22,000, and from there the bias of a
        # base moved by 0.03 (docs/demo.md).
        bias = -round(math.log(self.pretraining.batch - 1), 2)
        start = {"init_logit_scale": math.log(10), "init_logit_bias": bias}
        return {**MODEL, "model_cfg": {**MODEL["model_cfg"], **start}}

    def base_seed(self, base: int) -> int:
        """The seed of a base's pictures, captions and untrained model."""
        return 1000 * self.world_seed + base

    def evaluation_seed(self, base: int, seed: int) -> int:
        """The seed of a base's evaluation items: `dev_seed` or one of `test_seeds`, for this base."""
        return 1000 * self.base_seed(base) + seed

    def shards_in(self, folder: str) -> str:
        """The shards of a data set, as the trainer's `--train-data` names them."""
        return f"{folder}/{{0000..{self.shards - 1:04d}}}.tar"

    def flags(self, schedule: Schedule) -> dict[str, Any]:
        """Flags of the trainer, without dashes, for a run with this schedule, on any shards."""
        return {
            "dataset-type": "webdataset",
            "train-num-samples": schedule.samples,
            "epochs": schedule.epochs,
            "batch-size": schedule.batch,
            "workers": self.workers,
            "lr": schedule.lr,
            "warmup": schedule.warmup,
            "wd": 0.1,
            "beta1": 0.9,
            "beta2": 0.98,
            "eps": 1e-6,
            "grad-clip-norm": 1.0,
            # No cropping: the cells of a cropped picture do not coincide with patches.
            "aug-cfg": "scale=(1.0,1.0)",
            "device": "cpu",
            "precision": "fp32",
            "log-every-n-steps": 5,
        }


# Small enough for a test: every stage runs, and the numbers are meaningless.
QUICK = Recipe(
    pretraining=Schedule(samples=1_024, epochs=2, batch=64, lr=1.2e-3, warmup=5),
    fine_tuning=Schedule(samples=512, epochs=2, batch=64, lr=4e-4, warmup=2),
    test_seeds=(11,),
    test_size=60,
    weights=(0.6,),
)


def tuned_options(recipe: Recipe, loss: str, base_scale: float) -> dict[str, float]:
    """Loss options that must be rescaled for a small world.

    Args:
        recipe: the recipe.
        loss: name of the loss.
        base_scale: the base's logit scale (exp).
    """
    return TUNED[loss](recipe.fine_tuning, base_scale) if loss in TUNED else {}


def _cap(schedule: Schedule, base_scale: float) -> dict[str, float]:
    return {"threshold_cap": round(PUBLISHED_CAP * base_scale / PUBLISHED_SCALE, 4)}


def _distillation(schedule: Schedule, base_scale: float) -> dict[str, float]:
    return {
        "distill_weight": round(PUBLISHED_DISTILL * PUBLISHED_BATCH / schedule.batch, 6),
        "ema_decay": round(PUBLISHED_TEACHER_LEFT ** (1 / schedule.steps), 6),
    }


# AHNPL has CE-CLIP's thresholds.
TUNED = {"ce-clip": _cap, "ahnpl": _cap, "degla": _distillation}


def to_json(recipe: Recipe) -> str:
    """The content of recipe.json."""
    return json.dumps(asdict(recipe), indent=2) + "\n"


def from_json(text: str, source: str) -> Recipe:
    """Parse the text that `to_json` returns.

    Raises:
        InputError: it is not a recipe; `source` says where it came from.
    """
    try:
        values = json.loads(text)
        unknown = sorted(set(values) - {f.name for f in fields(Recipe)})
        if unknown:
            raise InputError(f"{source}: unknown setting {unknown[0]}; compare it with a written recipe.json")
        for name in ("pretraining", "fine_tuning"):
            if name in values:
                values[name] = Schedule(**values[name])
        for name in ("select_lr", "test_seeds", "weights"):
            if name in values:
                values[name] = tuple(values[name])
        return Recipe(**values)
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(
            f"{source}: not a recipe ({error}); compare it with a written recipe.json"
        ) from error
