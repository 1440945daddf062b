"""Averages over benchmarks, as vl_compo defines them (Oh et al., MMFM workshop at CVPR 2024).

Each is the unweighted mean of its columns. All columns must be there: a mean over fewer is another number.
The tests reproduce the averages in vl_compo's results.csv from its columns.

`zs21` differs from vl_compo's in one metric: VOC2007 is scored by objects, where ELEVATER takes the mean
average precision over pictures. Prompts, and what is read of a set without an official split, differ too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

# A benchmark by its canonical name, and an aggregation of it.
Part = tuple[str, str]


@dataclass(frozen=True)
class Average:
    """An average over benchmarks.

    Attributes:
        text: what it is.
        columns: the parts of each column; several parts are averaged within it.
    """

    text: str
    columns: Mapping[str, tuple[Part, ...]]


MACRO = ("caltech101", "fgvc-aircraft", "flowers", "pets")  # the mean over classes, as in ELEVATER
MICRO = (
    "cars", "cifar10", "cifar100", "country211", "dtd", "eurosat", "fer2013", "food101", "gtsrb", "imagenet",
    "kitti-distance", "mnist", "pcam", "renderedsst2", "resisc45", "voc2007",
)  # fmt: skip
AVERAGES = {
    "comp12": Average(
        "the mean of vl_compo's 12 benchmarks of composition",
        {
            "aro": (
                ("aro-vg-relation", "aro_vgr"),
                ("aro-vg-attribution", "aro_vga"),
                ("aro-coco-order", "micro"),
                ("aro-flickr-order", "micro"),
            ),
            "colorswap": (("colorswap", "group micro"),),
            "crepe": (("crepe", "macro"),),
            "eqben": (("eqben", "group eqben5"),),
            "imagecode": (("imagecode", "micro"),),
            "mmvp_vlm": (("mmvp-vlm", "group macro"),),
            "sugarcrepe": (("sugarcrepe", "sugarcrepe3"),),
            "svo_probes": (("svo-probes", "macro"),),
            "valse": (("valse", "valse7"),),
            "vl_checklist": (("vl-checklist", "vlchecklist3"),),
            "whatsup": (("whatsup", "whatsup6"),),
            "winoground": (("winoground", "group micro"),),
        },
    ),
    "zs21": Average(
        "the mean of ELEVATER's 21 zero-shot sets",
        {
            **{name: ((name, "top1 macro"),) for name in MACRO},
            **{name: ((name, "top1 micro"),) for name in MICRO},
            "hateful-memes": (("hateful-memes", "auc micro"),),
        },
    ),
    **{
        f"{direction}_avg": Average(
            f"the mean of COCO's and Flickr30k's {direction} R@1",
            {name: ((f"karpathy-{name}", f"{direction} R@1 micro"),) for name in ("coco", "flickr30k")},
        )
        for direction in ("i2t", "t2i")
    },
}
# The same set under another name.
SAME = {
    "imagenet-val": "imagenet",
    "imagenet1k": "imagenet",
    "kitti-closest-vehicle-distance": "kitti-distance",
    "mscoco-captions": "karpathy-coco",
    "flickr30k": "karpathy-flickr30k",
}


def canonical(name: str) -> str:
    """The name of a benchmark without what a folder or a webdataset adds: `wds-vtab-pets` is `pets`."""
    for prefix in ("wds-", "wds_", "vtab-", "vtab_"):
        name = name.removeprefix(prefix)
    name = name.removesuffix("_test").replace("_", "-")
    return SAME.get(name, name)


def started(average: str, have: Collection[str]) -> bool:
    """Whether any benchmark of an average is among those that there are."""
    names = set(map(canonical, have))
    return any(name in names for parts in AVERAGES[average].columns.values() for name, _ in parts)


def find(
    average: str, have: Mapping[str, Collection[str]]
) -> tuple[dict[str, list[tuple[str, str]]], list[str]]:
    """Where the columns of an average are, and what is missing.

    Args:
        average: a key of `AVERAGES`.
        have: the aggregations of each benchmark that there is.

    Returns:
        For each whole column its benchmarks and their aggregations; and a text for each other column.
    """
    named: dict[str, str] = {}
    for name in have:
        named.setdefault(canonical(name), name)
    found: dict[str, list[tuple[str, str]]] = {}
    missing = []
    for column, parts in AVERAGES[average].columns.items():
        gone = [benchmark for benchmark, _ in parts if benchmark not in named]
        unscored = [
            shape for benchmark, shape in parts if benchmark in named and shape not in have[named[benchmark]]
        ]
        if len(gone) == len(parts):
            missing.append(column)
        elif gone or unscored:
            why = [f"no {name}" for name in gone] + [f"no score {shape}" for shape in unscored]
            missing.append(f"{column} ({', '.join(why)})")
        else:
            found[column] = [(named[benchmark], shape) for benchmark, shape in parts]
    return found, missing
