"""Whether a study can start: everything that its file names is looked at before anything runs."""

from __future__ import annotations

from collections.abc import Iterator

from open_clip_ext.errors import InputError
from open_clip_ext.study import parts
from open_clip_ext.study.results import FAMILIES
from open_clip_ext.study.settings import Base, Flags, Method, Study


def check(study: Study, *, here: bool = True) -> None:
    """Refuse a study of which a part could not start; the current folder must be the study's.

    Args:
        study: the study.
        here: whether its trainings run on this machine, which must then have their GPUs.

    Raises:
        InputError: a loss, an option, a flag, a file or a benchmark is wrong. The message names the method
            and base, or the list of benchmarks.
    """
    for base in study.bases:
        _activation(study, base)
    for method in study.methods:
        for base in study.bases:
            for choice in method.choices():
                for problem in _training(study, method, base, choice, here):
                    raise InputError(f"{study.file}: [methods.{method.name}] on {base.name}: {problem}")
    for base in study.bases:
        _benchmarks(study, base)


def _training(study: Study, method: Method, base: Base, choice: Flags, here: bool) -> Iterator[str]:
    from open_clip_ext.cluster import doctor

    # The folder is not made, and so nothing of a run that has begun is looked at.
    flags = parts.trainer_flags(study, method, base, study.seeds[0], choice, study.folder)
    flags[flags.index("--logs") + 1] = "none"
    for what, problem in doctor.problems(flags, study.processes):
        if problem and (here or what != doctor.GPUS):
            shared = next((flag for flag in study.train if f"--{flag} " in problem), None)
            if shared in method.on(base).flags:
                shared = None
            yield f"{problem} ({shared} is in [train], for all methods)" if shared else problem


def _activation(study: Study, base: Base) -> None:
    """Refuse a base whose activation is unknown or not that of its trainings: no mixture could be scored."""
    from open_clip_ext.evaluation import models

    where = f"{study.file}: [bases.{base.name}]"
    try:
        found = models.activation_of(base.model, base.pretrained or None, base.activation or None)
        config = models.model_config(base.model)
    except InputError as error:
        raise InputError(f"{where} {error} (here: as the entry `activation` of the base)") from error
    flags = {**study.train, **base.flags}
    trained = flags.get("force-quick-gelu") or config.get("quick_gelu")
    if (found == "quickgelu") != bool(trained):
        raise InputError(
            f"{where} it has {found}, but its trainings would not: name the model that has it, such as "
            f"{base.model}-quickgelu, or correct `force-quick-gelu` or `activation`"
        )


def _benchmarks(study: Study, base: Base) -> None:
    from open_clip_ext.evaluation import catalogue, wiseft
    from open_clip_ext.evaluation.evaluate import present

    found = []
    for what in ("dev", "reported"):
        wanted = getattr(base, what) or getattr(study, what)
        try:
            read = catalogue.read(catalogue.sources(wanted, flag=f"[[{what}]]"))
            for name in read.keys() & set(FAMILIES):
                raise InputError(
                    f"[[{what}]] {read[name][0].name}: its benchmark is called {name}, and so is a family in "
                    "the report; give it another name"
                )
            found.append([benchmark for _, benchmark in read.values()])
            for benchmark in found[-1]:
                present(benchmark, allow_missing=False)
        except InputError as error:
            raise InputError(f"{study.file}: {error}") from error
    try:
        wiseft.apart(*found)
    except InputError as error:
        raise InputError(f"{study.file}: {error}") from error
