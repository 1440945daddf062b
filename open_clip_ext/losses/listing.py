"""The registered losses: where each comes from, its paper, its companions and its options."""

from __future__ import annotations

import argparse


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
        companions = " ".join(f"{kind}={n}" for kind, n in loss.companions.items())
        print(f"{name}\n  from        {entry.value} ({entry.dist.name if entry.dist else 'unknown'})")
        print(f"  paper       {getattr(loss, 'paper', '') or '-'}")
        print(f"  companions  {companions or 'none'}")
        for option in registry.options(loss).values():
            print(f"  {option.name + '=' + str(option.default):<26}  {registry.describe(option.hint)}")
        print()
    return 0
