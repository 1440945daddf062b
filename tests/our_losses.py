"""The losses of this distribution, as they are registered; those of others may be installed beside them."""

from __future__ import annotations

from functools import partial

from open_clip_ext import plugins, registry

CLASSES = {
    name: registry.load(name)
    for name, entry in registry.entries().items()
    if entry.dist is not None and entry.dist.name == "open_clip_ext"
}
# The kinds of companions that they want, next to negatives.
# Data bring none to a loss whose companions are pairs of samples.
WITH_DATA = [loss for loss in CLASSES.values() if not loss.pairs]
KINDS = sorted({kind for loss in WITH_DATA for kind in loss.companions} - {"neg"})
# Those of companion images.
IMAGES = sorted({kind for loss in WITH_DATA for kind in loss.companion_images})


def anchored(loss):
    """Whether the model is held to its base, unless told otherwise."""
    return loss().anchored


def terms(loss):
    """The names of the terms at their default weights."""
    default = loss()
    shared = [name for name, weight in loss.shared_weights.items() if getattr(default, weight)]
    return [*loss.weights, *shared]


TERMS = {name: terms(loss) for name, loss in CLASSES.items()}


def asked_for(loss):
    """The class with the companions that it takes where they are asked for."""
    kinds = ("companions", "companion_images")
    counts = {a: {kind: n or 1 for kind, n in getattr(loss, a).items()} for a in kinds}
    return type(f"{loss.__name__}WithImages", (loss,), counts)


def flags(name):
    """What asks for them."""
    loss = CLASSES[name]
    images, texts = (
        [f"{kind}=1" for kind, n in c.items() if not n] for c in (loss.companion_images, loss.companions)
    )
    return ("--loss", name, "--companion-images", *images, *(("--companions", *texts) if texts else ()))


WITH_IMAGES = {
    f"{name} with images": asked_for(loss)
    for name, loss in CLASSES.items()
    if 0 in loss.companion_images.values()
}
# The flags of each loss, once more with what it takes where it is asked for.
RUNS = {name: ("--loss", name) for name in CLASSES} | {name: flags(name.split()[0]) for name in WITH_IMAGES}


def options(loss) -> dict[str, plugins.Option]:
    return registry.options(loss)


def other_choices(option: plugins.Option) -> list:
    """What else an option with choices takes: each other one, and a number where numbers are allowed."""
    hints = plugins.alternatives(option.hint)
    choices = [hint for hint in hints if isinstance(hint, str)]
    return [c for c in choices if c != option.default] + [2.0] * (bool(choices) and float in hints)


# Those for which it does not matter how a batch is split; pairs and mixed pictures depend on it.
SPLIT = [name for name in RUNS if not (loss := CLASSES[name.split()[0]]).pairs and not anchored(loss)]
# Those that can tell equal samples apart: of companion images it is not known which pictures they show.
IDENTIFIED = {name: loss for name, loss in CLASSES.items() if not any(loss.companion_images.values())}
# Every loss at its defaults, and with each other choice that one of its options has.
VARIANTS = (
    CLASSES
    | WITH_IMAGES
    | {
        f"{name} {option.name}={choice}": partial(loss, **{option.name: choice})
        for name, loss in CLASSES.items()
        for option in registry.options(loss).values()
        for choice in other_choices(option)
        if name in IDENTIFIED or option.name != "same"
    }
)


def loss_of(variant: str):
    """The class of a variant, by the variant's name."""
    return WITH_IMAGES.get(variant, CLASSES[variant.split()[0]])
