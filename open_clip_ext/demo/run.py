"""`open-clip-ext demo`: draw, pretrain, gate, fine-tune, score, report.

The result of every stage is a file or folder that appears only when it is complete, so a killed demo
continues where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from statistics import fmean
from typing import TYPE_CHECKING, Any

from open_clip_ext.demo import recipe as recipes
from open_clip_ext.demo.methods import Method, methods
from open_clip_ext.demo.recipe import Recipe, Schedule
from open_clip_ext.errors import InputError, TrainingError
from open_clip_ext.files import atomic_write, write_text

if TYPE_CHECKING:
    from open_clip_ext.demo.evaluate import Check, Scores
    from open_clip_ext.demo.report import Course, Row
    from open_clip_ext.demo.shards import Sample

LOSSES = ("clip", "negclip", "ce-clip", "degla")
DEFAULT_OUT = Path("open-clip-ext-demo")
FOLDER = "base-{}"  # of one base, in the output folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the demo's arguments."""
    parser.add_argument(
        "--out", type=Path, default=DEFAULT_OUT, metavar="FOLDER",
        help="output folder (default: %(default)s); an unfinished demo there is continued",
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="a size for tests; its numbers are meaningless")
    parser.add_argument(
        "--bases", type=int, default=2, metavar="N",
        help="pretrained models to start from (default: %(default)s): the spread over them is the noise",
    )  # fmt: skip
    parser.add_argument(
        "--seeds", type=int, default=1, metavar="N",
        help="fine-tuning seeds per method and base (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--world-seed", type=int, metavar="N",
        help="seed of everything drawn (default: 0); worlds of different seeds share nothing",
    )  # fmt: skip
    parser.add_argument(
        "--losses",
        nargs="+",
        metavar="NAME",
        help=f"methods to compare (default: {' '.join(LOSSES)}): losses; LOSS+images, with the companion "
        "images that the loss takes if asked; all, every loss of this package",
    )
    parser.add_argument(
        "--siglip", action="store_true",
        help="models with a logit bias, so that losses are SigLIP's",
    )  # fmt: skip
    parser.add_argument("--recipe", type=Path, metavar="FILE", help="settings, in the format of recipe.json")
    parser.add_argument(
        "--select", action="store_true",
        help="only select each method's learning rate, on the evaluation seed reserved for that; "
        "writes recipe-selected.json",
    )  # fmt: skip


def main(args: argparse.Namespace) -> int:
    """Run the demo from parsed arguments."""
    return run(
        args.out,
        quick=args.quick,
        bases=args.bases,
        seeds=args.seeds,
        world_seed=args.world_seed,
        losses=args.losses,
        siglip=args.siglip,
        recipe_file=args.recipe,
        select=args.select,
    )


def run(
    out: Path,
    *,
    quick: bool = False,
    bases: int = 2,
    seeds: int = 1,
    world_seed: int | None = None,
    losses: Sequence[str] | None = None,
    siglip: bool = False,
    recipe_file: Path | None = None,
    select: bool = False,
) -> int:
    """Run the demo.

    Args:
        out: output folder: new, empty, or that of a demo with the same recipe, which is continued.
        quick: the small size.
        bases: pretrained models to start from.
        seeds: fine-tuning seeds per method and base.
        world_seed: replaces that of the recipe.
        losses: what to compare, as `methods.methods` reads it.
        siglip: models with a logit bias, whatever the recipe says.
        recipe_file: settings to use instead of the built-in ones.
        select: choose learning rates instead of comparing methods.

    Returns:
        0.

    Raises:
        InputError: the arguments are wrong.
        TrainingError: a training failed, or a base did not pass the gate.
    """
    chosen = methods(losses or LOSSES)
    recipe = _checked(bases, seeds, quick, recipe_file)
    if world_seed is not None:
        recipe = replace(recipe, world_seed=world_seed)
    if siglip:
        recipe = replace(recipe, siglip=True)
    _claim(out, recipe)
    demo = Demo(out, recipe, bases, chosen, quick)
    demo.prepare()
    if select:
        demo.select()
    else:
        demo.compare(seeds)
    return 0


