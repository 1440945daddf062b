"""`open-clip-ext demo`: draw, pretrain, gate, fine-tune, score, report.

Every stage leaves a file or folder that appears only when it is whole, so a killed demo goes on
where it was.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from open_clip_ext.demo import recipe as recipes
from open_clip_ext.demo.recipe import Recipe, Schedule
from open_clip_ext.errors import InputError, TrainingError
from open_clip_ext.files import write_text

LOSSES = ("clip", "negclip", "ce-clip", "degla")
DEFAULT_OUT = Path("open-clip-ext-demo")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the demo's arguments."""
    parser.add_argument(
        "--out", type=Path, default=DEFAULT_OUT, metavar="FOLDER",
        help="where everything goes (default: %(default)s); an unfinished demo there goes on",
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="a size for tests; its numbers mean nothing")
    parser.add_argument(
        "--seeds",
        type=int,
        default=1,
        metavar="N",
        help="fine-tuning seeds per method (default: 1)",
    )
    parser.add_argument(
        "--losses",
        nargs="+",
        metavar="NAME",
        help=f"methods to compare (default: {' '.join(LOSSES)})",
    )
    parser.add_argument("--recipe", type=Path, metavar="FILE", help="settings, as a written recipe.json")
    parser.add_argument(
        "--select", action="store_true",
        help="only choose each method's learning rate, on the evaluation seed kept for that; "
        "writes recipe-selected.json",
    )  # fmt: skip


def main(args: argparse.Namespace) -> int:
    """Run the demo from parsed arguments."""
    return run(
        args.out,
        quick=args.quick,
        seeds=args.seeds,
        losses=args.losses,
        recipe_file=args.recipe,
        select=args.select,
    )


def run(
    out: Path,
    *,
    quick: bool = False,
    seeds: int = 1,
    losses: Sequence[str] | None = None,
    recipe_file: Path | None = None,
    select: bool = False,
) -> int:
    """Run the demo.

    Args:
        out: output folder: new, empty, or that of an unfinished demo with the same settings.
        quick: the small size.
        seeds: fine-tuning seeds per method.
        losses: registered losses, the built-in ones by default.
        recipe_file: settings to use instead of the built-in ones.
        select: choose learning rates instead of comparing methods.

    Returns:
        0.

    Raises:
        InputError: the call cannot be carried out.
        TrainingError: a training failed, or the base did not pass the gate.
    """
    chosen = tuple(dict.fromkeys(losses or LOSSES))
    recipe = _checked(seeds, chosen, quick, recipe_file)
    _claim(out, recipe)
    demo = Demo(out, recipe, chosen, quick)
    demo.prepare()
    if select:
        demo.select()
    else:
        demo.compare(seeds)
    return 0


def _checked(seeds: int, losses: Sequence[str], quick: bool, recipe_file: Path | None) -> Recipe:
    """The recipe, after everything that could stop a long run at its end was looked at."""
    from open_clip_ext import registry

    if seeds < 1:
        raise InputError(f"--seeds {seeds}: give at least 1")
    for loss in losses:
        registry.load(loss)
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise InputError(
            'the demo plots with matplotlib, which is not here; run `pip install "open_clip_ext[demo]"`'
        ) from error
    if recipe_file is None:
        return recipes.QUICK if quick else Recipe()
    if quick:
        raise InputError("--quick is a recipe of its own; leave out --quick or --recipe")
    if not recipe_file.is_file():
        raise InputError(f"--recipe {recipe_file}: no such file")
    return recipes.from_json(recipe_file.read_text(), f"--recipe {recipe_file}")


def _claim(out: Path, recipe: Recipe) -> None:
    """Take the output folder, if it is free or holds a demo with the same recipe."""
    written = out / "recipe.json"
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: not a folder; name another")
    if out.is_dir() and any(out.iterdir()):
        if not written.is_file():
            raise InputError(f"--out {out}: the folder is not empty and holds no demo; name another")
        if written.read_text() != recipes.to_json(recipe):
            raise InputError(
                f"--out {out}: holds a demo with other settings; name another, or give --recipe {written}"
            )
    out.mkdir(parents=True, exist_ok=True)
    write_text(written, recipes.to_json(recipe))


@dataclass(frozen=True)
class Job:
    """One fine-tuning run."""

    loss: str
    seed: int
    schedule: Schedule
    name: str


