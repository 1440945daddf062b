"""The losses that are installed, what they can be told, and whether they keep the contract.

A loss is an entry `name = module:LossClass` in the entry-point group `open_clip_ext.losses`. The
contract (see docs/add-a-loss.md) is read from signatures.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint
from typing import Any

from torch import nn

from open_clip_ext import plugins
from open_clip_ext.errors import InputError
from open_clip_ext.plugins import Option, describe

__all__ = ["GROUP", "Option", "describe", "entries", "load", "options", "parse_options"]

GROUP = "open_clip_ext.losses"
FLAG = "--loss-cfg"
# A kind of companions names tensors, `{kind}_text_features` or `{kind}_image_features`. The teacher's begin
# with its own name, those of the anchors with theirs, and `{kind}_image_valid` is the mask of images.
KIND = re.compile(r"(?!teacher(?:_|$))(?!anchor(?:_|$))(?!\w*_image$)[A-Za-z0-9_]+", re.ASCII)
# The kinds of texts of a loss whose companions are pairs of samples.
PAIRS = {"pair": 1, "pair_pos": 1, "pair_neg": 1}
# What every loss made from `Loss` has; its own options come first.
ANCHOR_OPTIONS = ("image_anchor", "text_anchor", "similarity_anchor", "anchor_grid", "anchor_texts")
SHARED_OPTIONS = ("same", *ANCHOR_OPTIONS)
DISTRIBUTED_OPTIONS = ("local_loss", "gather_with_grad", "cache_labels", "rank", "world_size")


def entries() -> dict[str, EntryPoint]:
    """Every registered loss by name, not yet loaded."""
    return plugins.entries(GROUP)


def load(name: str) -> Any:
    """The class of loss `name`.

    Raises InputError if it is unknown, broken or lacks the contract.
    """
    known = entries()
    loss = plugins.load(known, name, "--loss", "loss")
    lacks = missing_from_contract(loss)
    if lacks:
        raise InputError(f"--loss {name}: {known[name].value} lacks the contract of a loss: {lacks}")
    return loss


def missing_from_contract(loss: Any) -> str:
    """What keeps `loss` from being usable, in words; empty if nothing does."""
    if not (isinstance(loss, type) and issubclass(loss, nn.Module)):
        return "it must be a subclass of torch.nn.Module"
    companions = getattr(loss, "companions", None)
    if not isinstance(companions, Mapping):
        return "it needs a class attribute `companions`, a mapping such as {'neg': 4} or {}"
    images = getattr(loss, "companion_images", {})
    if not isinstance(images, Mapping):
        return "`companion_images` must be a mapping such as {'neg': 1}"
    aligned = getattr(loss, "aligned", ())
    for attribute, counts in (("companions", companions), ("companion_images", images)):
        if reason := _wrong_counts(attribute, counts):
            return reason
    if getattr(loss, "pairs", False) and (companions, images) != (PAIRS, {"pair": 1}):
        return f"with `pairs`, `companions` must be {PAIRS}, and `companion_images` {{'pair': 1}}"
    if reason := _wrong_groups(companions, images, aligned):
        return reason
    init = inspect.signature(loss).parameters
    if not _accepts_any(init):
        absent = [name for name in DISTRIBUTED_OPTIONS if name not in init]
        if absent:
            return f"__init__ must take {', '.join(absent)}"
    forward = inspect.signature(loss.forward).parameters
    if not _accepts_any(forward):
        wanted = ["image_features", "text_features", "logit_scale", "output_dict"]
        wanted += [f"{kind}_{part}" for kind in companions for part in ("text_features", "valid")]
        wanted += [f"{kind}_image_{part}" for kind in images for part in ("features", "valid")]
        absent = [name for name in wanted if name not in forward]
        if absent:
            return f"forward must take {', '.join(absent)}"
    return ""


def _wrong_counts(attribute: str, counts: Mapping[Any, Any]) -> str:
    for kind, count in counts.items():
        if not (isinstance(kind, str) and KIND.fullmatch(kind)):
            return (
                f"the kind {kind!r} in `{attribute}` must be a name of letters, digits and underscores that "
                "does not begin with teacher or anchor or end in _image, as tensors are named after it"
            )
        if not (isinstance(count, int) and count >= 0):
            return (
                f"the count of kind {kind!r} in `{attribute}` must be a whole number: at least 1, or 0 for "
                "companions that are there where they are asked for"
            )
    return ""


def _wrong_groups(companions: Mapping[str, int], images: Mapping[str, int], aligned: Any) -> str:
    if not (isinstance(aligned, tuple | list) and all(isinstance(group, tuple | list) for group in aligned)):
        return "`aligned` must be a tuple of tuples of kinds, such as (('phrase', 'foil'),)"
    named = [kind for group in aligned for kind in group]
    if any(kind not in companions for kind in named):
        return f"`aligned` names {', '.join(map(str, named))}, and `companions` must have each of these kinds"
    if len(set(named)) < len(named) or any(len(group) < 2 for group in aligned):
        return "`aligned` must have at least two kinds in a group, and each kind in one place"
    if any(len({companions[kind] for kind in group}) > 1 for group in aligned):
        return "kinds in a group of `aligned` must have the same count in `companions`"
    for kind, count in images.items():
        if count and companions.get(kind, count) != count:
            return f"`companion_images` must have as many of kind {kind!r} as `companions` has, or 0"
    return ""


def options(loss: type[nn.Module]) -> dict[str, Option]:
    """The keyword options of a loss, in the order of its signature; those that many share at the end."""
    found = plugins.options(loss, ignore=DISTRIBUTED_OPTIONS)
    return {name: found[name] for name in sorted(found, key=lambda name: name in SHARED_OPTIONS)}


def parse_options(name: str, loss: type[nn.Module], pairs: Sequence[str]) -> dict[str, Any]:
    """`["key=value", ...]` as typed options of `loss`, the others at their defaults.

    Raises InputError on anything that cannot count: an unknown key, a wrong type, an option without
    effect, a parameter of the loss's own.
    """
    known = options(loss)
    chosen = plugins.parse_options(known, pairs, FLAG, f"--loss {name}")
    try:
        built = loss(**chosen)
        idle: Mapping[str, str] = getattr(built, "idle_options", dict)()
    except (TypeError, ValueError) as error:
        raise InputError(f"--loss {name}: {error}") from error
    check_parameters(name, built)
    for key in chosen:
        if key in idle:
            raise InputError(f"{FLAG} {key}: it has no effect because {idle[key]}; leave it out")
    return {option.name: option.default for option in known.values()} | chosen


def check_parameters(name: str, loss: nn.Module) -> None:
    """Raise InputError if `loss` has something to learn, which nobody would train."""
    learned = ", ".join(parameter for parameter, p in loss.named_parameters() if p.requires_grad)
    if learned:
        raise InputError(
            f"--loss {name}: it has parameters of its own ({learned}), which would never be trained: "
            "upstream's optimizer holds the model's alone; make them options, or buffers that commit() moves"
        )


def _accepts_any(parameters: Mapping[str, inspect.Parameter]) -> bool:
    return any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
