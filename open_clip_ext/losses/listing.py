"""The registered losses: where each comes from, its paper, its companions and its options."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """There are none."""


def main(args: argparse.Namespace) -> int:
    """Print them all; one that is broken is shown with the reason."""
    from open_clip_ext import registry
    from open_clip_ext.errors import InputError

    for name, entry in registry.entries().items():
        try:
            loss = registry.load(name)
        except InputError as error:
            print(f"{name}\n  {error}\n")
            continue
        print(f"{name}\n  from        {entry.value} ({entry.dist.name if entry.dist else 'unknown'})")
        print(f"  paper       {getattr(loss, 'paper', '') or '-'}")
        print(f"  companions  {_counts(loss.companions)}")
        if images := getattr(loss, "companion_images", {}):
            print(f"  images      {_counts(images)}")
        for group in getattr(loss, "aligned", ()):
            print(f"  together    {' '.join(group)}")
        if getattr(loss, "teacher", None):
            print("  teacher     a moving average of the model")
        if getattr(loss, "dense_terms", None):
            print("  tokens      patches of images and words of texts")
        if getattr(loss, "takes_bias", False):
            print("  logit bias  of the model, if it has one")
        for option in registry.options(loss).values():
            said = registry.describe(option.hint) + _limits(loss, option.name)
            print(f"  {option.name + '=' + str(option.default):<26}  {said}")
        print()
    return 0


def _counts(counts: Mapping[str, int]) -> str:
    """How many companions of each kind, and which kinds there are where they are asked for."""
    always = " ".join(f"{kind}={n}" for kind, n in counts.items() if n)
    asked = " ".join(kind for kind, n in counts.items() if not n)
    return ", ".join(filter(None, (always, f"if asked for: {asked}" if asked else ""))) or "none"


def _limits(loss: Any, name: str) -> str:
    """The bounds of an option that declares them, and what it needs to have an effect."""
    declared = getattr(loss, "__dataclass_fields__", {})
    limits: Mapping[str, Any] = declared[name].metadata if name in declared else {}
    least, most, needs = (limits.get(key) for key in ("least", "most", "needs"))
    said = ""
    if least is not None:
        said = f" >= {least:g}" if most is None else f" in [{least:g}, {most:g}]"
    return said + (f"; needs {' or '.join(needs)}" if needs else "")
