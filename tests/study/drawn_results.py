"""Commands of a study that draw their results: no model, but the files that the real ones write."""

from __future__ import annotations

import json
import os
from pathlib import Path

import results as drawn

from open_clip_ext.study import parts

# How well each method composes at weight 1; its zero-shot falls as it learns.
SKILL = {"base": 0.4, "clip": 0.5, "negclip": 0.7}


class Command:
    """In place of `trainer.Process`.

    Attributes:
        started: the words of all commands, in their order.
        failing: commands with this word in them fail.
        dying: how many commands are done before the study is ended.
    """

    started: list[list[str]] = []
    failing = ""
    dying = -1

    def __init__(self, words, folder, output, lock):
        if len(self.started) == self.dying:
            raise KeyboardInterrupt
        self.started.append(list(words))
        self._status = 0
        if self.failing and any(self.failing in word for word in words):
            print("open_clip_ext: it does not work; try something else", file=output, flush=True)
            self._status = 2
        elif "open_clip_train.main" in words:
            train(words)
        else:
            evaluate(words)

    def wait(self, seconds):
        return self._status

    def stop(self):
        pass


def of(words, flag):
    return words[words.index(flag) + 1]


def train(words) -> None:
    run = Path(of(words, "--logs"), parts.RUN)
    (run / "checkpoints").mkdir(parents=True, exist_ok=True)
    (run / "params.txt").write_text(f"loss: {of(words, '--loss')}\n")
    batch = "Batch (t): 0.500, 16.0/s, 16.0/s/gpu LR: 0.001"
    (run / "out.log").write_text(
        f"2026-11-29,22:14:01 | INFO | Train Epoch: 0 [16/16 (100%)] Data (t): 0.1 {batch}\n"
    )
    (run / "checkpoints" / f"epoch_{of(words, '--epochs')}.pt").write_bytes(b"weights")


def evaluate(words) -> None:
    out = Path(of(words, "--out"))
    checkpoint = of(words, "--pretrained" if "--pretrained" in words else "--ft")
    part = Path(checkpoint).parents[2].name
    method, lr = part.split("-")[1], 1e-4 if "lr-0.0001" in part else 1e-3
    seed = sum(map(ord, part))
    pictures = [Path("shown") / f"{n}.png" for n in range(24)]

    def result(folder: Path, weight: float) -> dict:
        skill = SKILL["base"] + weight * (SKILL[method] - SKILL["base"]) * (1 if lr == 1e-3 else 0.5)
        made = drawn.benchmarks(pictures, skill, 0.9 - 0.3 * weight, seed if weight else 0)
        drawn.write(folder, made)
        return made

    if "--pretrained" in words:
        result(out, 1.0)
        return
    curve = []
    first, last = words.index("--alphas") + 1, words.index("--select")
    for weight in map(float, words[first:last]):
        made = result(out / f"alpha-{weight:.3g}", weight)
        report = {name: {key: own[key] for key in ("primary", "scores")} for name, own in made.items()}
        curve.append({"alpha": weight, "folder": f"alpha-{weight:.3g}", "report": report})
    part = out / ".wiseft.json.part"
    part.write_text(json.dumps({"alpha": 0.5, "curve": curve}))
    os.replace(part, out / "wiseft.json")
