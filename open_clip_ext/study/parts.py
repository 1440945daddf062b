"""What a study has to do: trainings, and evaluations of what was trained.

A part is one command that writes one folder. The folder's name holds a digest of all settings that the part
depends on, those of earlier parts included. So a changed setting makes new parts of what depends on it and
of nothing else, and what was made before stays where it is. Nothing else is kept: a part is done when the
last file that its command writes is there.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from open_clip_ext.study.settings import Base, Flags, Method, Study, Value

RUN = "run"  # upstream's --name, in the folder of a training
EPOCHS = 32  # upstream's default
TRAIN, DEV, SWEEP = "train", "dev", "sweep"
FEATURES = "features"  # cached, in the study's folder

UNFIT = re.compile(r"[^A-Za-z0-9.+_-]+")  # for the name of a folder

# The values chosen for a method on a base; none yet if it is missing.
Chosen = Mapping[tuple[str, str], Mapping[str, Value]]


@dataclass(frozen=True)
class Part:
    """A command and what it makes.

    Attributes:
        kind: `TRAIN`, `DEV` (a training evaluated on the dev benchmarks) or `SWEEP` (its mixtures with the
            base evaluated on all benchmarks).
        method: name of the method.
        base: name of the base.
        seed: of the trainer.
        choice: values of the flags that were tried.
        folder: that it writes.
        product: the file that is there when it is done.
        words: of the command, which runs in the folder of the study's file.
        needs: what must be done first.
    """

    kind: str
    method: str
    base: str
    seed: int
    choice: Mapping[str, Value]
    folder: Path
    product: Path
    words: Sequence[str]
    needs: Sequence[Part] = ()

    @property
    def name(self) -> str:
        """For people."""
        tried = "".join(f", {flag} {value}" for flag, value in self.choice.items())
        return f"{self.kind} {self.method}, {self.base}, seed {self.seed}{tried}"

    @property
    def done(self) -> bool:
        """Whether its product is there, and is the plugin's if it is a training."""
        return self.product.is_file() and (self.kind != TRAIN or self.armed)

    @property
    def armed(self) -> bool:
        """Whether a training had its loss: without the plugin `--loss` means another option."""
        loss = self.words[list(self.words).index("--loss") + 1]
        told = self.folder / RUN / "params.txt"
        return told.is_file() and f"loss: {loss}" in told.read_text(errors="replace").splitlines()


def training(study: Study, out: Path, method: Method, base: Base, seed: int, choice: Flags) -> Part:
    """One run of the trainer."""
    own = method.on(base)
    flags = {**study.train, **own.flags, **choice}
    settings = {
        "model": base.model,
        "pretrained": base.pretrained,
        "flags": flags,
        "loss": method.loss,
        "options": own.options,
        "seed": seed,
        "processes": study.processes,
    }
    folder = _folder(out, TRAIN, method, base, seed, choice, settings)
    words = [*_launcher(study.processes), *trainer_flags(study, method, base, seed, choice, folder)]
    return Part(TRAIN, method.name, base.name, seed, choice, folder, checkpoint(folder, flags), words)


def trainer_flags(
    study: Study, method: Method, base: Base, seed: int, choice: Flags, folder: Path
) -> list[str]:
    """The flags of upstream's trainer, of the plugin's and its own."""
    own = method.on(base)
    flags: dict[str, Value] = {**study.train, **own.flags, **choice}
    options = [f"{key}={value}" for key, value in own.options.items()]
    return [
        *("--model", base.model),
        *(["--pretrained", base.pretrained] if base.pretrained else []),
        *("--loss", method.loss),
        *(["--loss-cfg", *options] if options else []),
        *_words(flags),
        *("--seed", str(seed), "--save-frequency", "0", "--save-most-recent", "--resume", "latest"),
        *("--logs", str(folder), "--name", RUN),
    ]


def epochs(words: Sequence[str]) -> int:
    """Those of a command of the trainer."""
    return int(value(words, "epochs", EPOCHS))


def value(words: Sequence[str], flag: str, default: int) -> str | int:
    """That of a flag in a command; the default if it is not given."""
    return words[list(words).index(f"--{flag}") + 1] if f"--{flag}" in words else default


def checkpoint(folder: Path, flags: Flags) -> Path:
    """The last checkpoint of a training."""
    return folder / RUN / "checkpoints" / f"epoch_{flags.get('epochs', EPOCHS)}.pt"


