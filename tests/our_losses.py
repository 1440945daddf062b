"""The losses of this distribution, as they are registered; those of others may be installed beside them."""

from __future__ import annotations

from functools import partial

from open_clip_ext import plugins, registry

CLASSES = {
    name: registry.load(name)
    for name, entry in registry.entries().items()
    if entry.dist is not None and entry.dist.name == "open_clip_ext"
}
TERMS = {name: list(loss.weights) for name, loss in CLASSES.items()}


def options(loss) -> dict[str, plugins.Option]:
    return registry.options(loss)


def other_choices(option: plugins.Option) -> list:
    """What else an option with choices takes: each other one, and a number where numbers are allowed."""
    hints = plugins.alternatives(option.hint)
    choices = [hint for hint in hints if isinstance(hint, str)]
    return [c for c in choices if c != option.default] + [2.0] * (bool(choices) and float in hints)


# Every loss at its defaults, and with each other choice that one of its options has.
VARIANTS = dict(CLASSES) | {
    f"{name} {option.name}={choice}": partial(loss, **{option.name: choice})
    for name, loss in CLASSES.items()
    for option in registry.options(loss).values()
    for choice in other_choices(option)
}


def loss_of(variant: str):
    """The class of a variant, by the variant's name."""
    return CLASSES[variant.split()[0]]