def _checked(bases: int, seeds: int, quick: bool, recipe_file: Path | None) -> Recipe:
    """The recipe, after checking everything that could otherwise stop a long run at its end."""
    for option, number in (("--bases", bases), ("--seeds", seeds)):
        if number < 1:
            raise InputError(f"{option} {number}: give at least 1")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise InputError(
            'the demo plots with matplotlib, which is not installed; run `pip install "open_clip_ext[demo]"`'
        ) from error
    if recipe_file is None:
        return recipes.QUICK if quick else Recipe()
    if quick:
        raise InputError("--quick is itself a recipe; leave out --quick or --recipe")
    if not recipe_file.is_file():
        raise InputError(f"--recipe {recipe_file}: no such file")
    return recipes.from_json(recipe_file.read_text(), f"--recipe {recipe_file}")


def _claim(out: Path, recipe: Recipe) -> None:
    """Use the output folder if it is empty or contains a demo with the same recipe."""
    written = out / "recipe.json"
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: not a folder; name another")
    if out.is_dir() and any(out.iterdir()):
        if not written.is_file():
            raise InputError(f"--out {out}: the folder is not empty and contains no demo; name another")
        # What an older demo does not name has its default.
        if recipes.from_json(written.read_text(), str(written)) != recipe:
            raise InputError(
                f"--out {out}: contains a demo with other settings; name another, or give --recipe {written}"
            )
    out.mkdir(parents=True, exist_ok=True)
    write_text(written, recipes.to_json(recipe))


@dataclass(frozen=True)
class Job:
    """One run of the trainer.

    Attributes:
        base: number of the base that it trains or starts from.
        name: of the run and of its model.
        start: name of the model that it starts from.
        data: name of its shards.
        loss: name of the loss.
        schedule: length and learning rate.
        seed: of the trainer.
        save_frequency: epochs between saved models; 0 saves only the last.
        flags: further ones.
    """

    base: int
    name: str
    start: str
    data: str
    loss: str
    schedule: Schedule
    seed: int
    save_frequency: int = 0
    flags: tuple[str, ...] = ()


