"""A training step of every registered loss against one of `clip`, with the companions that it declares."""

from __future__ import annotations

import logging

import captions
import measure
import open_clip
import torch
from step import create

from open_clip_ext import registry
from open_clip_ext.data import CompanionCollate
from open_clip_ext.training.config import Settings
from open_clip_ext.training.run import Run

MODEL = "ViT-S-32"


class Steps:
    """A student that is trained as a run does it: trimmed texts, the loss, its teacher and anchors, AdamW."""

    def __init__(self, name: str, tiny: bool, batch: int) -> None:
        loss = registry.load(name)
        # What a loss takes only where a run asks for it, none of.
        counts = {kind: n for kind, n in loss.companions.items() if n}
        images = {kind: n for kind, n in getattr(loss, "companion_images", {}).items() if n}
        aligned, pairs = getattr(loss, "aligned", ()), getattr(loss, "pairs", False)
        self.model = create(tiny, MODEL).to(measure.DEVICE)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-6)
        run = Run(Settings(name, loss, {}, counts, {}, {}, aligned=aligned, images=images, pairs=pairs))
        self.loss = run.build_loss(measure.DEVICE)
        tokenizer = open_clip.get_tokenizer("ViT-B-32")
        run.begin(self.model, self.optimizer, scaled=False, calls_per_step=1, tokenizer=tokenizer)
        texts, edited = captions.made(batch, sum(counts.values()))
        collate = CompanionCollate(tokenizer, counts, aligned=aligned)
        ends = [sum(list(counts.values())[: i + 1]) for i in range(len(counts))]
        kinds = [
            {kind: row[end - counts[kind] : end] for kind, end in zip(counts, ends, strict=True)}
            for row in edited
        ]
        self.texts = collate.texts(texts, kinds).to(measure.DEVICE)
        side = self.model.visual.image_size[0]
        shape = batch, 1 + sum(images.values()), 3, side, side
        self.images = torch.randn(shape, device=measure.DEVICE)
        if not images:
            self.images = self.images[:, 0]

    def step(self) -> None:
        out = self.model(self.images, self.texts)
        sum(self.loss(**out, output_dict=True).values()).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def compare(tiny: bool, batch: int, pairs: int) -> list[dict]:
    """For each loss its texts per sample, and how many times the step of `clip` its step takes."""
    logging.disable(logging.WARNING)
    clip = Steps("clip", tiny, batch)
    clip.step()
    rows = []
    for name in registry.entries():
        other = Steps(name, tiny, batch)
        other.step()
        found = measure.in_turns(clip.step, other.step, pairs, name)
        rows.append(
            {
                "loss": name,
                "texts": other.texts.shape[1] if other.texts.ndim == 3 else 1,
                "cost": 1 / found["speedup"],
                "cost_least": 1 / found["speedup_greatest"],
                "cost_greatest": 1 / found["speedup_least"],
            }
        )
        del other
    return rows
