"""From rows to a score, by the averages that papers of the field use.

The same rows give averages up to four points apart, so each aggregation has a name and a description. A
name is a shape, preceded by a metric and a space if the metric is not `accuracy`: `macro`, `group micro`.
A shape is a tree of unweighted means over pooled groups. It is applied to sums and counts per group, so
that a bootstrap can apply it to thousands of resampled sums at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from open_clip_ext import plugins
from open_clip_ext.errors import InputError
from open_clip_ext.evaluation.items import Row
from open_clip_ext.evaluation.scoring.aro_relations import DROPPED

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Pool:
    """All items of some groups pooled: sum / count."""

    groups: tuple[str, ...]


@dataclass(frozen=True)
class Mean:
    """The unweighted mean of parts."""

    parts: tuple[Pool | Mean, ...]


Tree = Pool | Mean


@dataclass(frozen=True)
class Shape:
    """A way to average.

    Attributes:
        text: a description, with the papers or code that use it.
        build: returns the tree for the groups of a benchmark, given their sizes.
    """

    text: str
    build: Callable[[Mapping[str, int]], Tree]


def macro(parts: Iterable[Tree | str]) -> Mean:
    """The mean of groups or trees."""
    return Mean(tuple(Pool((part,)) if isinstance(part, str) else part for part in parts))


def nested(sizes: Mapping[str, int]) -> Tree:
    """The mean at every level of groups with names like `a/b/c`."""
    parts: dict[str, dict[str, int]] = {}
    for group, size in sizes.items():
        parts.setdefault(group.partition("/")[0], {})[group.partition("/")[2]] = size

    def under(head: str, rest: Mapping[str, int]) -> Tree:
        if list(rest) == [""]:
            return Pool((head,))
        return _prefixed(nested(rest), f"{head}/")

    return Mean(tuple(under(head, rest) for head, rest in parts.items()))


def _prefixed(tree: Tree, prefix: str) -> Tree:
    if isinstance(tree, Pool):
        return Pool(tuple(prefix + group for group in tree.groups))
    return Mean(tuple(_prefixed(part, prefix) for part in tree.parts))


SUGARCREPE = (
    ("replace_obj", "replace_att", "replace_rel"),
    ("swap_obj", "swap_att"),
    ("add_obj", "add_att"),
)
VALSE = {
    "existence": ("existence",),
    "plurality": ("plurals",),
    "counting": ("counting-hard", "counting-small-quant", "counting-adversarial"),
    "relations": ("relations",),
    "actions": ("action-replacement", "actant-swap"),
    "coreference": ("coreference-standard", "coreference-hard"),
    "noun phrases": ("foil-it",),
}
SHAPES: dict[str, Shape] = {
    "micro": Shape("all items together", lambda sizes: Pool(tuple(sizes))),
    "macro": Shape("the mean over groups", lambda sizes: macro(sizes)),
    "sugarcrepe3": Shape(
        "the mean over replace, swap and add, all items of each together (vl_compo, FSC-CLIP)",
        lambda sizes: Mean(tuple(map(Pool, SUGARCREPE))),
    ),
    "swap": Shape(
        "the mean over exchanged objects and exchanged attributes, of SugarCrepe's groups",
        lambda sizes: macro(("swap_obj", "swap_att")),
    ),
    "valse7": Shape(
        "the mean over seven phenomena, each the mean of its instruments (vl_compo, FSC-CLIP)",
        lambda sizes: Mean(tuple(macro(instruments) for instruments in VALSE.values())),
    ),
    "valse11": Shape(
        "the mean over the eleven instruments (CE-CLIP, DeGLA)",
        lambda sizes: macro(instrument for instruments in VALSE.values() for instrument in instruments),
    ),
    "aro_vgr": Shape(
        "the mean over relations without the 157 that are symmetric or rare (ARO's notebook)",
        lambda sizes: macro(group for group in sizes if group not in DROPPED),
    ),
    "aro_vga": Shape(
        "the mean over attribute pairs with at least 25 items (ARO)",
        lambda sizes: macro(group for group, size in sizes.items() if size >= 25),
    ),
    "vlchecklist3": Shape(
        "the mean over object, attribute and relation, each the mean over its aspects, each over its sources",
        nested,
    ),
    "eqben5": Shape(
        "the mean over five sets, with the mean of Kubric's three as one (EqBen, vl_compo)",
        lambda sizes: Mean(
            (
                *(Pool((f"eqben{name}",)) for name in ("ag", "youcook2", "gebc", "sd")),
                macro(f"eqbenkubric_{name}" for name in ("loc", "cnt", "attr")),
            )
        ),
    ),
    "spec_i2t": Shape(
        "the mean over subsets, picture to text",
        lambda sizes: macro(group for group in sizes if group.endswith("/i2t")),
    ),
    "spec_t2i": Shape(
        "the mean over subsets, text to picture",
        lambda sizes: macro(group for group in sizes if group.endswith("/t2i")),
    ),
    "whatsup6": Shape(
        "the mean over A, B and the four question sets, single pictures",
        lambda sizes: macro(("A", "B", "COCO-QA one", "COCO-QA two", "VG-QA one", "VG-QA two")),
    ),
    "whatsup_pair": Shape(
        "the mean over A and B, both of two pictures right", lambda sizes: macro(("A pair", "B pair"))
    ),
    "whatsup_set": Shape(
        "the mean over A and B, all of four pictures right", lambda sizes: macro(("A set", "B set"))
    ),
    "hardpos2": Shape(
        "the mean over SWAP and REPLACE (itself the mean of attributes and relations)",
        lambda sizes: Mean((Pool(("swap",)), macro(("replace_att", "replace_rel")))),
    ),
}


def split(name: str) -> tuple[str, str]:
    """`(metric, shape)` of an aggregation's name."""
    metric, _, shape = name.rpartition(" ")
    return metric or "accuracy", shape


