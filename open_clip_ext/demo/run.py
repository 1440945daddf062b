"""`open-clip-ext demo`: draws a world, pretrains its bases, and hands a study over.

Every data set and model appears only when it is complete, so a killed demo continues where it was; the
study does so by itself.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import chdir
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from open_clip_ext.demo import recipe as recipes
from open_clip_ext.demo import study_file
from open_clip_ext.demo.methods import Method, methods
from open_clip_ext.demo.recipe import Recipe
from open_clip_ext.errors import InputError, TrainingError
from open_clip_ext.files import atomic_write, write_text

if TYPE_CHECKING:
    from open_clip_ext.demo.shards import Sample
    from open_clip_ext.study.parts import Part

LOSSES = ("clip", "negclip", "ce-clip", "degla")
DEFAULT_OUT = Path("open-clip-ext-demo")


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
        help="choose each method's learning rate, on the evaluation seed reserved for that",
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
        select: whether each method's learning rate is chosen.

    Returns:
        0.

    Raises:
        InputError: the arguments are wrong.
        TrainingError: a training failed, or a base did not pass the gate.
    """
    from open_clip_ext.study import run as study

    chosen = methods(losses or LOSSES)
    recipe = _checked(bases, seeds, quick, recipe_file)
    if world_seed is not None:
        recipe = replace(recipe, world_seed=world_seed)
    if not 0 <= recipe.world_seed <= recipes.MOST_SEED:
        raise InputError(f"--world-seed {recipe.world_seed}: give a number from 0 to {recipes.MOST_SEED}")
    if siglip:
        recipe = replace(recipe, siglip=True)
    _claim(out, recipe)
    out = out.resolve()
    _draw(out, recipe, bases, chosen)
    _pretrain(out, recipe, bases)
    scales, gate = _examine(out, recipe, bases, quick)
    remarks = f"Written by `open-clip-ext demo`, and anew by its next run here.\n\n{gate}"
    text = study_file.text(
        recipe, chosen, scales, seeds, select=select, quick=quick, remarks=remarks
    )  # fmt: skip
    write_text(out / study_file.FILE, text)
    if quick:
        print(f"{study_file.MEANINGLESS}\n", flush=True)
    return study.run(out / study_file.FILE)


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
    try:
        text = recipe_file.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise InputError(
            f"--recipe {recipe_file}: cannot be read ({error}); give a copy of a recipe.json"
        ) from error
    return recipes.from_json(text, f"--recipe {recipe_file}")


def _claim(out: Path, recipe: Recipe) -> None:
    """Use the output folder if it is empty or contains a demo with the same recipe."""
    written = out / "recipe.json"
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: not a folder; name another")
    try:
        out.mkdir(parents=True, exist_ok=True)
        empty = not any(out.iterdir())
    except OSError as error:
        raise InputError(f"--out {out}: cannot be used ({error}); name another folder") from error
    if not empty:
        if not written.is_file():
            raise InputError(f"--out {out}: the folder is not empty and contains no demo; name another")
        try:
            # What an older demo does not name has its default.
            same = recipes.from_json(written.read_text(encoding="utf-8"), str(written)) == recipe
        except (InputError, OSError, UnicodeError) as error:
            raise InputError(
                f"--out {out}: contains a demo of another version ({error}); name another"
            ) from error
        if not same:
            raise InputError(
                f"--out {out}: contains a demo with other settings; name another, or give --recipe {written}"
            )
    try:
        write_text(written, recipes.to_json(recipe))
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written ({error}); name another folder") from error


# --- stages ---------------------------------------------------------------------------------------


