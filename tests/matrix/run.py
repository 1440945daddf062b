"""Install each release of open_clip_torch with the oldest and the newest torch, and train and resume with it.

    make matrix
    python tests/matrix/run.py --oldest      the oldest pair alone, as CI does; writes no page

What passed is not run again without --again. build/matrix has results, logs and, one at a time, the
environments (6 GB). pip takes its index, constraints and cache from its own settings: with an index of CPU
builds of torch it is quicker. Exit status 1 if a pair failed.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import date
from itertools import groupby
from pathlib import Path
from typing import IO, Any

sys.path.extend([str(Path(__file__).parent), str(Path(__file__).parents[1])])

import environments
import support
from corners import SHOWN, STEPS, Corner, Outcome, choose, fitting, load, reason, rewrite, table
from environments import Environment
from tqdm import tqdm

from open_clip_ext import __version__, errors
from open_clip_ext.model.checkpoints import numpy_numbers

OUT = environments.ROOT / "build" / "matrix"
PIP = (sys.executable, "-m", "pip")
MODEL = "open-clip-ext-drawn"
TERMS = ("contrastive_loss", "igc_loss", "tgc_loss", "distill_loss", "loss")
SAMPLES, BATCH, EPOCHS = 64, 4, 2
LAST = f"epoch_{EPOCHS}.pt"
LIMIT = 300
VERSIONS = f"""
import json
from importlib.metadata import version
print(json.dumps({{name: version(name) for name in {SHOWN}}}))
"""


class Failed(Exception):
    """One sentence."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--oldest", action="store_true", help="the oldest pair alone; writes no page")
    parser.add_argument("--again", action="store_true", help="also what has passed before")
    parser.add_argument("--page", type=Path, default=environments.ROOT / "docs" / "compatibility.md")
    args = parser.parse_args()

    OUT.mkdir(parents=True, exist_ok=True)
    corners = plan(args.oldest)
    left = [c for c in corners if args.again or not load(result(c)).whole]
    with ExitStack() as stack:
        bar = stack.enter_context(tqdm(total=len(left), unit="pair"))
        data = support.write_csv(OUT / "data", support.photos(SAMPLES))
        wheel = environments.build_wheel(stack.enter_context(fresh(OUT / "wheel"))) if left else Path()
        # Only open_clip_torch differs between those of one torch: 2 MB of 6 GB.
        for torch, group in groupby(left, key=lambda corner: corner.torch):
            with fresh(OUT / f"torch-{torch or 'newest'}") as folder:
                made = environments.create(folder)
                for corner in group:
                    bar.set_description(corner.name)
                    began = time.monotonic()
                    outcome = run(corner, made, wheel, data)
                    outcome.save(result(corner))
                    what = outcome.why or "passed"
                    bar.write(f"{corner.name}: {what}, {time.monotonic() - began:.0f} s", file=sys.stderr)
                    bar.update()
    outcomes = {corner: load(result(corner)) for corner in corners}
    if not args.oldest:
        rewrite(args.page, table(outcomes))
    return 0 if all(outcome.whole for outcome in outcomes.values()) else 1