def dev(study: Study, out: Path, trained: Part, base: Base, method: Method) -> Part:
    """What is trained, on the dev benchmarks."""
    benchmarks = base.dev or study.dev
    folder = _folder(
        out, DEV, method, base, trained.seed, trained.choice, {"of": trained.folder.name, "dev": benchmarks}
    )
    words = [
        *_command("eval", "run", "--pretrained", str(trained.product)),
        *_each("--benchmark", benchmarks),
        *("--cache", str(out / FEATURES), "--out", str(folder)),
    ]
    return Part(
        DEV, method.name, base.name, trained.seed, trained.choice, folder, folder / "result.json", words,
        [trained],
    )  # fmt: skip


def sweep(study: Study, out: Path, trained: Part, base: Base, method: Method) -> Part:
    """The mixtures of what is trained with its base, the ends included, on all benchmarks."""
    chosen_on, reported = base.dev or study.dev, base.reported or study.reported
    settings: dict[str, Any] = {
        "of": trained.folder.name, "dev": chosen_on, "reported": reported, "weights": list(study.weights),
    }  # fmt: skip
    if base.activation:
        settings["activation"] = base.activation
    folder = _folder(out, SWEEP, method, base, trained.seed, trained.choice, settings)
    model = [] if base.model.startswith("local-dir:") else ["--model", base.model]
    words = [
        *_command("eval", "wiseft", "--base", base.pretrained or base.model, "--ft", str(trained.product)),
        *model,
        *(["--activation", base.activation] if base.activation else []),
        *("--alphas", "0", *(f"{weight:g}" for weight in sorted(study.weights)), "1"),
        *_each("--select", chosen_on),
        *_each("--report", reported),
        *("--cache", str(out / FEATURES), "--drop-features", "--out", str(folder)),
    ]
    product = folder / "wiseft.json"
    return Part(
        SWEEP, method.name, base.name, trained.seed, trained.choice, folder, product, words, [trained]
    )


def tried(study: Study, out: Path) -> Iterator[Part]:
    """The evaluations from which the values of `choose` are chosen, with the first seed alone."""
    for method in study.methods:
        for base in study.bases if method.tried else ():
            for choice in method.choices():
                trained = training(study, out, method, base, study.seeds[0], choice)
                yield dev(study, out, trained, base, method)


def sweeps(study: Study, out: Path, chosen: Chosen) -> Iterator[Part]:
    """What the results are read from. Where a value is not chosen yet, nothing."""
    for seed in study.seeds:
        for base in study.bases:
            for method in study.methods:
                choice = chosen.get((method.name, base.name)) if method.tried else {}
                if choice is not None:
                    trained = training(study, out, method, base, seed, choice)
                    yield sweep(study, out, trained, base, method)


def every(study: Study, out: Path, chosen: Chosen) -> list[Part]:
    """All parts that are known, each once, after those that it needs: trainings first."""
    last = [*tried(study, out), *sweeps(study, out, chosen)]
    found = {part.folder: part for one in last for part in one.needs}
    return [*found.values(), *last]


def unknown(study: Study, chosen: Chosen) -> int:
    """How many parts are not known yet, because a value is not chosen."""
    seeds = len(study.seeds)
    return sum(
        2 * seeds - 1  # the first seed's training is one of those tried
        for method in study.methods
        for base in study.bases
        if method.tried and (method.name, base.name) not in chosen
    )


@dataclass
class Progress:
    """Which parts are done, failed and left; a failed one is tried again by the next `study run`."""

    failed: dict[Path, str] = field(default_factory=dict)

    def ready(self, parts: Sequence[Part]) -> list[Part]:
        """What can be done now."""
        return [
            part
            for part in parts
            if not part.done and part.folder not in self.failed and all(need.done for need in part.needs)
        ]


def _launcher(processes: int) -> list[str]:
    if processes == 1:
        return [sys.executable, "-m", "open_clip_train.main"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*torchrun, "--nproc-per-node", str(processes), "-m", "--", "open_clip_train.main"]


def _command(*words: str) -> list[str]:
    return [sys.executable, "-m", "open_clip_ext.cli", *words]


def _words(flags: Flags) -> list[str]:
    """Flags as words: true is the flag alone, false is no flag, a list is several words."""
    words = []
    for flag, value in flags.items():
        if value is False:
            continue
        words.append(f"--{flag}")
        if value is not True:
            words += map(str, value if isinstance(value, list) else [value])
    return words


def _each(flag: str, benchmarks: Sequence[Sequence[str]]) -> list[str]:
    return [word for benchmark in benchmarks for word in (flag, *benchmark)]


def _folder(
    out: Path, kind: str, method: Method, base: Base, seed: int, choice: Flags, settings: Mapping[str, Any]
) -> Path:
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:10]
    # A value may be a path: the name must stay that of one folder. The digest tells alike names apart.
    tried = "".join(f"-{flag}-{UNFIT.sub('_', str(value))[-40:]}" for flag, value in choice.items())
    return out / "parts" / f"{kind}-{method.name}-{base.name}-{seed}{tried}-{digest}"
