"""`open-clip-ext study status`: what of a study is done, at work, failed and left."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir

from open_clip_ext import tables
from open_clip_ext.study import folder, parts, timing, trainer
from open_clip_ext.study.parts import Chosen, Part
from open_clip_ext.study.settings import Study
from open_clip_ext.study.timing import Rate

KINDS = {
    parts.TRAIN: "trainings",
    parts.DEV: "evaluations to choose a value",
    parts.SWEEP: "evaluations of mixtures with the base",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `study status`."""
    folder.add_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Print."""
    from open_clip_ext.study import results

    study, out = folder.opened(args.file, args.out)
    with chdir(study.folder):
        chosen = results.chosen(study, out)
        known = parts.every(study, out, chosen)
        print(table(known, parts.unknown(study, chosen)))
        for (method, base), values in chosen.items():
            print(f"chosen for {method} on {base}: {', '.join(f'{k} {v}' for k, v in values.items())}")
        for part in known:
            if state(part) in ("at work", "stopped"):
                print(f"{state(part)}: {part.name}\n  {part.folder / trainer.OUTPUT}")
                if state(part) == "stopped" and (why := trainer.reason(part.folder)):
                    print(f"  {why}")
        made = {part.folder.name for part in known}
        there = {path.name for path in (out / "parts").glob("*")}
        if unused := sorted(there - made):
            print(f"of other settings, not used now: {', '.join(unused)}")
    return 0


def state(part: Part) -> str:
    """`done`, `at work`, `stopped` (begun and not at work: failed, or ended with its study) or `left`."""
    if part.done:
        return "done"
    lock = part.folder / trainer.LOCK
    if not lock.exists():
        return "left"
    with lock.open() as file:
        return "stopped" if trainer.locked(file.fileno()) else "at work"


def table(known: Sequence[Part], unknown: int = 0) -> str:
    """A row for each kind of parts."""
    head = ["", "all", "done", "at work", "stopped", "left"]
    body = []
    for kind, name in KINDS.items():
        states = [state(part) for part in known if part.kind == kind]
        if states:
            body.append([name, str(len(states)), *(str(states.count(word)) for word in head[2:])])
    if unknown:
        body.append(["known when values are chosen", str(unknown), "", "", "", str(unknown)])
    return tables.aligned(head, body)


def estimate(
    study: Study, chosen: Chosen, known: Sequence[Part], measured: Mapping[str, Rate]
) -> Iterator[str]:
    """Hours of the trainings that are left, method by method.

    Those of seeds that wait for a value to be chosen are among them, evaluations are not.

    Args:
        study: the study.
        chosen: the values that are chosen.
        known: its parts.
        measured: speeds by a training's folder name, for methods of which no training has begun on a base.
    """
    total = 0.0
    without = []
    for method in study.methods:
        own = [part for part in known if part.kind == parts.TRAIN and part.method == method.name]
        rates = _rates(own, measured)
        left = {base.name: 0.0 for base in study.bases}
        for part in own:
            left[part.base] += 1 - (timing.share(part) if not part.done else 1)
        for base in left:
            if method.tried and (method.name, base) not in chosen:
                left[base] += len(study.seeds) - 1
        number = sum(left.values())
        if not number:
            continue
        if not rates:
            without.append(method.name)
            continue
        of_others = timing.mean(list(rates.values()))
        hours = sum(number * rates.get(base, of_others).hours for base, number in left.items())
        total += hours
        how = "" if any(timing.of(part) for part in own) else " (measured)"
        step = f"{of_others.step:.3g} s per step{how}"
        yield f"{method.name}: {step}, {hours / number:.3g} h per training, {hours:.3g} h left"
    if total:
        both = f"{total:.3g} h, {total * study.processes:.3g} GPU hours"
        yield f"trainings left in all: {both} ({study.at_once} at a time here)"
    if without:
        yield (
            f"no estimate for {', '.join(without)}: no training of it has shown its speed yet; "
            "`study plan --measure` times some steps"
        )
    if number := sum(part.kind != parts.TRAIN and not part.done for part in known):
        yield f"evaluations: {number} left, not measured and in no estimate"


def _rates(own: Sequence[Part], measured: Mapping[str, Rate]) -> dict[str, Rate]:
    """The speed of a method's trainings by base: from those that have begun, else as it was measured."""
    found = {}
    for base in dict.fromkeys(part.base for part in own):
        there = [part for part in own if part.base == base]
        begun = [rate for part in there if (rate := timing.of(part)) is not None]
        if rates := begun or [measured[name] for part in there if (name := part.folder.name) in measured]:
            found[base] = timing.mean(rates)
    return found
