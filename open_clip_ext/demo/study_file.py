"""The demo as the file of a study."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from open_clip_ext.demo.methods import Method
from open_clip_ext.demo.recipe import Recipe, tuned_options

FILE = "study.toml"
FOLDER = "base-{}"  # of one base, in the output folder
BASE = "base"  # its model, in `models` of that folder

# What everything is chosen on: what is to be learned, and what is to be kept.
DEV = ("drawn-composition", "drawn-unmentioned")
REPORTED = (*DEV, "drawn-relations", "drawn-shape", "drawn-full", "drawn-web")
# Controls, where they are among the methods.
REFERENCE = ("clip", "negclip")

TITLE = "Hard-negative fine-tuning in a small drawn world"
MEANINGLESS = "A --quick run: it shows that every stage works; its numbers are meaningless."
NOTES = (
    "Tiny {name}s, the bases, were pretrained on web-like captions of drawn scenes, each in its own world. "
    "Each was then fine-tuned with every method on full captions of pairs of objects, with false captions.",
    "Composition: a caption against one with two nouns or two adjectives exchanged, on pairs of objects that "
    "no training picture shows. Zero-shot: background, texture, style and number, which the fine-tuning "
    "captions never mention. Relations: a caption against one with the two objects or the relation "
    "exchanged. Shape: the zero-shot set of what the captions name. R@1 full and R@1 web: retrieval in both "
    "directions, with full captions and with web-like ones.",
    "Relations are learned late and suddenly, at a step that differs between bases. If a run ends before "
    "that, the score depends on the moment, so no method should be judged by them.",
    "Options are the published ones, except for those that a small world must rescale: they are with the "
    "bases in the study's file, at the end. A method mixed with its base costs no training: it is the "
    "control for what a method keeps.",
    "This is a drawn world and a tower of three layers. An order of methods found here is no evidence for "
    "photographs.",
)
SIGLIP = (
    "The models have a logit bias, which starts at {bias:g}: the contrast of images and captions over the "
    "batch is SigLIP's sigmoid loss. The towers are those of the CLIPs of this demo. All options were "
    "published for CLIP; none was chosen for SigLIP."
)


def model(base: int, name: str = BASE) -> str:
    """A model's folder, in the output folder."""
    return f"{FOLDER.format(base)}/models/{name}"


def shards(base: int, name: str) -> str:
    """The folder of a data set, in the output folder."""
    return f"{FOLDER.format(base)}/shards/{name}"


def text(
    recipe: Recipe,
    methods: Sequence[Method],
    scales: Sequence[float],
    seeds: int,
    *,
    select: bool = False,
    quick: bool = False,
    remarks: str = "",
) -> str:
    """The study's file.

    Args:
        recipe: the recipe.
        methods: to compare.
        scales: the logit scale of each base.
        seeds: of fine-tuning, of each method and base.
        select: whether each method's learning rate is chosen from `recipe.select_lr`.
        quick: whether the numbers are meaningless.
        remarks: lines for the head of the file.
    """
    names = [method.name for method in methods]
    notes = [note.format(name="SigLIP" if recipe.siglip else "CLIP") for note in NOTES]
    if recipe.siglip:
        notes.append(SIGLIP.format(bias=recipe.model["model_cfg"]["init_logit_bias"]))
    content = {
        "title": TITLE,
        "notes": [*([MEANINGLESS] if quick else []), *notes],
        "seeds": list(range(seeds)),
        "weights": list(recipe.weights),
        "reference": [name for name in REFERENCE if name in names],
        "at_once": recipe.at_once,
        "train": recipe.flags(recipe.fine_tuning),
        "methods": {method.name: _method(recipe, method, select) for method in methods},
        "bases": {
            FOLDER.format(base): _base(recipe, methods, base, scale) for base, scale in enumerate(scales)
        },
    }
    head = "".join(f"# {line}".rstrip() + "\n" for line in remarks.splitlines())
    return head + "\n" + "\n".join(_lines(content)) + "\n"


def _method(recipe: Recipe, method: Method, select: bool) -> dict[str, Any]:
    flags: dict[str, Any] = dict(method.flags)
    if method.name in recipe.lr and not select:
        flags["lr"] = recipe.lr[method.name]
    found: dict[str, Any] = {"loss": method.loss}
    if flags:
        found["flags"] = flags
    if select:
        found["choose"] = {"lr": list(recipe.select_lr)}
    return found


def _base(recipe: Recipe, methods: Sequence[Method], base: int, scale: float) -> dict[str, Any]:
    """A base with its shards and evaluation seeds, and what it changes of the methods."""
    changes: dict[str, dict[str, Any]] = {method.name: {} for method in methods}
    plain = Method("", "").data
    for method in methods:
        if options := tuned_options(recipe, method.loss, scale):
            changes[method.name]["options"] = options
        if method.data != plain:
            changes[method.name]["flags"] = {"train-data": recipe.shards_in(shards(base, method.data))}

    def on(names: Sequence[str], seeds: Sequence[int]) -> list[dict[str, Any]]:
        numbers = ",".join(str(recipe.evaluation_seed(base, seed)) for seed in seeds)
        return [{"benchmark": name, "seeds": numbers, "size": recipe.test_size} for name in names]

    return {
        "model": f"local-dir:{model(base)}",
        "train": {"train-data": recipe.shards_in(shards(base, plain))},
        "methods": {name: change for name, change in changes.items() if change},
        "dev": on(DEV, [recipe.dev_seed]),
        "reported": on(REPORTED, recipe.test_seeds),
    }


# --- TOML -----------------------------------------------------------------------------------------

BARE = re.compile(r"[A-Za-z0-9_-]+")
LONG = 100  # characters of a list that is on several lines


def _lines(table: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[str]:
    """A table: its values, then the tables in it."""
    inner = {key: value for key, value in table.items() if _is_table(value)}
    yield from (f"{_key(key)} = {_value(value)}" for key, value in table.items() if key not in inner)
    for key, value in inner.items():
        name = ".".join(map(_key, (*path, key)))
        for one in value if isinstance(value, list) else [value]:
            # A table of tables alone needs no head.
            if not one or not all(map(_is_table, one.values())):
                yield f"\n[[{name}]]" if isinstance(value, list) else f"\n[{name}]"
            yield from _lines(one, (*path, key))


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) or (
        isinstance(value, list) and bool(value) and isinstance(value[0], Mapping)
    )


def _key(key: str) -> str:
    return key if BARE.fullmatch(key) else json.dumps(key)


def _value(value: Any) -> str:
    if isinstance(value, list):
        line = f"[{', '.join(map(_value, value))}]"
        return line if len(line) < LONG else "[\n" + "".join(f"    {_value(one)},\n" for one in value) + "]"
    return json.dumps(value) if isinstance(value, str | bool) else repr(value)