class Demo:
    """One demo in one folder."""

    def __init__(self, out: Path, recipe: Recipe, losses: Sequence[str], quick: bool) -> None:
        self.out = out.resolve()
        self.recipe = recipe
        self.losses = losses
        self.quick = quick
        self.stages: dict[str, float] = {}
        self.commands: list[str] = []
        self.options: dict[str, dict[str, float]] = {}
        self.base_scale = 0.0

    # --- stages

    def prepare(self) -> None:
        """Draw the data, pretrain the base and hold it against the gate."""
        from open_clip_ext.demo import evaluate, report, train, world

        recipe = self.recipe
        with self._stage("drawing"):
            self._draw("pretraining", world.pretraining_sample, recipe.pretraining.samples, 1)
            self._draw("fine-tuning", world.fine_tuning_sample, recipe.fine_tuning.samples, 2)
        if not self._model("untrained").exists():
            train.untrained(self._model("untrained"), recipe.world_seed)
        with self._stage("pretraining"):
            words = recipes.command(
                recipe, name="pretraining", model="models/untrained", data="shards/pretraining",
                schedule=recipe.pretraining, seed=recipe.world_seed,
                loss="clip",  # upstream's own loss draws another order of samples in every run
            )  # fmt: skip
            self._note_command(words)
            if not self._model("base").exists():
                steps = recipe.pretraining.steps(recipe.batch)
                train.run(self.out, words, steps, recipe.batch, "pretraining", self._model("base"))
        base = train.load(self._model("base"))
        self.base_scale = base.logit_scale.detach().exp().item()
        scores = evaluate.score(base, [recipe.dev_seed], recipe.test_size)
        self.checks = evaluate.gate(scores, recipe.dev_seed, recipe.test_size, recipe.gate, recipe.swap_band)
        failed = [check.name for check in self.checks if not check.passed]
        print(f"\nthe base, before fine-tuning\n{report.gate_text(self.checks)}\n", flush=True)
        if failed and not self.quick:
            raise TrainingError(
                f"the base does not pass the gate ({', '.join(failed)}): it cannot show what "
                "fine-tuning does; "
                f"pretrain longer, with a copy of {self.out / 'recipe.json'} and --recipe"
            )
        for loss in self.losses:
            self.options[loss] = recipes.tuned_options(recipe, loss, self.base_scale)

    def compare(self, seeds: int) -> None:
        """Fine-tune by every method, score, report."""
        from open_clip_ext.demo import report

        recipe = self.recipe
        jobs = [
            Job(loss, seed, recipe.schedule(loss), f"{loss}-seed{seed}")
            for seed in range(seeds)
            for loss in self.losses
        ]
        with self._stage("fine-tuning"):
            self._fine_tune(jobs)
        with self._stage("scoring"):
            rows, curves = self._score(seeds)
        text = report.text_tables(rows)
        said = report.words(rows, curves)
        markdown = report.markdown(
            recipe=recipe, rows=rows, curves=curves, checks=self.checks, options=self.options,
            base_scale=self.base_scale, stages=self.stages, quick=self.quick,
        )  # fmt: skip
        write_text(self.out / "report.md", markdown)
        write_text(self.out / "scores.json", self._scores_json(rows, curves))
        report.plot(self.out / "tradeoff.png", curves, recipe.alpha)
        print(text + "\n")
        if self.quick:
            print("a --quick run: it shows that every stage works; its numbers mean nothing\n")
        for sentence in said:
            print(f"* {sentence}")
        print(f"\n{self.out / 'report.md'}, tradeoff.png, scores.json, commands.sh, recipe.json")

    def select(self) -> None:
        """Try each learning rate for each method, on the evaluation seed kept for that."""
        from open_clip_ext.demo import evaluate, train

        recipe = self.recipe
        jobs = [
            Job(loss, 0, replace(recipe.fine_tuning, lr=lr), f"{loss}-lr{lr:g}")
            for lr in recipe.select_lr
            for loss in self.losses
        ]
        with self._stage("selection"):
            self._fine_tune(jobs)
        best: dict[str, tuple[float, float]] = {}
        print(f"evaluation seed {recipe.dev_seed}\n")
        print(f"{'':<10}{'lr':>8}{'composition':>13}{'zero-shot':>11}{'mean':>7}")
        for job in sorted(jobs, key=lambda job: self.losses.index(job.loss)):
            model = train.load(self._model(job.name))
            scores = evaluate.score(model, [recipe.dev_seed], recipe.test_size)
            comp, kept = evaluate.composition(scores), evaluate.unmentioned(scores)
            mean = (comp + kept) / 2
            print(f"{job.loss:<10}{job.schedule.lr:>8g}{comp:>13.1f}{kept:>11.1f}{mean:>7.1f}")
            best[job.loss] = max(best.get(job.loss, (-1.0, 0.0)), (mean, job.schedule.lr))
        selected = replace(recipe, lr={**recipe.lr, **{loss: lr for loss, (_, lr) in best.items()}})
        path = self.out / "recipe-selected.json"
        write_text(path, recipes.to_json(selected))
        print(f"\nchosen by the mean of both; use it with --recipe {path} and another --out")

    # --- parts

    def _model(self, name: str) -> Path:
        return self.out / "models" / name

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        print(f"{name} ...", file=sys.stderr, flush=True)
        started = time.monotonic()
        yield
        self.stages[name] = time.monotonic() - started
        print(f"{name}: {self.stages[name]:.0f} s", file=sys.stderr, flush=True)

    def _draw(self, name: str, sampler: Callable[..., Any], samples: int, seed: int) -> None:
        from tqdm import tqdm

        from open_clip_ext.demo import train, world

        target = self.out / "shards" / name
        if target.exists():
            return
        part = train.new_folder(target)
        seed += 10 * self.recipe.world_seed
        with tqdm(total=samples, desc=f"drawing for {name}", unit="picture", disable=None) as bar:
            for done in world.write_shards(part, sampler, samples, self.recipe.shards, seed):
                bar.update(done - bar.n)
        train.finish(part, target)

    def _note_command(self, words: Sequence[str]) -> None:
        """Add a command to commands.sh, with another folder for its logs."""
        self.commands.append(recipes.shown(list(words)))
        head = (
            "#!/usr/bin/env bash\n"
            "# The commands of this demo, in the folder that holds them. A second run needs a fresh\n"
            "# --name or --logs: here the logs and checkpoints go to $LOGS.\n"
            "# Between the first command and the others the demo turns the checkpoint into models/base,\n"
            "# which the others start from.\n"
            'set -eu\ncd "$(dirname "$0")"\nexport OMP_NUM_THREADS=1\n'
            "LOGS=${LOGS:-logs-$(date +%s)}\n\n"
        )
        body = "\n\n".join(text.replace("--logs logs", '--logs "$LOGS"') for text in self.commands)
        write_text(self.out / "commands.sh", head + body + "\n")

    def _fine_tune(self, jobs: Sequence[Job]) -> None:
        """Run the jobs that are not done, `at_once` at a time."""
        from open_clip_ext.demo import train

        places: SimpleQueue[int] = SimpleQueue()
        for place in range(self.recipe.at_once):
            places.put(place)

        def work(job: Job, words: list[str]) -> None:
            if self._model(job.name).exists():
                return
            place = places.get()
            try:
                steps = job.schedule.steps(self.recipe.batch)
                train.run(
                    self.out,
                    words,
                    steps,
                    self.recipe.batch,
                    job.name,
                    self._model(job.name),
                    place,
                )
            finally:
                places.put(place)

        planned = []
        for job in jobs:
            words = recipes.command(
                self.recipe, name=job.name, model="models/base", data="shards/fine-tuning",
                schedule=job.schedule, seed=job.seed, loss=job.loss, options=self.options[job.loss],
            )  # fmt: skip
            self._note_command(words)
            planned.append((job, words))
        with ThreadPoolExecutor(self.recipe.at_once) as pool:
            futures = [pool.submit(work, job, words) for job, words in planned]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def _score(self, seeds: int) -> tuple[list[Any], dict[str, list[Any]]]:
        """Rows of the tables, and the mixing curve of each method."""
        from tqdm import tqdm

        from open_clip_ext.demo import evaluate, train
        from open_clip_ext.demo.report import Row

        recipe = self.recipe
        folder = self._model("base")
        alphas = sorted({*recipe.curve, recipe.alpha, 1.0})

        def score(model: Any) -> evaluate.Scores:
            scores = evaluate.score(model, recipe.test_seeds, recipe.test_size)
            bar.update()
            return scores

        total = 1 + len(self.losses) * seeds * len(alphas)
        with tqdm(total=total, desc="scoring", unit="model", disable=None) as bar:
            base = Row("", 0.0, [score(train.load(folder))])
            rows, curves = [base], {}
            for loss in self.losses:
                tuned = [self._model(f"{loss}-seed{seed}") for seed in range(seeds)]
                notes = [json.loads((path / "run.json").read_text()) for path in tuned]
                curve = [base]
                for alpha in alphas:
                    scores = [score(train.mix(folder, path, alpha)) for path in tuned]
                    seconds = [note["seconds_training"] for note in notes] if alpha == 1 else []
                    curve.append(Row(loss, alpha, scores, notes[0]["steps"], seconds))
                curves[loss] = curve
                rows += [curve[-1], *(row for row in curve[1:-1] if row.alpha == recipe.alpha)]
        return rows, curves

    def _scores_json(self, rows: Sequence[Any], curves: Mapping[str, Sequence[Any]]) -> str:
        """Every count behind the report."""
        everything = [rows[0], *(row for curve in curves.values() for row in curve[1:])]
        return (
            json.dumps(
                [
                    {
                        "loss": row.loss,
                        "alpha": row.alpha,
                        "steps": row.steps,
                        "seconds": list(row.seconds),
                        "scores": [
                            {name: [share.right, share.n] for name, share in scores.items()}
                            for scores in row.scores
                        ],
                    }
                    for row in everything
                ],
                indent=1,
            )
            + "\n"
        )
