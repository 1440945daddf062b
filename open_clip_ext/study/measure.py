"""How fast a study's trainings will be: each is begun in a folder of its own, timed, stopped and removed."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from itertools import product
from pathlib import Path

from open_clip_ext.errors import InputError, TrainingError
from open_clip_ext.files import write_text
from open_clip_ext.study import parts, timing, trainer
from open_clip_ext.study.parts import Part
from open_clip_ext.study.settings import Study
from open_clip_ext.study.timing import Rate

FILE = "measured.json"  # in the study's folder
PLACE = ".measuring"  # there, too, while trainings are timed
STEPS = 20  # that are timed
# Before them: kernels are chosen and memory is taken in the first steps. Then come the batches that each
# worker of the data loader had ready meanwhile (PyTorch's `prefetch_factor`), which say nothing of its speed.
FIRST, READY = 5, 2
WORKERS = 4  # upstream's default


def remembered(out: Path) -> dict[str, Rate]:
    """What was measured, by the name of the training's folder: other settings are another training.

    Raises InputError if the file is broken.
    """
    file = out / FILE
    if not file.exists():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return {name: Rate(float(own["step"]), float(own["hours"])) for name, own in content.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(
            f"{file}: broken ({error}); remove it, and `study plan --measure` writes it again"
        ) from error


def measure(study: Study, out: Path) -> None:
    """Time the first training of each method on each base, one after the other, and remember its speed.

    Trainings whose speed is known, from here or from their own log, are left out. Those that differ in the
    weights of their base alone are timed once. The current process must be alone in `out`.

    Raises:
        InputError: what is remembered is broken.
        TrainingError: a training failed, or the plugin was not armed in it. What was measured before is kept.
    """
    from tqdm import tqdm

    known = remembered(out)
    alike: dict[tuple[str, ...], list[Part]] = {}
    for method, base in product(study.methods, study.bases):
        part, own = (
            parts.training(study, folder, method, base, study.seeds[0], method.choices()[0])
            for folder in (out, out / PLACE)
        )
        if part.folder.name not in known and timing.of(part) is None:
            rest = tuple(word for word in own.words if word not in (base.pretrained, str(own.folder)))
            alike.setdefault(rest, []).append(own)
    try:
        for same in tqdm(alike.values(), desc="measuring", unit="training", disable=None):
            known |= dict.fromkeys((part.folder.name for part in same), _timed(study, same[0]))
            _remember(out, known)
    finally:
        shutil.rmtree(out / PLACE, ignore_errors=True)


def _timed(study: Study, part: Part) -> Rate:
    # What an earlier command left that was killed is no part of this one.
    shutil.rmtree(part.folder, ignore_errors=True)
    before = FIRST + READY * int(parts.value(part.words, "workers", WORKERS))
    # Of a flag that is given twice, the last counts. Nothing of this is for a tracker of experiments.
    words = [*part.words, "--log-every-n-steps", "1", "--report-to", ""]

    def enough() -> bool:
        return timing.steps(part) >= before + STEPS

    status = trainer.run(words, study.folder, part.folder, stopped=enough)
    if (rate := timing.measured(part, before)) is None or (status and not enough()):
        why = trainer.reason(part.folder) or "it ended before its first step"
        raise TrainingError(f"--measure: {part.name}: {why} (status {status})")
    if not part.armed:
        raise TrainingError(
            f"--measure: {part.name}: it was trained without --loss: the plugin is not armed; see "
            "`open-clip-ext doctor`"
        )
    return rate


def _remember(out: Path, known: Mapping[str, Rate]) -> None:
    content = {name: dataclasses.asdict(rate) for name, rate in known.items()}
    write_text(out / FILE, json.dumps(content, indent=1) + "\n")