class Demo:
    """One demo in one folder, with a subfolder for each base."""

    def __init__(self, out: Path, recipe: Recipe, bases: int, methods: Sequence[Method], quick: bool) -> None:
        self.out = out.resolve()
        self.recipe = recipe
        self.bases = range(bases)
        self.methods = methods
        self.quick = quick
        self.stages: dict[str, tuple[float, float]] = {}
        self.commands: list[str] = []
        self.scales: list[float] = []
        self.checks: list[list[Check]] = []

    # --- stages

    def prepare(self) -> None:
        """Draw the data, pretrain the bases and check them with the gate."""
        from open_clip_ext.demo import evaluate, report, shards, train, vocabulary

        recipe = self.recipe
        atomic_write(self.out / vocabulary.FILE, lambda part: part.write_bytes(vocabulary.content()))
        with self._stage("drawing"):
            for base in self.bases:
                self._draw(base, "pretraining", shards.pretraining, recipe.pretraining.samples, 1)
                for data, kinds in {method.data: method.kinds for method in self.methods}.items():
                    sample = shards.fine_tuning(kinds)
                    self._draw(base, data, sample, recipe.fine_tuning.samples, 2)
        for base in self.bases:
            if not self._model(base, "untrained").exists():
                train.untrained(self._model(base, "untrained"), recipe.model, recipe.base_seed(base))
        with self._stage("pretraining"):
            # The plugin's clip: with upstream's own loss every run has another order of samples.
            self._train(
                [
                    Job(
                        base,
                        "base",
                        "untrained",
                        "pretraining",
                        "clip",
                        recipe.pretraining,
                        recipe.base_seed(base),
                    )
                    for base in self.bases
                ]
            )
        for base in self.bases:
            model = train.load(self._model(base, "base"))
            self.scales.append(model.logit_scale.detach().exp().item())
            seed = recipe.evaluation_seed(base, recipe.dev_seed)
            scores = evaluate.score(model, [seed], recipe.test_size)
            self.checks.append(evaluate.gate(scores, recipe.gate, recipe.ceiling, recipe.swap_band))
        print(f"\nbefore fine-tuning\n\n{report.gate_text(self.checks)}\n", flush=True)
        failed = sorted({check.name for checks in self.checks for check in checks if not check.passed})
        if failed and not self.quick:
            raise TrainingError(
                f"a base fails the gate ({', '.join(failed)}) and cannot show what fine-tuning does; "
                f"pretrain longer or shorter, with a copy of {self.out / 'recipe.json'} and --recipe"
            )

    def compare(self, seeds: int) -> None:
        """Fine-tune with every method, score, report."""
        from open_clip_ext.demo import report

        recipe = self.recipe
        jobs = [
            self._fine_tuning(
                base, m, seed, recipe.schedule(m.name), f"{m.name}-seed{seed}", save_frequency=1
            )
            for seed in range(seeds)
            for base in self.bases
            for m in self.methods
        ]
        with self._stage("fine-tuning"):
            self._train(jobs)
        with self._stage("scoring"):
            rows, curves = self._score(seeds)
            courses = self._score_courses()
        markdown = report.markdown(
            recipe=recipe, rows=rows, curves=curves, courses=courses, checks=self.checks,
            options=[{m.name: self._options(base, m.loss) for m in self.methods} for base in self.bases],
            scales=self.scales, stages=self.stages, quick=self.quick,
        )  # fmt: skip
        write_text(self.out / "report.md", markdown)
        write_text(self.out / "scores.json", self._scores_json(rows, curves, courses))
        report.plot_tradeoff(self.out / "tradeoff.png", curves, recipe.alpha)
        report.plot_courses(self.out / "course.png", courses)
        print(report.text_tables(rows) + "\n")
        if self.quick:
            print("a --quick run: it shows that every stage works; its numbers are meaningless\n")
        for sentence in report.words(rows, curves, courses):
            print(f"* {sentence}")
        print(f"\n{self.out / 'report.md'}, tradeoff.png, course.png, scores.json, commands.sh, recipe.json")

    def select(self) -> None:
        """Try each learning rate for each method, on the evaluation seed reserved for that."""
        from open_clip_ext.demo import evaluate, train

        recipe = self.recipe
        tried = [(method, lr) for method in self.methods for lr in recipe.select_lr]
        names = {(method, lr): f"{method.name}-lr{lr:g}" for method, lr in tried}
        with self._stage("selection"):
            self._train(
                [
                    self._fine_tuning(base, method, 0, replace(recipe.fine_tuning, lr=lr), name)
                    for base in self.bases
                    for (method, lr), name in names.items()
                ]
            )
        best: dict[str, tuple[float, float]] = {}
        print(f"evaluation seed {recipe.dev_seed}, mean over {len(self.bases)} bases\n")
        width = max(10, *(len(method.name) + 2 for method in self.methods))
        print(f"{'':<{width}}{'lr':>8}{'composition':>13}{'zero-shot':>11}{'mean':>7}")
        for (method, lr), name in names.items():
            scores = [
                evaluate.score(
                    train.load(self._model(base, name)),
                    [recipe.evaluation_seed(base, recipe.dev_seed)],
                    recipe.test_size,
                )
                for base in self.bases
            ]
            comp, kept = (fmean(map(s, scores)) for s in (evaluate.composition, evaluate.unmentioned))
            mean = (comp + kept) / 2
            print(f"{method.name:<{width}}{lr:>8g}{comp:>13.1f}{kept:>11.1f}{mean:>7.1f}")
            best[method.name] = max(best.get(method.name, (-1.0, 0.0)), (mean, lr))
        selected = replace(recipe, lr={**recipe.lr, **{name: lr for name, (_, lr) in best.items()}})
        path = self.out / "recipe-selected.json"
        write_text(path, recipes.to_json(selected))
        print(f"\nchosen by the mean of both; use it with --recipe {path} and another --out")

    # --- parts

    def _model(self, base: int, name: str) -> Path:
        return self.out / FOLDER.format(base) / "models" / name

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        print(f"{name} ...", file=sys.stderr, flush=True)
        started, used = time.monotonic(), sum(os.times()[:4])
        yield
        self.stages[name] = time.monotonic() - started, sum(os.times()[:4]) - used
        print(
            "{}: {:.0f} s, {:.0f} s of CPU time".format(name, *self.stages[name]), file=sys.stderr, flush=True
        )

    def _draw(self, base: int, name: str, sample: Sample, samples: int, part_seed: int) -> None:
        from tqdm import tqdm

        from open_clip_ext.demo import shards, train

        target = self.out / FOLDER.format(base) / "shards" / name
        if target.exists():
            return
        part = train.new_folder(target)
        seed = 10 * self.recipe.base_seed(base) + part_seed
        with tqdm(total=samples, desc=f"drawing for {name}", unit="picture", disable=None) as bar:
            for done in shards.write(part, sample, samples, self.recipe.shards, seed):
                bar.update(done - bar.n)
        train.finish(part, target)

    def _note_command(self, words: Sequence[str]) -> None:
        """Add a command to commands.sh, with a different folder for its logs."""
        self.commands.append(recipes.shown(list(words)))
        head = (
            "#!/usr/bin/env bash\n"
            "# The commands of this demo, to be run in its folder. A second run needs a new --name or\n"
            "# --logs: here the logs and checkpoints go to $LOGS.\n"
            "# After pretraining, the demo turns the checkpoints into models/base, from which the other\n"
            "# commands start.\n"
            'set -eu\ncd "$(dirname "$0")"\nexport OMP_NUM_THREADS=1\n'
            "LOGS=${LOGS:-logs-$(date +%s)}\n\n"
        )
        body = "\n\n".join(re.sub(r"--logs (\S+)/logs", r'--logs "\1/$LOGS"', t) for t in self.commands)
        write_text(self.out / "commands.sh", head + body + "\n")

    def _options(self, base: int, loss: str) -> dict[str, float]:
        return recipes.tuned_options(self.recipe, loss, self.scales[base])

    def _pretraining(self, base: int) -> Job:
        recipe = self.recipe
        seed = recipe.base_seed(base)
        return Job(base, "base", "untrained", "pretraining", "clip", recipe.pretraining, seed)

    def _fine_tuning(
        self, base: int, method: Method, seed: int, schedule: Schedule, name: str, save_frequency: int = 0
    ) -> Job:
        loss, data = method.loss, method.data
        return Job(base, name, "base", data, loss, schedule, seed, save_frequency, method.flags)

    def _train(self, jobs: Sequence[Job]) -> None:
        """Run the unfinished jobs, `at_once` at a time."""
        from open_clip_ext.demo import train

        places: SimpleQueue[int] = SimpleQueue()
        for place in range(self.recipe.at_once):
            places.put(place)

        def work(job: Job, words: list[str]) -> None:
            target = self._model(job.base, job.name)
            if target.exists():
                return
            place = places.get()
            try:
                label = f"base {job.base}: {job.name}"
                train.run(self.out, words, job.schedule, label, target, place)
            finally:
                places.put(place)

        planned = []
        for job in jobs:
            folder = FOLDER.format(job.base)
            words = recipes.command(
                self.recipe, name=job.name, model=f"{folder}/models/{job.start}",
                data=f"{folder}/shards/{job.data}", schedule=job.schedule, seed=job.seed,
                logs=f"{folder}/logs", loss=job.loss, save_frequency=job.save_frequency,
                options=self._options(job.base, job.loss) if job.start == "base" else {},
                flags=job.flags,
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

    def _score(self, seeds: int) -> tuple[list[Row], dict[str, list[Row]]]:
        """The rows of the tables, and the mixing curve of each method."""
        from tqdm import tqdm

        from open_clip_ext.demo import evaluate, train
        from open_clip_ext.demo.report import Row

        recipe = self.recipe
        alphas = sorted({*recipe.curve, recipe.alpha, 1.0})
        names = [method.name for method in self.methods]

        def score(base: int, model: Any) -> evaluate.Scores:
            numbers = [recipe.evaluation_seed(base, seed) for seed in recipe.test_seeds]
            scores = evaluate.score(model, numbers, recipe.test_size)
            bar.update()
            return scores

        total = len(self.bases) * (1 + len(self.methods) * seeds * len(alphas))
        with tqdm(total=total, desc="scoring", unit="model", disable=None) as bar:
            starts = [self._model(base, "base") for base in self.bases]
            before = Row("", 0.0, [[score(base, train.load(start))] for base, start in enumerate(starts)])
            rows, curves = [before], {}
            for loss in names:
                tuned = [
                    [self._model(base, f"{loss}-seed{seed}") for seed in range(seeds)] for base in self.bases
                ]
                notes = [json.loads((path / "run.json").read_text()) for paths in tuned for path in paths]
                curve = [before]
                for alpha in alphas:
                    scores = [
                        [score(base, train.mix(starts[base], path, alpha)) for path in paths]
                        for base, paths in enumerate(tuned)
                    ]
                    seconds = [note["cpu_seconds"] for note in notes] if alpha == 1 else []
                    curve.append(Row(loss, alpha, scores, notes[0]["steps"], seconds))
                curves[loss] = curve
                rows += [curve[-1], *(row for row in curve[1:-1] if row.alpha == recipe.alpha)]
        return rows, curves

    def _score_courses(self) -> dict[str, list[Course]]:
        """The scores along the run of seed 0 for each method and base, on the evaluation seed `dev_seed`."""
        from tqdm import tqdm

        from open_clip_ext.demo import evaluate, train

        recipe = self.recipe
        courses: dict[str, list[Course]] = {method.name: [] for method in self.methods}
        epochs = recipe.fine_tuning.epochs
        steps = recipe.fine_tuning.steps // epochs
        total = len(self.bases) * (1 + len(self.methods) * epochs)
        with tqdm(total=total, desc="scoring along the runs", unit="model", disable=None) as bar:

            def score(base: int, name: str, epoch: int | None) -> evaluate.Scores:
                model = train.load(self._model(base, name), epoch)
                bar.update()
                return evaluate.score(
                    model, [recipe.evaluation_seed(base, recipe.dev_seed)], recipe.test_size
                )

            for base in self.bases:
                start = score(base, "base", None)
                for loss in courses:
                    course = {0: start}
                    for epoch in range(1, epochs + 1):
                        last = epoch == epochs
                        course[epoch * steps] = score(base, f"{loss}-seed0", None if last else epoch)
                    courses[loss].append(course)
        return courses

    def _scores_json(
        self,
        rows: Sequence[Row],
        curves: Mapping[str, Sequence[Row]],
        courses: Mapping[str, Sequence[Course]],
    ) -> str:
        """Every count behind the report."""
        everything = [rows[0], *(row for curve in curves.values() for row in curve[1:])]

        def counts(scores: Scores) -> dict[str, list[int]]:
            return {name: [share.right, share.n] for name, share in scores.items()}

        return (
            json.dumps(
                {
                    "models": [
                        {
                            "loss": row.loss,
                            "alpha": row.alpha,
                            "steps": row.steps,
                            "cpu_seconds": list(row.seconds),
                            "scores": [[counts(scores) for scores in seeds] for seeds in row.scores],
                        }
                        for row in everything
                    ],
                    "courses": {
                        loss: [{step: counts(scores) for step, scores in course.items()} for course in found]
                        for loss, found in courses.items()
                    },
                },
                indent=1,
            )
            + "\n"
        )
