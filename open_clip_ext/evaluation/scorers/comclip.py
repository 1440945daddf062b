"""ComCLIP: a picture is embedded anew for each caption, with the parts of it that the caption names.

Jiang et al., "ComCLIP: Training-Free Compositional Image and Text Matching", NAACL 2024; the authors' code is
eric-ai-lab/ComCLIP. No weight is trained. Deviations from that code are in docs/scorers.md.

Shapes: D embedding, J parts of a picture, each with a phrase of the caption.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from open_clip_ext.errors import InputError
from open_clip_ext.evaluation.items import Benchmark, Encoder, Picture
from open_clip_ext.evaluation.scorer import Pair, Scorer
from open_clip_ext.evaluation.scorers import sources
from open_clip_ext.evaluation.scorers.parts import masked

if TYPE_CHECKING:
    from torch import Tensor

Features = Literal["unit", "raw"]
# A phrase of the caption, and the picture with all but its boxes black.
Shown = tuple[str, Picture]
# Weights whose absolute values add up to more than this are not used.
MOST = 10.0
COUNTED = (
    *("pairs", "pairs that the file lacks", "pairs without a phrase", "pairs whose weights cancel"),
    *("parts", "parts without a box", "boxes outside of their picture"),
)


class ComCLIP(Scorer):
    """ComCLIP with parts from a file.

    Args:
        parts: JSONL with the parts of each picture and caption, or boxes with labels in the JSON of COCO's
            instances or of Visual Genome's objects, which are matched with the phrases of a caption.
        features: `unit` as in the authors' code for Winoground, or `raw` as in that for ComVG and retrieval:
            the features' own lengths weigh the parts.
        rerank: the number of candidates of a query in retrieval that are put into a new order.
        tagger: finds the phrases where the file has labels: "textblob", or a spaCy model.
    """

    def __init__(
        self, *, parts: Path, features: Features = "unit", rerank: int = 10, tagger: str = "textblob"
    ) -> None:
        self.rerank = at_least_one(rerank)
        self.features = features
        self._source = sources.read(parts, tagger)
        self._counts: Counter[str] = Counter()

    def check(self, benchmark: Benchmark) -> None:
        """Raises InputError if the file has nothing for the benchmark's pictures."""
        self._source.check(benchmark)

    def similarities(self, encoder: Encoder, pairs: Sequence[Pair]) -> Tensor:
        """`[N]`; the plain cosine of a pair for which the file has no part."""
        shown: list[list[Shown]] = []
        for (picture, _), parts in zip(pairs, self._source.of(pairs), strict=True):
            shown.append([(part.text, masked(picture, part.boxes)) for part in parts or ()])
            self._counts["pairs that the file lacks"] += parts is None
            self._counts["parts without a box"] += sum(part == picture for _, part in shown[-1])
        self._counts["boxes outside of their picture"] = self._source.left_out
        return similarities(encoder, pairs, shown, self.features, self._counts)

    def counts(self) -> dict[str, int]:
        """Pairs and parts, and how many of them are missing."""
        return taken(self._counts)


def similarities(
    encoder: Encoder,
    pairs: Sequence[Pair],
    shown: Sequence[Sequence[Shown]],
    features: Features,
    counts: Counter[str],
) -> Tensor:
    """The similarities `[N]` of pairs with the parts of each; `counts` are added to."""
    import torch
    from tqdm import tqdm

    pictures = {p: n for n, p in enumerate(dict.fromkeys(_pictures(pairs, shown)))}
    texts = {t: n for n, t in enumerate(dict.fromkeys(_texts(pairs, shown)))}
    seen = encoder.pictures(list(pictures), unit=features == "unit")
    read = encoder.texts(list(texts), unit=features == "unit")
    values = torch.empty(len(pairs), dtype=torch.float64)
    every = tqdm(zip(pairs, shown, strict=True), "pairs", len(pairs), unit="pair", disable=None, leave=False)
    for n, ((picture, caption), parts) in enumerate(every):
        whole, text = seen[pictures[picture]].double(), read[texts[caption]].double()
        parted = seen[[pictures[part] for _, part in parts]].double()
        phrases = read[[texts[phrase] for phrase, _ in parts]].double()
        used = weights(parted, phrases)
        counts["pairs"] += 1
        counts["parts"] += len(parts)
        counts["pairs whose weights cancel"] += used is None
        values[n] = similarity(whole, text) if used is None else similarity(whole + used @ parted, text)
    return values


def weights(parts: Tensor, phrases: Tensor) -> Tensor | None:
    """How much each part counts: `w_j = (a_j . e_j) / sum_l (a_l . e_l)`.

    The authors divide by any sum; near 0 the weights explode, below 0 parts that fit are subtracted.

    Args:
        parts: `e [J,D]`.
        phrases: `a [J,D]`.

    Returns:
        `w [J]`, which sum to 1; None if the sum is not above a tenth of the sum of absolute values: then
        the absolute weights would add up to more than `MOST`, and the picture is taken without parts.
    """
    fits = (parts * phrases).sum(-1)
    total = fits.sum()
    return None if len(fits) and total * MOST <= fits.abs().sum() else fits / total


def similarity(picture: Tensor, caption: Tensor) -> Tensor:
    """The cosine of two vectors `[D]`, a scalar."""
    cosine: Tensor = picture @ caption / (picture.norm() * caption.norm())
    return cosine


def at_least_one(rerank: int) -> int:
    """`rerank` itself; raises InputError if it is below 1."""
    if rerank < 1:
        raise InputError(f"--scorer rerank={rerank}: give at least 1")
    return rerank


def taken(counts: Counter[str]) -> dict[str, int]:
    """The counts, which begin anew."""
    found = {name: counts[name] for name in COUNTED if name in counts}
    counts.clear()
    return found


def _pictures(pairs: Sequence[Pair], shown: Sequence[Sequence[Shown]]) -> list[Picture]:
    return [*(picture for picture, _ in pairs), *(picture for parts in shown for _, picture in parts)]


def _texts(pairs: Sequence[Pair], shown: Sequence[Sequence[Shown]]) -> list[str]:
    return [*(caption for _, caption in pairs), *(phrase for parts in shown for phrase, _ in parts)]
