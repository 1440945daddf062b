"""What a generator proposes, what a store holds, and what a generator must be."""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

GROUP = "open_clip_ext.negatives"
NEGATIVE = "neg"
POSITIVE = "pos"
PHRASE = "phrase"
FOIL = "foil"
ABSENCE = "absence"
KIND = re.compile(r"[a-z][a-z0-9_]{0,15}")


@dataclass(slots=True)
class Candidate:
    """A text that a generator proposes for a caption.

    Attributes:
        type: what was done to the caption, such as "swap_noun"; one of the generator's `types`.
        text: the text.
        kind: what it is to the caption: "neg" changes the meaning (a hard negative), "pos" keeps it,
            "phrase" is a part of what the caption says, "foil" such a part changed, "absence" the caption
            and what is not in the picture; or another of the generator's `kinds`.
        reason: why it must not be trained on, as a short code such as "same_lemma"; empty if it may.
        of: another text of the same caption that this one belongs to, such as a foil's phrase; empty
            if it belongs to the caption itself.
    """

    type: str
    text: str
    kind: str = NEGATIVE
    reason: str = ""
    of: str = ""

    @property
    def valid(self) -> bool:
        """Whether it may be trained on."""
        return not self.reason


@dataclass(slots=True)
class Text(Candidate):
    """A text of a caption as a store holds it, rejected ones too.

    Attributes:
        generator: name of the generator that made it.
    """

    generator: str = ""


class Generator(Protocol):
    """A source of negatives: an entry `name = module:Class` in the group `open_clip_ext.negatives`.

    Its annotated keyword parameters beyond `seed` are the options of `negatives make --cfg`.

    It may also have: `kinds: tuple[str, ...]`, the kinds of its texts (default `("neg",)`);
    `batch_size: int`, how many captions it wants at once (default 256);
    `proposals: int`, set to one more than the `--per-type` that the user asks for;
    `proven: bool`, set to whether the store has a valid text of it from an earlier run;
    `survey(pictures: Iterable[Sequence[str]])`, called once before everything else with the captions of
    each picture of the whole file, whatever the shard; `identity` must tell what it has learned from them;
    `status() -> str`, shown beside the progress bar; `close()`, called at the end; `cheap = True` if
    a batch is stored as a whole, since a kill in its middle costs little.

    Attributes:
        version: of its rules or prompts; output of different versions is never mixed.
        types: its types of texts, in the order in which they take their places in a batch.
    """

    version: str
    types: tuple[str, ...]

    def identity(self) -> dict[str, Any]:
        """What, if changed, must not be mixed with earlier output: options, model, seed.

        Plain types only.
        """

    def generate(self, captions: Sequence[str]) -> Iterator[tuple[int, list[Candidate]]]:
        """Yield (index into `captions`, its candidates) as each is finished, in any order.

        A text that belongs to another (`of`) comes after it. A caption without any candidate yields an
        empty list. A caption that is not yielded has failed; it is left for a later run.
        """


def kinds_of(generator: Any) -> tuple[str, ...]:
    """The kinds of texts that a store gets from a generator, the gate's included.

    The gate makes a positive of a negative that says the same as its caption. Raises ValueError if the
    name of a kind is not a short word in lower case.
    """
    kinds = tuple(getattr(generator, "kinds", (NEGATIVE,)))
    for kind in kinds:
        if not (isinstance(kind, str) and KIND.fullmatch(kind)):
            raise ValueError(f"kind {kind!r}: give a short name of lower-case letters, such as 'foil'")
    return tuple(dict.fromkeys((*kinds, POSITIVE) if NEGATIVE in kinds else kinds))


def normalise(caption: str) -> str:
    """The form under which a store knows a caption: Unicode NFC, runs of white space one space.

    White space at either end goes. Upstream's tokenizer makes no difference between the two.
    """
    if not caption.isascii():
        caption = unicodedata.normalize("NFC", caption)
    return " ".join(caption.split())


def draw(seed: int, generator: str, caption: str) -> random.Random:
    """Randomness for one caption: the same whatever the order, the batch or the shard."""
    return random.Random(f"{seed}/{generator}/{caption}")