def plan(name: str, sizes: Mapping[str, int]) -> Tree:
    """The tree of an aggregation.

    Args:
        name: of the aggregation.
        sizes: items per group of the whole benchmark.

    Raises InputError if its shape is unknown.
    """
    _, shape = split(name)
    if shape not in SHAPES:
        raise InputError(f"aggregation {name}: no shape {shape}{plugins.nearest(shape, SHAPES)}")
    return SHAPES[shape].build(sizes)


def apply(tree: Tree, groups: Sequence[str], sums: Floats, counts: Floats) -> Floats:
    """The value `[...]` of a tree on sums and counts `[..., G]` of the groups.

    Groups without items are left out of the means. A value without any item is NaN.
    """
    place = {group: i for i, group in enumerate(groups)}

    def value(part: Tree) -> Floats:
        if isinstance(part, Pool):
            places = [place[group] for group in part.groups if group in place]
            return np.asarray(sums[..., places].sum(-1) / counts[..., places].sum(-1))
        values = np.stack([value(inner) for inner in part.parts])
        there = ~np.isnan(values)
        return np.asarray(np.where(there, values, 0).sum(0) / there.sum(0))

    with np.errstate(invalid="ignore", divide="ignore"):
        return value(tree)


def leaves(tree: Tree) -> list[str]:
    """The groups in a tree."""
    if isinstance(tree, Pool):
        return list(tree.groups)
    return [group for part in tree.parts for group in leaves(part)]


def absent(name: str, rows: Iterable[Row]) -> list[str]:
    """The groups of an aggregation that have no row."""
    sizes = Counter(row["group"] for row in of_metric(name, rows))
    wanted = dict.fromkeys(leaves(plan(name, sizes)))
    return [group for group in wanted if not sizes[group]] if wanted else ["any group that counts"]


def of_metric(name: str, rows: Iterable[Row]) -> list[Row]:
    """The rows that have the metric of an aggregation."""
    metric, _ = split(name)
    return [row for row in rows if metric in row["correct"]]


def score(name: str, rows: Iterable[Row], sizes: Mapping[str, int] | None = None) -> dict[str, Any]:
    """`{"value", "n", "ties", "half"}` of an aggregation.

    Args:
        name: of the aggregation.
        rows: of one benchmark.
        sizes: items per group of the whole benchmark, if `rows` are only a part of it.

    `n` is the number of rows used, `ties` the number of them decided by a tie, and `half` the expected
    value if ties were broken at random.
    """
    metric, _ = split(name)
    chosen = of_metric(name, rows)
    tree = plan(name, sizes or Counter(row["group"] for row in chosen))
    part = set(leaves(tree))
    chosen = [row for row in chosen if row["group"] in part]
    groups = sorted({row["group"] for row in chosen})
    place = {group: i for i, group in enumerate(groups)}
    table = np.zeros((3, len(groups)))
    for row in chosen:
        table[:, place[row["group"]]] += (row["correct"][metric], row["half"][metric], 1)
    strict, half = apply(tree, groups, table[:2], np.stack([table[2]] * 2))
    ties = sum(row["correct"][metric] != row["half"][metric] for row in chosen)
    return {"value": float(strict), "n": len(chosen), "ties": int(ties), "half": float(half)}
