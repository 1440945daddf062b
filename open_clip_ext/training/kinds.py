"""The kinds of companions of a run: how many of each, where they lie, and how sentences name them.

Companion images of a kind are called `image_kind(kind)` beside texts.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from open_clip_ext.errors import InputError
from open_clip_ext.texts import IMAGE, image_kind

# The kind that `--num-negatives` and `--negatives-key` are short forms for.
NEGATIVES = "neg"


def one(kind: str) -> str:
    """A companion of a kind, in words."""
    if kind.endswith(IMAGE):
        return kind
    return "negative" if kind == NEGATIVES else f"{kind} text"


def several(kind: str) -> str:
    """Companions of a kind, in words."""
    return f"{one(kind)}s"


def count_flags(kinds: Sequence[str], count: int) -> str:
    """The flags that ask for so many companions of each of these kinds."""
    if list(kinds) == [NEGATIVES]:
        return f"--num-negatives {count}"
    return assignments(dict.fromkeys(kinds, count))


def assignments(counts: Mapping[str, int]) -> str:
    """The long flags that ask for so many companions of each kind."""
    flags: dict[str, list[str]] = {}
    for kind, count in counts.items():
        flag = "--companion-images" if kind.endswith(IMAGE) else "--companions"
        flags.setdefault(flag, []).append(f"{kind.removesuffix(IMAGE)}={count}")
    return " ".join(f"{flag} {' '.join(pairs)}" for flag, pairs in flags.items())


def key_flag(kind: str) -> str:
    """The flag that names the column or field of a kind."""
    if kind.endswith(IMAGE):
        return f"--image-keys {kind.removesuffix(IMAGE)}=NAME"
    return "--negatives-key" if kind == NEGATIVES else f"--companion-keys {kind}=NAME"


def resolve_counts(args: argparse.Namespace, declared: Mapping[str, int]) -> dict[str, int]:
    """How many companion texts of each kind a caption gets in a batch; kinds without any are left out.

    Args:
        args: with our flags, as parsed.
        declared: the counts that the loss declares.

    Raises InputError if a flag has no effect, contradicts another one, or is no count.
    """
    given = _pairs("--companions", args.companions, "COUNT", args.loss, declared)
    _refuse_short_form(args, "num_negatives", declared)
    if args.num_negatives is not None:
        if NEGATIVES in given:
            raise InputError(
                f"--num-negatives {args.num_negatives} and --companions {NEGATIVES}={given[NEGATIVES]}: both "
                "say how many negatives a caption gets; leave one of the two out"
            )
        if args.num_negatives < 1:
            raise InputError(
                f"--num-negatives {args.num_negatives}: --loss {args.loss} needs at least 1; "
                "without negatives train with --loss clip"
            )
        given[NEGATIVES] = str(args.num_negatives)
    return _counts("--companions", given, declared, "texts")


def resolve_images(args: argparse.Namespace, declared: Mapping[str, int]) -> dict[str, int]:
    """How many companion images of each kind a caption gets in a batch; kinds without any are left out.

    As `resolve_counts`.
    """
    given = _pairs("--companion-images", args.companion_images, "COUNT", args.loss, declared, "images")
    return _counts("--companion-images", given, declared, "images")


def resolve_keys(
    args: argparse.Namespace, declared: Mapping[str, int], counts: Mapping[str, int]
) -> dict[str, str]:
    """The column or field that each kind of texts is read from, where the data carry them.

    Args:
        args: with our flags, as parsed.
        declared: the counts that the loss declares.
        counts: those of this run.

    Raises InputError if a flag has no effect or contradicts another one.
    """
    given = _pairs("--companion-keys", args.companion_keys, "NAME", args.loss, declared)
    _refuse_short_form(args, "negatives_key", declared)
    if args.negatives_key is not None:
        if NEGATIVES in given:
            raise InputError(
                f"--negatives-key {args.negatives_key} and --companion-keys {NEGATIVES}={given[NEGATIVES]}: "
                "both name the source of the negatives; leave one of the two out"
            )
        given[NEGATIVES] = args.negatives_key
    usual = {kind: "negatives" if kind == NEGATIVES else kind for kind in counts}
    return _keys("--companion-keys", given, usual, "texts")


def resolve_image_keys(
    args: argparse.Namespace, declared: Mapping[str, int], counts: Mapping[str, int]
) -> dict[str, str]:
    """The column or members that each kind of images is read from.

    As `resolve_keys`.
    """
    given = _pairs("--image-keys", args.image_keys, "NAME", args.loss, declared, "images")
    return _keys("--image-keys", given, {kind: f"{kind}_image" for kind in counts}, "images")


def require_equal_counts(loss: Any, name: str, counts: Mapping[str, int], images: Mapping[str, int]) -> None:
    """Raise InputError if kinds that are drawn together differ in their counts.

    Args:
        loss: its class. Images of a kind of texts are drawn with these; texts that are always there may be
            without.
        name: of the loss.
        counts: of texts, by kind; optional kinds that nobody asked for are not there.
        images: of images, by kind.
    """
    groups = [{kind: counts.get(kind, 0) for kind in group} for group in getattr(loss, "aligned", ())]
    for kind in getattr(loss, "companion_images", ()):
        if kind in images or loss.companions.get(kind) == 0:
            texts = {kind: counts.get(kind, 0)} if kind in loss.companions else {}
            groups.append({**texts, image_kind(kind): images.get(kind, 0)})
    for group in groups:
        if len(set(group.values())) > 1:
            together = dict.fromkeys(group, max(group.values()))
            raise InputError(
                f"{assignments(group)}: --loss {name} draws {' and '.join(group)} together, place by place; "
                f"give {assignments(together)}"
            )


def _pairs(
    flag: str,
    pairs: Sequence[str] | None,
    form: str,
    loss: str,
    declared: Mapping[str, int],
    what: str = "texts",
) -> dict[str, str]:
    if pairs and not declared:
        raise InputError(
            f"{flag} has no effect with --loss {loss}, which uses no companion {what}; leave it out"
        )
    found: dict[str, str] = {}
    for pair in pairs or ():
        kind, _, value = pair.partition("=")
        if not (kind and value):
            raise InputError(f"{flag} {pair}: expected KIND={form}")
        if kind not in declared:
            raise InputError(
                f"{flag} {pair}: --loss {loss} uses no companion {what} of kind {kind}; "
                f"its kinds: {', '.join(declared)}"
            )
        if kind in found:
            raise InputError(f"{flag} {kind}: given twice")
        found[kind] = value
    return found


def _refuse_short_form(args: argparse.Namespace, flag: str, declared: Mapping[str, int]) -> None:
    if NEGATIVES not in declared and getattr(args, flag) is not None:
        raise InputError(
            f"--{flag.replace('_', '-')} has no effect with --loss {args.loss}, "
            "which uses no negatives; leave it out"
        )


def _counts(flag: str, given: Mapping[str, str], declared: Mapping[str, int], what: str) -> dict[str, int]:
    for kind, value in given.items():
        if not (value.isascii() and value.isdigit() and int(value)):
            raise InputError(f"{flag} {kind}={value}: give a number of {what} per caption, at least 1")
    counts = {**declared, **{kind: int(value) for kind, value in given.items()}}
    return {kind: count for kind, count in counts.items() if count}


def _keys(flag: str, given: Mapping[str, str], usual: Mapping[str, str], what: str) -> dict[str, str]:
    for kind, name in given.items():
        if kind not in usual:
            counts = "--companions" if what == "texts" else "--companion-images"
            raise InputError(
                f"{flag} {kind}={name} has no effect: the loss takes {what} of kind {kind} only where they "
                f"are asked for; add {counts} {kind}=1"
            )
    return {**usual, **given}
