"""A whole training step: student, teacher, loss, backward, optimizer, moving average."""

from __future__ import annotations

import gc
import logging
from contextlib import nullcontext

import captions
import measure
import open_clip
import straightforward
import torch
from tqdm import tqdm

from open_clip_ext import losses
from open_clip_ext.data import HardNegativeCollate
from open_clip_ext.model.forward import extend_forward
from open_clip_ext.model.text_trimming import trim
from open_clip_ext.teacher import EMATeacher

K = 4
LOSSES = {
    "clip": losses.CLIPLoss,
    "negclip": losses.NegCLIPLoss,
    "ce-clip": losses.CECLIPLoss,
    "degla": losses.DeGLALoss,
}
PARTS = ("forward", "teacher", "loss", "backward", "optimizer", "ema")


def variants() -> list[dict]:
    """What is timed: every loss at 77 tokens and at real tokens, and DeGLA written straightforwardly."""
    made = [{"loss": name, "pad": pad, "plain": False} for name in LOSSES for pad in (True, False)]
    return [*made, {"loss": "degla", "pad": True, "plain": True}]


def create(tiny: bool, name: str = "ViT-B-32") -> torch.nn.Module:
    """A model with random weights, or something that runs in no time."""
    torch.manual_seed(0)
    if not tiny:
        logging.disable(logging.WARNING)  # upstream warns of random weights
        return open_clip.create_model(name, pretrained=None, output_dict=True)
    vision = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    return open_clip.CLIP(embed_dim=32, vision_cfg=vision, text_cfg=text, output_dict=True)


class Step:
    """One student with its optimizer and teacher, which takes steps of any variant."""

    def __init__(
        self,
        tiny: bool,
        batch: int,
        files: list[str],
        *,
        compiled: bool = False,
        bf16: bool = measure.DEVICE.type == "cuda",
        fused: bool | None = None,
    ) -> None:
        self.compiled, self.bf16 = compiled, bf16
        self.model = create(tiny).to(measure.DEVICE)
        self.stock = type(self.model)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-6, fused=fused)
        self.teacher = EMATeacher(self.model)
        self.clock = measure.Clock()
        self.teacher.register_forward_pre_hook(lambda *_: self.clock.lap("forward"))
        self.teacher.register_forward_hook(lambda *_: self.clock.lap("teacher"))
        texts, negatives = captions.choose(files, batch, K)
        collate = HardNegativeCollate(open_clip.get_tokenizer("ViT-B-32"), K)
        self.texts = collate.texts(texts, [{"neg": row} for row in negatives]).to(measure.DEVICE)
        side = self.model.visual.image_size[0]
        self.images = torch.randn(batch, 3, side, side, device=measure.DEVICE)
        for p in self.model.parameters():  # the optimizer's state is part of every real step's memory
            p.grad = torch.zeros_like(p)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def use(self, loss: str, pad: bool, plain: bool) -> None:
        """Arm the student for a variant."""
        self.loss = LOSSES[loss]().to(measure.DEVICE)
        self.plain = plain
        counts = {kind: K for kind, count in self.loss.companions.items() if count}
        self.shown = self.texts[:, : 1 + sum(counts.values())]
        self.learner = self.teacher if loss == "degla" else None
        self.model.__class__ = self.teacher.module.__class__ = self.stock
        if not pad:
            trim(self.model)
            trim(self.teacher.module, evaluation=True)
        extend_forward(self.model, counts, self.learner)
        self.forward = torch.compile(self.model) if self.compiled else self.model

    def take(self) -> dict[str, float]:
        """One step; the seconds of its parts."""
        autocast = torch.autocast(measure.DEVICE.type, torch.bfloat16) if self.bf16 else nullcontext()
        self.clock.start()
        with autocast:
            out = self.forward(self.images, self.shown)
            self.clock.lap("forward")
            total = self._straightforward(out) if self.plain else self.loss(**out)
            self.clock.lap("loss")
        total.backward()
        self.clock.lap("backward")
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.clock.lap("optimizer")
        if self.plain:
            straightforward.move_teacher(self.teacher.module, self.model, self.teacher.decay)
        elif self.learner is not None:
            self.teacher.update(self.model)
        self.clock.lap("ema")
        parts = dict.fromkeys(PARTS, 0.0) | self.clock.parts()
        return parts | {"total": sum(parts.values())}

    @staticmethod
    def _straightforward(out: dict[str, torch.Tensor]) -> torch.Tensor:
        names = ("image_features", "text_features", "neg_text_features")
        student, teacher = ([out[prefix + name].float() for name in names] for prefix in ("", "teacher_"))
        return straightforward.degla(*student, out["logit_scale"], *teacher)


def times(tiny: bool, batch: int, rounds: int, files: list[str]) -> list[dict]:
    """All variants in turns, on a CPU, where one student at a time is what memory has room for."""
    step = Step(tiny, batch, files)
    made = [{**variant, "rounds": []} for variant in variants()]
    progress = tqdm(total=rounds * len(made), desc="steps", leave=False)
    for turn in range(-1, rounds):
        # The round before the first warms up what is shared, with the cheapest variant.
        for variant in made[:1] if turn < 0 else made[:: 1 if turn % 2 else -1]:
            step.use(variant["loss"], variant["pad"], variant["plain"])
            parts = step.take()
            gc.collect()
            if turn >= 0:
                variant["rounds"].append(parts)
                progress.update()
    return made


def peak(tiny: bool, batch: int, files: list[str], variant: dict) -> float:
    """MB of a process that takes one step of a variant and nothing else."""
    step = Step(tiny, batch, files)
    step.use(**variant)
    step.take()
    return measure.peak_mb()
