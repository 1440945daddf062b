"""What the picture of many models shows: composition against recognition, and which models nothing beats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from open_clip_ext.errors import InputError
from open_clip_ext.evaluation.comparison import field
from open_clip_ext.evaluation.comparison.field import Model
from open_clip_ext.evaluation.comparison.means import columns, measured
from open_clip_ext.evaluation.comparison.measures import Measure, Paired
from open_clip_ext.evaluation.comparison.results import COMPOSITION, ZERO_SHOT


@dataclass(frozen=True)
class Axis:
    """One axis: its name and the scores of M models."""

    name: str
    measure: Measure


@dataclass(frozen=True)
class Point:
    """A published model, in [0, 1]."""

    name: str
    across: float
    up: float


@dataclass(frozen=True)
class Picture:
    """Two scores of each model.

    Attributes:
        across: recognition.
        up: composition.
        front: the models of which no other is at least as good in both and better in one.
        published: models of a file of the user.
    """

    across: Axis
    up: Axis
    front: Sequence[int]
    published: Sequence[Point] = ()


def picture(
    families: Mapping[str, Measure],
    averages: Mapping[str, Measure],
    benchmarks: Sequence[Paired],
    published: Sequence[Model] = (),
) -> Picture | None:
    """The picture of a comparison; None if it has only one of the two abilities.

    The axes are `comp12` and `zs21` where they are given, otherwise the means of the two families. With
    `published`, composition is the mean of those of vl_compo's columns that there are, and recognition is
    `zs21` or ImageNet, so that the published models have the same axes.

    Raises InputError if there is no such column for `published`.
    """
    if published:
        return _with_field(averages, benchmarks, published)
    up, across = (
        Axis(average, averages[average])
        if average in averages
        else Axis(family, families[family])
        if family in families
        else None
        for average, family in (("comp12", COMPOSITION), ("zs21", ZERO_SHOT))
    )
    return Picture(across, up, front(across.measure, up.measure)) if up and across else None


def _with_field(
    averages: Mapping[str, Measure], benchmarks: Sequence[Paired], models: Sequence[Model]
) -> Picture:
    found, _ = columns("comp12", benchmarks)
    recognition, missing = columns("zs21", benchmarks)
    if not found:
        raise InputError(
            f"{field.FLAG}: no benchmark of composition in all results is one of the file's columns "
            f"({', '.join(field.COMPOSITION)})"
        )
    if missing and "imagenet" not in recognition:
        raise InputError(
            f"{field.FLAG}: the file has ImageNet and the mean of 21 sets; the results have no imagenet, and "
            f"of the 21 sets not {', '.join(missing)}"
        )
    up = f"composition, {len(found)} of 12" if "comp12" not in averages else "comp12"
    across = "imagenet" if missing else "zs21"
    made = dict(averages)
    for name, mean in ((up, list(found.values())), (across, [recognition.get("imagenet", ())])):
        if name not in made:
            made |= measured({name: mean})
    points = [
        Point(model.name, model.scores[field.RECOGNITION[across]], model.mean(found)) for model in models
    ]
    return Picture(Axis(across, made[across]), Axis(up, made[up]), front(made[across], made[up]), points)


def front(across: Measure, up: Measure) -> list[int]:
    """The models of which no other is at least as good in both scores and better in one.

    By the scores themselves: a model that lies within the noise of another may be left out or in.
    """
    points = [(a.value, b.value) for a, b in zip(across.scores, up.scores, strict=True)]
    return [
        k
        for k, (a, b) in enumerate(points)
        if not any(x >= a and y >= b and (x, y) != (a, b) for x, y in points)
    ]
