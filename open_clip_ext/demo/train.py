"""Models in folders that upstream reads, and runs of upstream's real trainer."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from open_clip_ext.demo import recipe as recipes
from open_clip_ext.errors import TrainingError

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
PROGRESS = re.compile(r"Train Epoch: (\d+) \[ *(\d+)/(\d+)")
LOSS = re.compile(r"(?:^|\s)Loss: ([-+.\deE]+|nan|inf)")
ERROR = re.compile(r"[\w.]*(Error|Exception|Interrupt)\b")
LOSS_STARTED = re.compile(r"Start epoch (\d+)")


def new_folder(target: Path) -> Path:
    """An empty folder to fill; `finish` names it, so that a folder with its name is whole."""
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    return part


def finish(part: Path, target: Path) -> None:
    """Give a filled folder its name."""
    os.replace(part, target)


def write_model(target: Path, weights: Mapping[str, Any], note: Mapping[str, Any]) -> None:
    """A model folder for `--model local-dir:...`; `note` goes into its run.json."""
    from safetensors.torch import save_file

    part = new_folder(target)
    (part / CONFIG).write_text(json.dumps(recipes.MODEL, indent=2) + "\n")
    save_file({key: value.contiguous() for key, value in weights.items()}, part / WEIGHTS)
    (part / "run.json").write_text(json.dumps(note, indent=2) + "\n")
    finish(part, target)


def untrained(target: Path, seed: int) -> None:
    """The model before pretraining."""
    import open_clip
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.CLIP(**recipes.MODEL["model_cfg"])
    write_model(target, model.state_dict(), {"seed": seed})


def load(folder: Path) -> Any:
    """The model in a folder, in eval mode."""
    import open_clip

    return open_clip.create_model(f"local-dir:{folder}", device="cpu", precision="fp32").eval()


def run(
    out: Path, words: list[str], steps: int, batch: int, label: str, target: Path, place: int = 0
) -> None:
    """Run the trainer and put its model into the folder `target`.

    The exit status proves nothing (upstream's is 0 when it refuses an experiment name), so the last
    checkpoint must exist, and the run's own record must name the loss that was asked for.

    Args:
        out: the folder that the paths in the command are relative to.
        words: the command, as `recipe.command` makes it.
        steps: optimizer steps, for the progress bar.
        batch: samples per step.
        label: of the progress bar.
        target: where the model goes.
        place: line of the progress bar, for runs at the same time.

    Raises:
        TrainingError: the trainer failed.
    """
    import torch

    name = words[words.index("--name") + 1]
    epochs = int(words[words.index("--epochs") + 1])
    folder = out / words[words.index("--logs") + 1] / name
    shutil.rmtree(folder, ignore_errors=True)  # what a killed run left; upstream would refuse the name
    folder.parent.mkdir(parents=True, exist_ok=True)
    printed = folder.with_name(name + ".txt")
    started = time.monotonic()
    first_step = last_step = 0.0
    seconds_before = 0.0
    with (
        printed.open("w") as stream,
        tqdm(total=steps, desc=label, unit="step", disable=None, position=place) as bar,
    ):
        process = subprocess.Popen(
            recipes.runnable(words),
            cwd=out,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
        try:
            log, position = folder / "out.log", 0
            while True:
                over = process.poll() is not None
                if log.exists():
                    with log.open(errors="replace") as lines:
                        lines.seek(position)
                        new = lines.read()
                        position = lines.tell()
                    if not first_step and LOSS_STARTED.search(new):
                        first_step = time.monotonic()
                        seconds_before = first_step - started
                    reports = PROGRESS.findall(new)
                    if reports:
                        epoch, done, size = map(int, reports[-1])
                        last_step = time.monotonic()
                        bar.update(min(steps, (epoch * size + done) // batch) - bar.n)
                        losses = LOSS.findall(new)
                        if losses:
                            bar.set_postfix(loss=losses[-1])
                if over:
                    break
                time.sleep(0.2)
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(timeout=10)
                except subprocess.TimeoutExpired:
                    process.kill()

    checkpoint = folder / "checkpoints" / f"epoch_{epochs}.pt"
    if process.returncode != 0 or not checkpoint.exists():
        tail = [line for line in printed.read_text(errors="replace").splitlines() if line.strip()]
        reason = next((s for s in reversed(tail) if s.startswith("open_clip_ext:")), "")
        # torchrun adds an error of its own that says only that there was one.
        errors = [line for line in tail if ERROR.match(line) and "ChildFailedError" not in line]
        reason = reason or (errors[-1].strip() if errors else "it left no checkpoint")
        raise TrainingError(f"the trainer failed on {name} ({reason}); all it printed is in {printed}")
    if "--loss" in words:
        loss = words[words.index("--loss") + 1]
        if f"loss: {loss}" not in (folder / "params.txt").read_text().splitlines():
            raise TrainingError(
                f"{name} was trained without --loss {loss}: the plugin is not armed in this interpreter; "
                "see `open-clip-ext doctor`"
            )
    weights = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    weights = {key.removeprefix("module."): value for key, value in weights.items()}
    note = {
        "command": words,
        "steps": steps,
        "seconds": round(time.monotonic() - started, 2),
        "seconds_start_up": round(seconds_before, 2),
        "seconds_training": round(last_step - first_step, 2),
    }
    write_model(target, weights, note)
    checkpoint.unlink()  # 90 MB, most of it optimizer state; the weights are in `target`


def mix(base: Path, tuned: Path, alpha: float) -> Any:
    """The model with weights `alpha * tuned + (1 - alpha) * base`."""
    from open_clip_ext.evaluation.weights import interpolate

    model = load(base)
    model.load_state_dict(interpolate(model.state_dict(), load(tuned).state_dict(), alpha))
    return model
