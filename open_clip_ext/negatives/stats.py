"""`negatives stats`: how many texts of each type a store has, how far from captions, what was rejected."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from open_clip_ext.negatives.language import word_diff
from open_clip_ext.negatives.records import Text
from open_clip_ext.negatives.store import Store
from open_clip_ext.tables import aligned


@dataclass
class Kind:
    """What is known of one type of one generator; means are over its valid texts.

    Attributes:
        generator: its name.
        type: the type.
        keeps: whether the texts keep the meaning.
        texts: valid ones.
        captions: captions that have a valid one.
        words: words of a text, on average.
        edits: words in which a text differs from its caption, on average.
        repeated: texts that a caption has already, from this or an earlier type.
        captions_too: texts that are captions of the store themselves: of other pictures, or a mistake.
        rejected: texts that are not valid.
    """

    generator: str
    type: str
    keeps: bool
    texts: int = 0
    captions: int = 0
    words: float = 0.0
    edits: float = 0.0
    repeated: int = 0
    captions_too: int = 0
    rejected: int = 0


@dataclass
class Summary:
    """What is in a store.

    Attributes:
        captions: how many there are.
        negatives: captions by their number of valid negatives.
        positives: captions by their number of valid positives.
        kinds: by type.
        reasons: rejected texts by (generator, type, reason).
    """

    captions: int = 0
    negatives: Counter[int] = field(default_factory=Counter)
    positives: Counter[int] = field(default_factory=Counter)
    kinds: list[Kind] = field(default_factory=list)
    reasons: list[tuple[str, str, str, int]] = field(default_factory=list)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("store", type=Path, metavar="STORE", help="the store")
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def main(args: argparse.Namespace) -> int:
    """Print what is in the store."""
    store = Store.open(args.store)
    summary = summarise(store)
    if args.json:
        print(json.dumps(plain(summary), indent=1))
    else:
        print(f"{args.store}, {args.store.stat().st_size / 1e6:,.1f} MB\n")
        for maker in store.generators():
            params = " ".join(f"{name}={value}" for name, value in maker.params.items())
            print(f"{maker.name}, version {maker.version}: {params}".rstrip(": "))
        print(f"\n{text(summary)}")
    return 0


def summarise(store: Store) -> Summary:
    """Read the whole store once."""
    from tqdm import tqdm

    known = {_form(word_diff.spoken(caption)) for caption in store.captions()}
    summary = Summary(captions=len(store))
    kinds: dict[tuple[str, str, bool], Kind] = {}
    for generator, type, keeps, reason in (tally := store.tally()):
        kind = kinds.setdefault((generator, type, keeps), Kind(generator, type, keeps))
        if reason:
            kind.rejected += tally[generator, type, keeps, reason]
            summary.reasons.append((generator, type, reason, tally[generator, type, keeps, reason]))
    for caption, _, texts in tqdm(
        store.entries(), total=len(store), unit="caption", disable=None, leave=False
    ):
        valid = [text for text in texts if text.valid]
        summary.positives[sum(text.keeps for text in valid)] += 1
        summary.negatives[sum(not text.keeps for text in valid)] += 1
        _count(caption, valid, kinds, known)
    for kind in kinds.values():
        kind.words /= kind.texts or 1
        kind.edits /= kind.texts or 1
    places = {
        (maker.name, type): place for maker in store.generators() for place, type in enumerate(maker.types)
    }
    order = list(dict.fromkeys(maker.name for maker in store.generators()))
    summary.kinds = sorted(
        kinds.values(),
        key=lambda kind: (order.index(kind.generator), places[kind.generator, kind.type], kind.keeps),
    )
    summary.reasons.sort(key=lambda row: -row[-1])
    return summary


def _count(
    caption: str, texts: Iterable[Text], kinds: dict[tuple[str, str, bool], Kind], known: set[int]
) -> None:
    seen: set[int] = set()
    covered: set[int] = set()
    said = word_diff.spoken(caption)
    for text in texts:
        kind = kinds[text.generator, text.type, text.keeps]
        spoken = word_diff.spoken(text.text)
        kind.texts += 1
        kind.captions += id(kind) not in covered
        kind.words += len(spoken)
        kind.edits += word_diff.distance(said, spoken)
        kind.repeated += (form := _form(spoken)) in seen
        kind.captions_too += form in known
        covered.add(id(kind))
        seen.add(form)


def _form(spoken: Sequence[str]) -> int:
    """What is the same of two texts that say the same, but for a stop; a hash, to be small."""
    return hash(" ".join(spoken).rstrip(" ."))


def text(summary: Summary) -> str:
    """The tables."""

    def share(count: int) -> float:
        return 100 * count / (summary.captions or 1)

    blocks = [f"{summary.captions:,} captions"]
    head = ("", "", "texts", "coverage, %", "words", "edits", "repeated", "a caption too", "rejected")
    for keeps, title in (
        (False, "Negatives: texts that change the meaning"),
        (True, "Positives: texts that keep it"),
    ):
        rows = [
            (
                k.generator,
                k.type,
                k.texts,
                share(k.captions),
                k.words,
                k.edits,
                k.repeated,
                k.captions_too,
                k.rejected,
            )
            for k in summary.kinds
            if k.keeps is keeps
        ]
        if rows:
            blocks.append(f"{title}\n\n{aligned(head, rows, words=2)}")
    for name, counts in (("negatives", summary.negatives), ("positives", summary.positives)):
        if any(counts.keys()):
            shares = [(str(n), count, share(count)) for n, count in sorted(counts.items())]
            blocks.append(f"Captions by their number of {name}\n\n" + aligned(("", "captions", "%"), shares))
    if summary.reasons:
        blocks.append("Rejected\n\n" + aligned(("", "", "", "texts"), summary.reasons, words=3))
    return "\n\n".join(blocks)


def plain(summary: Summary) -> dict[str, Any]:
    """The same for JSON."""
    names = ("generator", "type", "reason", "texts")
    return {
        **asdict(summary),
        "negatives": {str(n): count for n, count in sorted(summary.negatives.items())},
        "positives": {str(n): count for n, count in sorted(summary.positives.items())},
        "reasons": [dict(zip(names, row, strict=True)) for row in summary.reasons],
    }
