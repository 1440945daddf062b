"""Scores of a model on the evaluation seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from open_clip_ext.demo import vocabulary, world

# A relation is learned late and suddenly, at a step that differs between bases by hundreds. A mean over both
# would depend on when the run ends, so composition contains only the exchanged words.
WORDS = ("swap_obj", "swap_att")
RELATIONS = ("swap_order", "replace_rel")


@dataclass(frozen=True)
class Share:
    """`right` of `n` items. Shares of several evaluation seeds can be added."""

    right: int
    n: int

    def __add__(self, other: Share) -> Share:
        return Share(self.right + other.right, self.n + other.n)

    @property
    def percent(self) -> float:
        """The share in percent."""
        return 100 * self.right / self.n

    @property
    def error(self) -> float:
        """The binomial standard error in percentage points."""
        p = self.right / self.n
        return 100 * math.sqrt(p * (1 - p) / self.n)


# Counts by name: a kind of edit, "zs/<set>", "r1/full" and "r1/web".
Scores = dict[str, Share]


@dataclass(frozen=True)
class Pictures:
    """An evaluation with its pictures as one tensor."""

    items: world.Evaluation
    pictures: Tensor  # [M, 3, H, W] bytes, of the distinct scenes
    index: dict[world.Scene, int]


@lru_cache(maxsize=32)
def prepared(seed: int, size: int) -> Pictures:
    """The evaluation of a seed, with its pictures drawn."""
    items = world.evaluation(seed, size)
    scenes = dict.fromkeys([*items.pairs, *(s for z in items.zero_shot.values() for s in z.scenes)])
    pixels = np.stack([np.asarray(world.draw(scene)) for scene in scenes])
    tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    return Pictures(items, tensor, {scene: index for index, scene in enumerate(scenes)})


@lru_cache(maxsize=200_000)
def _tokens(text: str, length: int) -> Tensor:
    return vocabulary.tokenizer(length)([text])[0]  # type: ignore[no-any-return]


def score(model: Any, seeds: Sequence[int], size: int) -> Scores:
    """Score a model on several evaluation seeds, pooled."""
    total: Scores = {}
    for seed in seeds:
        for name, share in _score(model, prepared(seed, size)).items():
            total[name] = total[name] + share if name in total else share
    return total


@torch.inference_mode()
def _score(model: Any, data: Pictures) -> Scores:
    items = data.items
    # The demo's preprocess_cfg; the pictures already have the right size.
    batches = ((pixels.float() / 255 - 0.5) / 0.25 for pixels in torch.split(data.pictures, 256))
    images = torch.cat([model.encode_image(batch, normalize=True) for batch in batches])
    texts = dict.fromkeys([*items.captions, *items.web])
    texts |= dict.fromkeys(text for false in items.false.values() for text in false)
    texts |= dict.fromkeys(
        text for z in items.zero_shot.values() for prompts in z.prompts for text in prompts
    )
    tokens = torch.stack([_tokens(text, model.context_length) for text in texts])
    encoded = torch.cat([model.encode_text(t, normalize=True) for t in torch.split(tokens, 512)])
    place = {text: index for index, text in enumerate(texts)}

    def text_rows(names: Sequence[str]) -> Tensor:
        return encoded[[place[name] for name in names]]

    def image_rows(scenes: Sequence[world.Scene]) -> Tensor:
        return images[[data.index[scene] for scene in scenes]]

    scores: Scores = {}
    pictures, captions = image_rows(items.pairs), text_rows(items.captions)
    true = (pictures * captions).sum(-1)
    for kind, false in items.false.items():
        beaten = true > (pictures * text_rows(false)).sum(-1)  # a tie is wrong
        scores[kind] = Share(int(beaten.sum()), len(false))
    for name, labelled in items.zero_shot.items():
        classes = torch.stack([text_rows(prompts).mean(0) for prompts in labelled.prompts])
        logits = image_rows(labelled.scenes) @ torch.nn.functional.normalize(classes, dim=-1).T
        hits = logits.argmax(-1) == torch.tensor(labelled.labels)
        scores[f"zs/{name}"] = Share(int(hits.sum()), len(hits))
    for name, candidates in (("full", items.captions), ("web", items.web)):
        scores[f"r1/{name}"] = _recall(pictures, text_rows(candidates), candidates)
    return scores


def _recall(pictures: Tensor, captions: Tensor, texts: Sequence[str]) -> Share:
    """Recall at 1, pooled over both directions. Equal captions count as one candidate; a tie is wrong."""
    similar = pictures @ captions.T
    numbers = {text: index for index, text in enumerate(dict.fromkeys(texts))}
    ids = torch.tensor([numbers[text] for text in texts])
    same = ids[:, None] == ids[None, :]
    true = similar.diagonal()
    rival = similar.masked_fill(same, -torch.inf)
    hits = int((true > rival.amax(1)).sum()) + int((true > rival.amax(0)).sum())
    return Share(hits, 2 * len(texts))


# --- summaries of one model -----------------------------------------------------------------------


def mean(scores: Scores, names: Sequence[str]) -> float:
    """The mean over subsets, in percent."""
    return sum(scores[name].percent for name in names) / len(names)


def composition(scores: Scores) -> float:
    """The mean over exchanged nouns and exchanged adjectives."""
    return mean(scores, WORDS)


def relations(scores: Scores) -> float:
    """The mean over exchanged noun phrases and replaced relations."""
    return mean(scores, RELATIONS)


def unmentioned(scores: Scores) -> float:
    """The mean over the zero-shot sets that fine-tuning captions never mention."""
    return mean(scores, [f"zs/{name}" for name in world.UNMENTIONED])


# --- the gate -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Check:
    """One requirement on the base, with the measured value."""

    name: str
    percent: float
    low: float
    high: float

    @property
    def passed(self) -> bool:
        """Whether the value is within the limits."""
        return self.low <= self.percent <= self.high


def gate(scores: Scores, share: float, ceiling: float, band: float) -> list[Check]:
    """The conditions that a base must meet, so that fine-tuning can show an effect.

    Every zero-shot set must be at least `share` of the way from chance to 100 %, because a set at chance
    cannot show forgetting. It must not be above `ceiling` %, because a set at its ceiling shows no gain and
    hides small losses. Exchanged words and relations must be within `band` points of 50 %; otherwise there is
    little to learn.
    """
    checks = []
    for name, classes in world.CLASSES.items():
        chance = 100 / len(classes)
        low = chance + share * (100 - chance)
        checks.append(Check(f"zs/{name}", scores[f"zs/{name}"].percent, low, ceiling))
    for kind in (*WORDS, *RELATIONS):
        checks.append(Check(kind, scores[kind].percent, 50 - band, 50 + band))
    return checks
