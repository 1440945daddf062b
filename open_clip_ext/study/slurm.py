"""A study's parts as SLURM jobs: arrays of trainings, of their evaluations, and a last job that goes on.

What is ready is one array of trainings. A second array evaluates them, each task when its training is done.
The last job waits for both. It runs this command again, which submits what has become ready since (the other
seeds of a value that is chosen now), or writes the page. SLURM is the engine: it starts, requeues and ends.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from open_clip_ext.errors import InputError
from open_clip_ext.files import write_text
from open_clip_ext.study import parts, results
from open_clip_ext.study.parts import Part
from open_clip_ext.study.settings import Study

SCRIPT = "study.slurm"
# Settings of train.sh that the study gives as flags, if at all.
UNSET = (
    *("EPOCHS", "LR", "WD", "WARMUP", "LOSS_CFG", "COMPANIONS", "COMPANION_KEYS", "NEGATIVES"),
    *("MODEL_FLAGS", "EXTRA_FLAGS", "TRAIN_NUM_SAMPLES", "DATASET_TYPE", "CSV_SEPARATOR"),
)
# Of the flags for trainings, those that the last job needs, too: it computes next to nothing.
WHERE = re.compile(r"(-p|-A|-q|--partition|--account|--qos|--reservation|--clusters)(=.*)?")


def submit(study: Study, out: Path, flags: Sequence[str], launch: Path, tried: Sequence[str] = ()) -> str:
    """Submit what is left and ready, and the job that goes on after it.

    Args:
        study: the study.
        out: its folder, on a file system that all nodes see.
        flags: of sbatch, for trainings and evaluations.
        launch: the folder with `study.slurm` and `train.sh`.
        tried: names of the parts' folders that jobs before this one were to do; they are not tried again.

    Returns:
        What was submitted, in a sentence; empty if nothing is left that can be done.

    Raises InputError if there is no such script, or sbatch refuses.
    """
    script = launch / SCRIPT
    if not script.is_file():
        raise InputError(f"--launch {launch}: no {SCRIPT} in it; name the launch folder of open_clip_ext")
    known = parts.every(study, out, results.chosen(study, out))
    left = [part for part in known if not part.done and part.folder.name not in tried]
    trainings = [part for part in left if part.kind == parts.TRAIN]
    evaluated = {
        part.folder: [one for one in left if part in one.needs] for part in known if part.kind == parts.TRAIN
    }
    # Those of trainings that jobs before this one did not finish cannot be done either.
    waiting = [path for path, own in evaluated.items() if own and path in {p.folder for p in trainings}]
    ready = [path for path, own in evaluated.items() if own and _done(known, path)]
    if not (trainings or ready):
        return ""
    logs = out / "slurm"
    logs.mkdir(exist_ok=True)
    stage = len(list(logs.glob("stage-*.json"))) + 1
    for part in left:
        _write(part, study)
    jobs = []
    common = [*flags, f"--output={logs}/%x-%A_%a.log"]
    end = [out / "parts", study.folder, launch]
    before = ""
    if trainings:
        order = sorted(trainings, key=lambda part: part.folder not in waiting)
        tasks = [[part.folder] for part in order]
        before = _array(
            logs / f"stage-{stage}-train",
            tasks,
            [*common, f"--job-name={study.file.stem}-train"],
            script,
            end,
        )
        jobs.append(before)
        if waiting:
            tasks = [
                [one.folder for one in evaluated[part.folder]] for part in order if part.folder in waiting
            ]
            name = [*common, f"--job-name={study.file.stem}-eval", f"--dependency=aftercorr:{before}"]
            name.append("--kill-on-invalid-dep=yes")
            jobs.append(_array(logs / f"stage-{stage}-eval", tasks, name, script, end))
    if ready:
        tasks = [[one.folder for one in evaluated[path]] for path in ready]
        name = [*common, f"--job-name={study.file.stem}-eval"]
        jobs.append(_array(logs / f"stage-{stage}-ready", tasks, name, script, end))
    write_text(
        logs / f"stage-{stage}.json",
        json.dumps({"tried": [*tried, *(part.folder.name for part in left)], "jobs": jobs}) + "\n",
    )
    again = [
        sys.executable, "-m", "open_clip_ext.cli", "study", "run", str(study.file), "--out", str(out),
        "--launch", str(launch), "--after", str(logs / f"stage-{stage}.json"), "--slurm", *flags,
    ]  # fmt: skip
    last = _sbatch(
        [
            *_where(flags), f"--job-name={study.file.stem}-next", f"--output={logs}/%x-%j.log",
            f"--dependency=afterany:{':'.join(jobs)}", f"--wrap={shlex.join(again)}",
        ]
    )  # fmt: skip
    evaluations = len(left) - len(trainings)
    return (
        f"submitted {len(trainings)} trainings and {evaluations} evaluations as jobs {', '.join(jobs)}; "
        f"job {last} goes on after them. Their output is in {logs}"
    )


def tried(after: Path) -> list[str]:
    """The parts that the jobs of a stage and those before it were to do."""
    found: list[str] = json.loads(after.read_text(encoding="utf-8"))["tried"]
    return found


def unfinished(study: Study, out: Path, names: Sequence[str]) -> dict[Path, str]:
    """Parts that jobs were to do and did not, with where to look."""
    known = parts.every(study, out, results.chosen(study, out))
    return {
        part.folder: f"its job did not finish it; see {out / 'slurm'}"
        for part in known
        if part.folder.name in names and not part.done
    }


def _done(known: Sequence[Part], folder: Path) -> bool:
    return next(part for part in known if part.folder == folder).done


def _write(part: Part, study: Study) -> None:
    """What the job's script reads: the command's words, each ended by a NUL, or what `train.sh` wants."""
    part.folder.mkdir(parents=True, exist_ok=True)
    words = list(part.words)
    if part.kind == parts.TRAIN:
        words = words[words.index("open_clip_train.main") + 1 :]
        batch, accum = (
            _value(words, flag, default) for flag, default in (("--batch-size", 64), ("--accum-freq", 1))
        )
        values = {
            "MODEL": _text(words, "--model"),
            "PRETRAINED": _text(words, "--pretrained"),
            "TRAIN_DATA": _text(words, "--train-data") or "synthetic",
            "LOSS": _text(words, "--loss"),
            "GLOBAL_BATCH": str(batch * accum * study.processes),
            "ACCUM": str(accum),
            "SEED": _text(words, "--seed"),
            "LOGS": str(part.folder),
            "NAME": parts.RUN,
        }
        for flag in ("--batch-size", "--accum-freq"):  # train.sh splits the global batch itself
            if flag in words:
                del words[words.index(flag) : words.index(flag) + 2]
        # What the shell that submits has of these must not get into the run.
        values |= dict.fromkeys(UNSET, "")
        settings = "".join(f"{key}={shlex.quote(value)}\n" for key, value in values.items())
        write_text(part.folder / "settings.sh", f"# shellcheck shell=bash\n{settings}")
    write_text(part.folder / "words", "".join(f"{word}\0" for word in words))


def _text(words: Sequence[str], flag: str) -> str:
    return words[list(words).index(flag) + 1] if flag in words else ""


def _value(words: Sequence[str], flag: str, default: int) -> int:
    return int(_text(words, flag) or default)


def _array(
    file: Path, tasks: Sequence[Sequence[Path]], flags: Sequence[str], script: Path, places: Sequence[Path]
) -> str:
    """Submit an array whose task k does the parts in line k of a file; its job's number."""
    write_text(file, "".join(" ".join(path.name for path in task) + "\n" for task in tasks))
    return _sbatch([*flags, f"--array=0-{len(tasks) - 1}", str(script), str(file), *map(str, places)])


def _where(flags: Sequence[str]) -> list[str]:
    found = []
    for place, flag in enumerate(flags):
        if match := WHERE.fullmatch(flag):
            found += [flag] if match[2] else list(flags[place : place + 2])
    return found


def _sbatch(words: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            ["sbatch", "--parsable", *words], capture_output=True, text=True, check=False, env=_environment()
        )
    except FileNotFoundError as error:
        raise InputError("--slurm: there is no sbatch here; run it where jobs are submitted") from error
    if done.returncode:
        raise InputError(f"--slurm: sbatch refused: {'; '.join(done.stderr.splitlines())}")
    return done.stdout.strip().split(";")[0]


def _environment() -> dict[str, str]:
    """Without what SLURM sets inside a job, which `sbatch` would take for options of the new one."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "SBATCH_"))} | {
        key: value for key, value in os.environ.items() if key in ("SLURM_CONF",)
    }