def _draw(out: Path, recipe: Recipe, bases: int, methods: Sequence[Method]) -> None:
    """The vocabulary, the data sets and the untrained models that are missing."""
    from open_clip_ext.demo import models, shards, vocabulary

    atomic_write(out / vocabulary.FILE, lambda part: part.write_bytes(vocabulary.content()))
    for base in range(bases):
        seed = 10 * recipe.base_seed(base)
        target = out / study_file.shards(base, "pretraining")
        _data(target, recipe, shards.pretraining, recipe.pretraining.samples, seed + 1)
        for data, kinds in {method.data: method.kinds for method in methods}.items():
            target = out / study_file.shards(base, data)
            _data(target, recipe, shards.fine_tuning(kinds), recipe.fine_tuning.samples, seed + 2)
        if not (target := out / study_file.model(base, "untrained")).exists():
            models.untrained(target, recipe.model, recipe.base_seed(base))


def _data(target: Path, recipe: Recipe, sample: Sample, samples: int, seed: int) -> None:
    from tqdm import tqdm

    from open_clip_ext.demo import models, shards

    if target.exists():
        return
    part = models.new_folder(target)
    with tqdm(total=samples, desc=f"drawing for {target.name}", unit="picture", disable=None) as bar:
        for done in shards.write(part, sample, samples, recipe.shards, seed):
            bar.update(done - bar.n)
    models.finish(part, target)


def _pretrain(out: Path, recipe: Recipe, bases: int) -> None:
    """The bases that are missing.

    Raises TrainingError if a training failed.
    """
    from open_clip_ext.demo import models
    from open_clip_ext.study import folder, local

    left = {
        target: pretraining(out, recipe, base)
        for base in range(bases)
        if not (target := out / study_file.model(base)).exists()
    }
    if left:
        print(f"pretraining {len(left)} base(s) ...", file=sys.stderr, flush=True)
    with folder.ended_by_sigterm():
        failed = local.do("pretraining", list(left.values()), recipe.at_once, out)
    if failed:
        raise TrainingError(
            "; ".join(f"the pretraining {path.name} failed: {why}" for path, why in failed.items())
        )
    for target, part in left.items():
        models.trained(target, recipe.model, part.product)


def pretraining(out: Path, recipe: Recipe, base: int) -> Part:
    """The training of a base, as that of a study."""
    from open_clip_ext.study import parts, settings

    # The plugin's clip: with upstream's own loss every run has another order of samples.
    method = settings.Method("pretraining", "clip", {}, {}, {})
    data = {"train-data": recipe.shards_in(study_file.shards(base, "pretraining"))}
    start = settings.Base(
        study_file.FOLDER.format(base), f"local-dir:{study_file.model(base, 'untrained')}", "", data
    )
    study = settings.Study(
        file=out / study_file.FILE, seeds=(), weights=(), reference=(), at_once=recipe.at_once, processes=1,
        bases=[start], methods=[method], train=recipe.flags(recipe.pretraining), dev=(), reported=(),
    )  # fmt: skip
    return parts.training(study, out / "pretraining", method, start, recipe.base_seed(base), {})


def _examine(out: Path, recipe: Recipe, bases: int, quick: bool) -> tuple[list[float], str]:
    """The logit scales of the bases, and the gate as a text.

    Raises TrainingError if a base does not pass, unless `quick`.
    """
    from open_clip_ext.demo import gate

    with chdir(out):  # where the vocabulary is
        found = [
            gate.measured(
                f"local-dir:{study_file.model(base)}",
                recipe.evaluation_seed(base, recipe.dev_seed),
                recipe.test_size,
            )
            for base in range(bases)
        ]
    checks = [gate.checks(base, recipe.gate, recipe.ceiling, recipe.swap_band) for base in found]
    text = f"before fine-tuning, in percent\n\n{gate.text(checks)}"
    print(f"\n{text}\n", flush=True)
    failed = dict.fromkeys(check.name for own in checks for check in own if not check.passed)
    if failed and not quick:
        raise TrainingError(
            f"a base fails the gate ({', '.join(failed)}) and cannot show what fine-tuning does; "
            f"pretrain longer or shorter, with a copy of {out / 'recipe.json'} and --recipe"
        )
    return [base.scale for base in found], text
