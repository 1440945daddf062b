"""Which negatives of a store are kept, and why the others are not."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, repeat
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from open_clip_ext.negatives.records import NEGATIVE, Text
from open_clip_ext.negatives.rewrite import Entry
from open_clip_ext.tables import aligned

if TYPE_CHECKING:
    from open_clip_ext.mining.scores import Scorer
    from open_clip_ext.negatives.text_only import Readers

Floats = NDArray[np.floating]
AT_ONCE = 1024  # captions
REASONS = ("text_tells", "near_truth", "too_easy", "not_hardest", "no_picture")
STEP = 1e-3  # of the counted differences between captions and negatives
QUANTILES = (5, 25, 50, 75, 95)


@dataclass(frozen=True)
class Rule:
    """Which negatives of a caption are kept.

        near_truth   s(v, n) > s(v, t) - margin       v: the picture, t: the caption, n: a negative
        too_easy     s(v, n) < floor
        not_hardest  `count` others of the caption, or more, that are neither, have a greater s(v, n)

    s is the cosine of unit-length features. To keep the hardest is the strategy of ConMe (Huang et al.,
    NeurIPS 2024); `margin` and `floor` are ours.

    Attributes:
        margin: how far below its caption a negative has to be.
        floor: how similar to the picture it has to be.
        count: how many a caption keeps at most; None for all.
    """

    margin: float = 0.0
    floor: float = -math.inf
    count: int | None = None

    def reasons(self, negatives: Floats, captions: Floats) -> list[str]:
        """Why each negative is dropped; empty for those that are kept.

        Args:
            negatives: similarity of each negative to the picture, `[K]`.
            captions: that of the caption to the same picture, `[K]`.
        """
        found = np.full(len(negatives), "", dtype=object)
        found[negatives < self.floor] = "too_easy"
        found[negatives > captions - self.margin] = "near_truth"
        if self.count is not None:
            left = np.flatnonzero(found == "")
            order = left[np.argsort(-negatives[left], kind="stable")]
            found[order[self.count :]] = "not_hardest"
        return list(found)


@dataclass
class Selection:
    """Rejects negatives, and counts what became of them.

    Attributes:
        scorer: by which similarities are known; None to look at texts alone.
        rule: what is kept by them.
        readers: the classifiers of texts; None to leave them out.
        sure: how sure a classifier may be.
        counts: negatives by (generator, type) and reason.
        differences: of each type, how often the caption is so many steps above a negative.
    """

    scorer: Scorer | None
    rule: Rule | None
    readers: Readers | None
    sure: float
    counts: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)
    differences: dict[tuple[str, str], Counter[int]] = field(default_factory=dict)

    def __call__(self, found: Iterable[Entry]) -> Iterator[Entry]:
        """The entries, with reasons for the negatives that are dropped."""
        for (caption, images, texts), scores, reasons in self._scored(iter(found)):
            if self.scorer:
                reasons = self._near(negatives(texts), reasons, scores)
            left = iter(reasons)
            judged = [
                replace(text, reason=next(left)) if text.valid and text.kind == NEGATIVE else text
                for text in texts
            ]
            for text, reason in zip(negatives(texts), reasons, strict=True):
                self.counts.setdefault((text.generator, text.type), Counter())[reason] += 1
            yield caption, images, judged

    def _scored(self, found: Iterator[Entry]) -> Iterator[tuple[Entry, Any, list[str]]]:
        """Each entry with the scores of its negatives, and with the reasons by their texts alone."""
        while block := list(islice(found, AT_ONCE)):
            scores = self.scorer(block) if self.scorer else repeat(None, len(block))
            yield from zip(block, scores, self._told(block), strict=True)

    def _told(self, block: Sequence[Entry]) -> list[list[str]]:
        """The reasons by the texts alone, for the negatives of each caption."""
        from open_clip_ext.negatives.text_only import Pair, Place, pairs_of

        reasons = [[""] * len(negatives(texts)) for _, _, texts in block]
        if self.readers is None:
            return reasons
        by_type: dict[Place, list[tuple[int, int, Pair]]] = {}
        for i, entry in enumerate(block):
            for k, (place, pair) in enumerate(pairs_of(*entry)):
                by_type.setdefault(place, []).append((i, k, pair))
        for place, its in by_type.items():
            scores = self.readers.score(place, [pair for _, _, pair in its])
            for (i, k, _), score in zip(its, scores, strict=True):
                if not 1 - self.sure <= score <= self.sure:
                    reasons[i][k] = "text_tells"
        return reasons

    def _near(self, texts: Sequence[Text], reasons: list[str], scores: Any) -> list[str]:
        """The reasons by similarity, of those that have none yet."""
        assert self.rule
        if scores is None:
            return [reason or "no_picture" for reason in reasons]
        for text, (negative, caption) in zip(texts, scores, strict=True):
            counts = self.differences.setdefault((text.generator, text.type), Counter())
            counts[round(float(caption - negative) / STEP)] += 1
        left = [i for i, reason in enumerate(reasons) if not reason]
        for i, reason in zip(left, self.rule.reasons(scores[left, 0], scores[left, 1]), strict=True):
            reasons[i] = reason
        return reasons

    def report(self) -> str:
        """What was kept and what was dropped, and how far negatives are below their captions."""
        from open_clip_ext.negatives.text_only import too_few

        used = [reason for reason in REASONS if any(counts[reason] for counts in self.counts.values())]
        rows = [
            (
                *place,
                counts.total(),
                counts[""],
                100 * counts[""] / counts.total(),
                *(counts[r] for r in used),
            )
            for place, counts in self.counts.items()
        ]
        head = ("", "", "negatives", "kept", "kept, %", *used)
        blocks = [aligned(head, rows, words=2)]
        if self.readers and (unknown := [place for place in self.counts if not self.readers.knows(place)]):
            blocks.append(f"{too_few(unknown)}; none of these is dropped as text_tells")
        if self.differences:
            rows = [
                (*place, *(f"{quantile(counts, q / 100) * STEP:.3f}" for q in QUANTILES))
                for place, counts in self.differences.items()
            ]
            head = ("", "", *(f"{q} %" for q in QUANTILES))
            title = "Cosine of the caption less that of the negative, with the picture"
            blocks.append(
                f"{title}; below 0 the model prefers the negative\n\n{aligned(head, rows, words=2)}"
            )
        return "\n\n".join(blocks)


def negatives(texts: Sequence[Text]) -> list[Text]:
    """The valid negatives among the texts of a caption."""
    return [text for text in texts if text.valid and text.kind == NEGATIVE]


def quantile(counts: Counter[int], share: float) -> int:
    """The least value that `share` of those counted do not exceed."""
    seen = 0
    for value in sorted(counts):
        seen += counts[value]
        if seen >= share * counts.total():
            return value
    raise ValueError("nothing was counted")