def plan(oldest: bool) -> list[Corner]:
    """The corners, from our requirements and from what the index has for this interpreter."""
    ours = tomllib.loads((environments.ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    releases = fitting(ours, "open_clip_torch", index("open_clip_torch"))[: 1 if oldest else None]
    corners = choose(ours, {release: requirements(release) for release in releases}, index("torch"))
    return corners[: 1 if oldest else None]


def index(package: str) -> list[str]:
    """The versions that pip finds."""
    return list(json.loads(ask("index", "versions", "--json", package))["versions"])


def requirements(release: str) -> list[str]:
    """What a release of open_clip_torch requires, its extras included."""
    options = ("--dry-run", "--no-deps", "--ignore-installed", "--quiet", "--report", "-")
    (found,) = json.loads(ask("install", *options, f"open_clip_torch=={release}"))["install"]
    return list(found["metadata"]["requires_dist"])


def ask(*arguments: str) -> str:
    """What pip answers; its warnings go to the terminal."""
    return subprocess.run([*PIP, *arguments], stdout=subprocess.PIPE, text=True, check=True).stdout


def result(corner: Corner) -> Path:
    return OUT / f"{corner.name}.json"


@contextmanager
def fresh(folder: Path) -> Iterator[Path]:
    """An empty folder that is gone afterwards, as is what a killed run left there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def run(corner: Corner, made: Environment, wheel: Path, data: Path) -> Outcome:
    """All steps, until one fails."""
    outcome = Outcome(where=f"{date.today()} with {machine()}")
    with fresh(OUT / f"{corner.name}-runs") as folder, result(corner).with_suffix(".log").open("w+") as log:
        trial = Trial(made, folder, data, log)
        steps: tuple[Callable[[], None], ...] = (
            lambda: outcome.installed.update(trial.install(corner, wheel)),
            *(trial.doctor, trial.training, trial.resume),
        )
        for name, step in zip(STEPS, steps, strict=True):
            try:
                step()
            except Failed as failure:
                outcome.why = f"{name}: {failure}"
                break
            outcome.passed.append(name)
    return outcome


def machine() -> str:
    system = f"{platform.system()} {platform.machine()}"
    return f"Python {platform.python_version()} on {system}, open_clip_ext {__version__}"


class Trial:
    """The steps of one corner, in an environment; what they print goes to a log."""

    def __init__(self, made: Environment, folder: Path, data: Path, log: IO[str]) -> None:
        self.made, self.folder, self.log = made, folder, log
        self.flags = (
            *(*support.COMMON, "--batch-size", BATCH, "--epochs", EPOCHS, "--loss", "degla"),
            *("--model", MODEL, "--train-data", data, "--csv-separator", ",", "--logs", folder),
        )

    def install(self, corner: Corner, wheel: Path) -> dict[str, str]:
        """pip chooses what is not pinned. The versions it chose."""
        torch = f"torch=={corner.torch}" if corner.torch else "torch"
        what = (wheel, f"open_clip_torch=={corner.release}", torch, "torchvision")
        options = ("--upgrade", "--no-compile", "--progress-bar", "off")
        self.done(*PIP, "--python", self.made.python, "install", *options, *what, limit=3600)
        # Releases before 3.0 have no models in folders of the user.
        config = self.made.site / "open_clip" / "model_configs" / f"{MODEL}.json"
        config.write_text(json.dumps(support.MODEL["model_cfg"]))
        return dict(json.loads(self.done(self.made.python, "-c", VERSIONS).splitlines()[-1]))

    def doctor(self) -> None:
        self.done(
            self.made.folder / "bin" / "open-clip-ext", "doctor", "--", *self.flags, "--name", "unstopped"
        )

    def training(self) -> None:
        """Every step logs all terms, and the teacher is in the checkpoint."""
        unstopped = self.unstopped = self.train("unstopped")
        steps = EPOCHS * SAMPLES // BATCH
        for term in TERMS:
            values = unstopped.values(term)
            if len(values) != steps or not all(map(math.isfinite, values)):
                raise Failed(f"{term} is not a finite number in each of {steps} steps")
        if not last(unstopped)["optimizer"]["open_clip_ext"]["teacher"]:
            raise Failed("there is no teacher in the checkpoint")

    def resume(self) -> None:
        """A run that was stopped within an epoch ends where the one that was not did."""
        checkpoints = self.folder / "stopped" / "checkpoints"
        saves = ("--save-every-steps", 1)
        stopped = self.train(
            "stopped", *saves, status=errors.STOPPED, stop=lambda: any(checkpoints.glob("epoch_0_*.pt"))
        )
        names = [path.name for path in checkpoints.glob("*.pt")]
        if len(names) != 1 or "_step_" not in names[0]:
            raise Failed(f"a run that was stopped within an epoch left {names}")
        resumed = self.train("stopped", "--resume", "latest")
        if stopped.values("loss") + resumed.values("loss") != self.unstopped.values("loss"):
            raise Failed("the losses are not those of the run that was not stopped")
        try:
            support.assert_same({**last(self.unstopped), "name": ""}, {**last(resumed), "name": ""})
        except AssertionError as difference:
            raise Failed(f"the last checkpoint differs at {difference}") from None

    def train(
        self, name: str, *flags: object, status: int = 0, stop: Callable[[], bool] | None = None
    ) -> support.Finished:
        command = (self.made.python, "-m", "open_clip_train.main", *self.flags, "--name", name, *flags)
        return support.Finished(status, self.done(*command, status=status, stop=stop), self.folder / name)

    def done(
        self, *command: object, status: int = 0, limit: float = LIMIT, stop: Callable[[], bool] | None = None
    ) -> str:
        """What a command prints.

        Args:
            status: the exit status it must have.
            limit: seconds.
            stop: once it says so, the command gets a SIGTERM.

        Raises:
            Failed: It has another status, or takes longer.
        """
        words = list(map(str, command))
        print("$", *words, file=self.log, flush=True)
        begin = self.log.tell()
        env = {**support.ENVIRONMENT, "CUDA_VISIBLE_DEVICES": ""}
        env = {name: value for name, value in env.items() if name not in ("PYTHONPATH", "OPEN_CLIP_EXT")}
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            env=env,
            cwd=self.folder,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + limit
            while process.poll() is None:
                if time.monotonic() > deadline:
                    raise Failed(f"not within {limit:.0f} s")
                if stop and stop():
                    process.terminate()
                    stop = None
                time.sleep(0.01)
        finally:
            support.end(process)
        self.log.seek(begin)
        printed = self.log.read()
        if process.returncode != status:
            raise Failed(f"exit status {process.returncode}: {reason(printed)}")
        return printed


def last(run: support.Finished) -> dict[str, Any]:
    """The checkpoint after the last epoch."""
    with numpy_numbers():
        return dict(run.checkpoint(LAST))


if __name__ == "__main__":
    sys.exit(main())
