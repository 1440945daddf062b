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
from typing import IO, Any

from tqdm import tqdm

from open_clip_ext.demo import recipe as recipes
from open_clip_ext.demo.recipe import Schedule
from open_clip_ext.errors import TrainingError

Weights = Mapping[str, Any]

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
EARLIER = "epoch_{}.safetensors"
PROGRESS = re.compile(r"Train Epoch: (\d+) \[ *(\d+)/(\d+)")
LOSS = re.compile(r"(?:^|\s)Loss: ([-+.\deE]+|nan|inf)")
ERROR = re.compile(r"[\w.]*(Error|Exception|Interrupt)\b")


def new_folder(target: Path) -> Path:
    """An empty folder to fill. `finish` renames it to `target`, so that `target` is always complete."""
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    return part


def finish(part: Path, target: Path) -> None:
    """Rename a filled folder to its final name."""
    os.replace(part, target)


def write_model(
    target: Path,
    config: Mapping[str, Any],
    weights: Weights,
    note: Mapping[str, Any],
    earlier: Mapping[int, Weights] | None = None,
) -> None:
    """A model folder for `--model local-dir:...`.

    Args:
        target: the folder.
        config: of the model, as upstream reads it.
        weights: of the model.
        note: the content of its run.json.
        earlier: the weights after each earlier epoch, for `load`.
    """
    from safetensors.torch import save_file

    part = new_folder(target)
    (part / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    (part / "run.json").write_text(json.dumps(note, indent=2) + "\n")
    for name, values in [(WEIGHTS, weights), *((EARLIER.format(n), w) for n, w in (earlier or {}).items())]:
        save_file({key: value.contiguous() for key, value in values.items()}, part / name)
    finish(part, target)


def untrained(target: Path, config: Mapping[str, Any], seed: int) -> None:
    """The model before pretraining."""
    import open_clip
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.CLIP(**config["model_cfg"])
    write_model(target, config, model.state_dict(), {"seed": seed})


def load(folder: Path, epoch: int | None = None) -> Any:
    """The model in a folder, final or after an earlier epoch, in eval mode."""
    import open_clip
    from safetensors.torch import load_file

    model = open_clip.create_model(f"local-dir:{folder}", device="cpu", precision="fp32").eval()
    if epoch is not None:
        model.load_state_dict(load_file(folder / EARLIER.format(epoch)))
    return model


def _weights(checkpoint: Path) -> Weights:
    import torch

    values = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    return {key.removeprefix("module."): value for key, value in values.items()}


class Trainer:
    """A started trainer.

    Args:
        words: the command, as `recipe.command` makes it.
        folder: that it runs in.
        output: what it prints goes there.
    """

    def __init__(self, words: list[str], folder: Path, output: IO[str]) -> None:
        self._process = subprocess.Popen(
            recipes.runnable(words),
            cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )

    def poll(self) -> tuple[int, float] | None:
        """Its exit status, and the CPU seconds that it and its loader took; None while it runs."""
        ended, status, used = os.wait4(self._process.pid, os.WNOHANG)
        if not ended:
            return None
        self._process.returncode = os.waitstatus_to_exitcode(status)
        return self._process.returncode, used.ru_utime + used.ru_stime

    def stop(self) -> None:
        """End it, if it runs."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._process.kill()


def run(out: Path, words: list[str], schedule: Schedule, label: str, target: Path, place: int = 0) -> None:
    """Run the trainer and store its final model, and those of the saved epochs, in the folder `target`.

    The exit status is not enough (upstream exits with 0 when it refuses an experiment name). So the last
    checkpoint must exist, and the run's params.txt must name the requested loss.

    Args:
        out: the folder that the paths in the command are relative to.
        words: the command, as `recipe.command` makes it.
        schedule: of the same run, for the progress bar.
        label: of the progress bar.
        target: the folder for the model.
        place: line of the progress bar, for simultaneous runs.

    Raises:
        TrainingError: the trainer failed.
    """
    name = words[words.index("--name") + 1]
    epochs = int(words[words.index("--epochs") + 1])
    folder = out / words[words.index("--logs") + 1] / name
    shutil.rmtree(folder, ignore_errors=True)  # left by a killed run; upstream would refuse the name
    folder.parent.mkdir(parents=True, exist_ok=True)
    printed = folder.with_name(name + ".txt")
    started = time.monotonic()
    with (
        printed.open("w") as stream,
        tqdm(total=schedule.steps, desc=label, unit="step", disable=None, position=place) as bar,
    ):
        trainer = Trainer(words, out, stream)
        try:
            log, position = folder / "out.log", 0
            while True:
                ended = trainer.poll()
                if log.exists():
                    with log.open(errors="replace") as lines:
                        lines.seek(position)
                        new = lines.read()
                        position = lines.tell()
                    reports = PROGRESS.findall(new)
                    if reports:
                        epoch, done, size = map(int, reports[-1])
                        bar.update(min(schedule.steps, (epoch * size + done) // schedule.batch) - bar.n)
                        losses = LOSS.findall(new)
                        if losses:
                            bar.set_postfix(loss=losses[-1])
                if ended is not None:
                    break
                time.sleep(0.2)
        finally:
            trainer.stop()

    status, cpu_seconds = ended
    checkpoint = folder / "checkpoints" / f"epoch_{epochs}.pt"
    if status != 0 or not checkpoint.exists():
        tail = [line for line in printed.read_text(errors="replace").splitlines() if line.strip()]
        reason = next((s for s in reversed(tail) if s.startswith("open_clip_ext:")), "")
        errors = [line for line in tail if ERROR.match(line)]
        reason = reason or (errors[-1].strip() if errors else "it left no checkpoint")
        raise TrainingError(f"the trainer failed on {name} ({reason}); its output is in {printed}")
    loss = words[words.index("--loss") + 1]
    if f"loss: {loss}" not in (folder / "params.txt").read_text().splitlines():
        raise TrainingError(
            f"{name} was trained without --loss {loss}: the plugin is not armed in this interpreter; "
            "see `open-clip-ext doctor`"
        )
    checkpoints = {n: checkpoint.with_name(f"epoch_{n}.pt") for n in range(1, epochs)}
    earlier = {n: _weights(path) for n, path in checkpoints.items() if path.exists()}
    note = {
        "command": words,
        "steps": schedule.steps,
        "seconds": round(time.monotonic() - started, 2),
        "cpu_seconds": round(cpu_seconds, 2),
    }
    start = words[words.index("--model") + 1].removeprefix("local-dir:")
    config = json.loads((out / start / CONFIG).read_text())
    write_model(target, config, _weights(checkpoint), note, earlier)
    shutil.rmtree(checkpoint.parent)  # mostly optimizer state; the weights are in `target`


def mix(base: Path, tuned: Path, alpha: float) -> Any:
    """The model with weights `alpha * tuned + (1 - alpha) * base`."""
    from open_clip_ext.evaluation.weights import interpolate

    model = load(base)
    model.load_state_dict(interpolate(model.state_dict(), load(tuned).state_dict(), alpha))
    return model
