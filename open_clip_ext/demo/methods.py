"""What the demo compares: registered losses, as they are or with the companion images that they can take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from open_clip_ext.errors import InputError

ALL = "all"
IMAGES = "+images"
DISTRIBUTION = "open_clip_ext"


@dataclass(frozen=True)
class Method:
    """A loss and its data.

    Attributes:
        name: as in `--losses`, in the tables, and of its runs.
        loss: name of the loss.
        kinds: of companions in its shards, beyond negatives, as `companions` names them.
        flags: for the trainer, without dashes, beyond the loss and its options.
    """

    name: str
    loss: str
    kinds: tuple[str, ...] = ()
    flags: Mapping[str, list[str]] = field(default_factory=dict)

    @property
    def data(self) -> str:
        """Name of its shards; methods with the same kinds share them."""
        return "-".join(("fine-tuning", *self.kinds))


def methods(words: Iterable[str]) -> list[Method]:
    """The methods that `--losses` names, each once.

    A word is a loss; `LOSS+images`, the loss with the companions that it takes only if asked; or `all`, every
    loss of this package.

    Raises InputError if there is no such loss, or the world does not draw its companions.
    """
    names: list[str] = []
    for word in words:
        names += _ours() if word == ALL else (word,)
    return [_method(name) for name in dict.fromkeys(names)]


def _ours() -> list[str]:
    from open_clip_ext import registry

    return [name for name, e in registry.entries().items() if e.dist and e.dist.name == DISTRIBUTION]


def _method(name: str) -> Method:
    from open_clip_ext import registry

    loss_name = name.removesuffix(IMAGES)
    loss = registry.load(loss_name)
    asked = name != loss_name
    kinds: list[str] = []
    flags: dict[str, list[str]] = {}
    for flag, counts, ending in (
        ("companions", loss.companions, ""),
        ("companion-images", getattr(loss, "companion_images", {}), "_image"),
    ):
        extra = [f"{kind}=1" for kind, count in counts.items() if asked and not count]
        flags |= {flag: extra} if extra else {}
        kinds += [kind + ending for kind, count in counts.items() if asked or count]
    if asked and not flags:
        raise InputError(
            f"--losses {name}: it takes no companions beside those that it always has; name {loss_name}"
        )
    if getattr(loss, "pairs", False):
        kinds = []  # its companions are made of two samples of a batch
    return Method(name, loss_name, _drawn(name, kinds), flags)


def _drawn(name: str, kinds: Sequence[str]) -> tuple[str, ...]:
    """The kinds without the one that every sample has; raises InputError for one that is never drawn."""
    from open_clip_ext.demo import companions

    drawn = (*companions.TEXTS, *companions.IMAGES)
    for kind in kinds:
        if kind not in drawn:
            raise InputError(
                f"--losses {name}: the loss wants companions of kind {kind}, which the demo does not draw; "
                f"it draws {', '.join(drawn)}"
            )
    return tuple(kind for kind in kinds if kind != companions.NEGATIVES)
