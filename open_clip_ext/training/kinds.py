"""The kinds of companion texts of a run: how many of each, where they lie, and how sentences name them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

from open_clip_ext.errors import InputError

# The kind that `--num-negatives` and `--negatives-key` are short forms for.
NEGATIVES = "neg"


def one(kind: str) -> str:
    """A companion of a kind, in words."""
    return "negative" if kind == NEGATIVES else f"{kind} text"


def several(kind: str) -> str:
    """Companions of a kind, in words."""
    return f"{one(kind)}s"


def count_flags(kinds: Sequence[str], count: int) -> str:
    """The flags that ask for so many companions of each of these kinds."""
    if list(kinds) == [NEGATIVES]:
        return f"--num-negatives {count}"
    return f"--companions {' '.join(f'{kind}={count}' for kind in kinds)}"


def key_flag(kind: str) -> str:
    """The flag that names the column or field of a kind."""
    return "--negatives-key" if kind == NEGATIVES else f"--companion-keys {kind}=NAME"


def resolve_counts(args: argparse.Namespace, declared: Mapping[str, int]) -> dict[str, int]:
    """How many companions of each kind a caption gets in a batch.

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
        return {**declared, NEGATIVES: args.num_negatives, **_counts(given)}
    return {**declared, **_counts(given)}


def resolve_keys(args: argparse.Namespace, declared: Mapping[str, int]) -> dict[str, str]:
    """The column or field that each kind is read from, where the data carry them.

    Args:
        args: with our flags, as parsed.
        declared: the counts that the loss declares.

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
    usual = {kind: "negatives" if kind == NEGATIVES else kind for kind in declared}
    return {**usual, **given}


def require_equal_counts(loss: str, counts: Mapping[str, int], aligned: Sequence[Sequence[str]]) -> None:
    """Raise InputError if kinds that are drawn together differ in their counts."""
    for group in aligned:
        if len({counts[kind] for kind in group}) > 1:
            given = " ".join(f"{kind}={counts[kind]}" for kind in group)
            raise InputError(
                f"--companions {given}: --loss {loss} draws {' and '.join(group)} together, place by place; "
                f"give {count_flags(group, max(counts[kind] for kind in group))}"
            )


def _pairs(
    flag: str, pairs: Sequence[str] | None, form: str, loss: str, declared: Mapping[str, int]
) -> dict[str, str]:
    if pairs and not declared:
        raise InputError(
            f"{flag} has no effect with --loss {loss}, which uses no companion texts; leave it out"
        )
    found: dict[str, str] = {}
    for pair in pairs or ():
        kind, _, value = pair.partition("=")
        if not (kind and value):
            raise InputError(f"{flag} {pair}: expected KIND={form}")
        if kind not in declared:
            raise InputError(
                f"{flag} {pair}: --loss {loss} uses no companion texts of kind {kind}; "
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


def _counts(given: Mapping[str, str]) -> dict[str, int]:
    for kind, value in given.items():
        if not (value.isascii() and value.isdigit() and int(value)):
            raise InputError(f"--companions {kind}={value}: give a number of texts per caption, at least 1")
    return {kind: int(value) for kind, value in given.items()}
