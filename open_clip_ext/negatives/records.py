"""What a generator proposes, what a store holds, and what a generator must be."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

GROUP = "open_clip_ext.negatives"


@dataclass(slots=True)
class Candidate:
    """A text that a generator proposes for a caption.

    Attributes:
        type: what was done to the caption, such as "swap_noun"; one of the generator's `types`.
        text: the text.
        keeps: whether it keeps the caption's meaning (a positive), or changes it (a hard negative).
        reason: why it must not be trained on, as a short code such as "same_lemma"; empty if it may.
    """

    type: str
    text: str
    keeps: bool = False
    reason: str = ""

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

    It may also have: `batch_size: int`, how many captions it wants at once (default 256);
    `proposals: int`, set to one more than the `--per-type` that the user asks for;
    `proven: bool`, set to whether the store has a valid text of it from an earlier run;
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

        A caption without any candidate yields an empty list. A caption that is not yielded has
        failed; it is left for a later run.
        """


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
