"""What `gpu.py` measures, each call in a process of its own."""

from __future__ import annotations

import statistics

import measure
import open_clip
import torch
from step import Step, create

from open_clip_ext.model.text_towers import CausalText

WARM_UP = 5
STEPS = 15


def steps(
    batch: int,
    variants: list[dict],
    files: list[str],
    *,
    compiled: bool = False,
    bf16: bool = True,
    tf32: bool = True,
    fused: bool | None = None,
    tiny: bool = False,
) -> list[dict]:
    """Median seconds of each part of a step, variants in turns, and the peak of memory of each.

    Args:
        batch: samples of a step.
        variants: keyword arguments of `Step.use`.
        files: captions in SugarCrepe's format; empty for made ones.
        compiled: with `torch.compile`.
        bf16: under autocast to bf16; else fp32.
        tf32: whether matrix products in fp32 may use TF32, which upstream's trainer allows.
        fused: AdamW's option.
        tiny: with a toy in place of ViT-B-32, and one step.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    step = Step(tiny, batch, files, compiled=compiled, bf16=bf16, fused=fused)
    rows = [{**variant, "taken": [], "peak_mb": 0.0} for variant in variants]
    warm_up, count = (1, 1) if tiny else (WARM_UP, STEPS)
    for turn in range(3 if len(variants) > 1 and not tiny else 1):
        for row, variant in zip(rows, variants, strict=True):
            step.use(**variant)
            for _ in range(warm_up):
                step.take()
            if measure.DEVICE.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            row["taken"] += [step.take() for _ in range(count)]
            row["peak_mb"] = measure.peak_mb()
            row["turns"] = turn + 1
    for row in rows:
        taken = row.pop("taken")
        row["parts"] = {part: statistics.median(parts[part] for parts in taken) for part in taken[0]}
    return rows


def group_cost(rows: int, tiny: bool = False) -> dict[str, float]:
    """How many tokens cost as much as one more group of texts, forward and backward, in bf16.

    A token's cost is the slope between texts of 16 and of 32 tokens in one group; a group's cost is the
    slope between one group and eight of the same texts.

    Args:
        rows: texts of 16 tokens.
        tiny: with a toy in place of ViT-B-32.
    """
    model = create(tiny).to(measure.DEVICE).train()
    tower = CausalText(model)
    text = open_clip.tokenize(["a dog"] * rows).to(measure.DEVICE)

    def run(width: int, groups: int) -> float:
        def action() -> None:
            with torch.autocast(measure.DEVICE.type, torch.bfloat16):
                parts = [tower.run(part.contiguous(), True) for part in text[:, :width].chunk(groups)]
            torch.cat(parts).float().square().sum().backward()
            model.zero_grad()

        return measure.seconds(action)

    cases = [(16, 1), (32, 1), (16, 8)]
    for case in cases:
        for _ in range(1 if tiny else WARM_UP):
            run(*case)
    taken = [[run(*case) for case in cases] for _ in range(1 if tiny else STEPS)]
    short, long, split = (statistics.median(column) for column in zip(*taken, strict=True))
    token = (long - short) / (16 * rows)
    group = (split - short) / 7
    return {
        "one_group_of_16_ms": short * 1e3,
        "one_group_of_32_ms": long * 1e3,
        "eight_groups_of_16_ms": split * 1e3,
        "token_us": token * 1e6,
        "group_us": group * 1e6,
        "group_cost_tokens": group / token,
    }
