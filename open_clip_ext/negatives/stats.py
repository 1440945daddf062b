"""`negatives stats`: how many texts of each type a store has, how far from captions, what was rejected."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from open_clip_ext.language import word_diff
from open_clip_ext.negatives.records import ABSENCE, FOIL, NEGATIVE, PHRASE, POSITIVE, Text
from open_clip_ext.negatives.store import Store
from open_clip_ext.tables import aligned

if TYPE_CHECKING:
    from open_clip_ext.negatives.text_only import Told

NAMES = {NEGATIVE: "negatives", POSITIVE: "positives", ABSENCE: "absences", PHRASE: "phrases", FOIL: "foils"}
TITLES = {
    NEGATIVE: "Negatives: texts that change the meaning",
    POSITIVE: "Positives: texts that keep it",
    ABSENCE: "Absences: captions that also deny what is not there",
    PHRASE: "Phrases: parts of what a caption says",
    FOIL: "Foils: phrases, changed; the edits are those of the phrase",
}


@dataclass
class TypeSummary:
    """What is known of one type of one generator; means are over its valid texts.

    Attributes:
        generator: its name.
        type: the type.
        kind: of the texts, such as "neg"; a generator may make texts of one type and several kinds.
        texts: valid ones.
        captions: captions that have a valid one.
        words: words of a text, on average.
        edits: words in which a text differs from its caption, or from the text that it belongs to, on
            average.
        repeated: texts that a caption has already, from this or an earlier type.
        captions_too: texts that are captions of the store themselves: of other pictures, or a mistake.
        rejected: texts that are not valid.
        told: how well they are told from their captions without the picture (`text_only.Told`); None if that
            was not asked for, or there are too few.
    """

    generator: str
    type: str
    kind: str
    texts: int = 0
    captions: int = 0
    words: float = 0.0
    edits: float = 0.0
    repeated: int = 0
    captions_too: int = 0
    rejected: int = 0
    told: Told | None = None


@dataclass
class Summary:
    """What is in a store.

    Attributes:
        captions: how many there are.
        counts: captions by their number of valid texts, for each kind.
        types: by generator, type and kind.
        reasons: rejected texts by (generator, type, reason).
        untold: types of negatives that are too few to say how well they are told.
    """

    captions: int = 0
    counts: dict[str, Counter[int]] = field(default_factory=dict)
    types: list[TypeSummary] = field(default_factory=list)
    reasons: list[tuple[str, str, str, int]] = field(default_factory=list)
    untold: list[tuple[str, str]] = field(default_factory=list)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("store", type=Path, metavar="STORE", help="the store")
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    parser.add_argument(
        "--text-only", action="store_true",
        help="also fit a classifier of texts alone, and say how well it tells negatives from their captions",
    )  # fmt: skip


def main(args: argparse.Namespace) -> int:
    """Print what is in the store."""
    store = Store.open(args.store)
    summary = summarise(store)
    if args.text_only:
        _tell(store, summary)
    if args.json:
        print(json.dumps(plain(summary), indent=1))
    else:
        print(f"{args.store}, {args.store.stat().st_size / 1e6:,.1f} MB\n")
        for record in store.generators():
            params = " ".join(f"{name}={value}" for name, value in record.params.items())
            print(f"{record.name}, version {record.version}: {params}".rstrip(": "))
        print(f"\n{text(summary)}")
    return 0


def summarise(store: Store) -> Summary:
    """Read the whole store once."""
    from tqdm import tqdm

    known = {_form(word_diff.spoken(caption)) for caption in store.captions()}
    summary = Summary(captions=len(store), counts={kind: Counter() for kind in store.kinds()})
    types: dict[tuple[str, str, str], TypeSummary] = {}
    for (generator, type, kind, reason), count in store.tally().items():
        found = types.setdefault((generator, type, kind), TypeSummary(generator, type, kind))
        if reason:
            found.rejected += count
            summary.reasons.append((generator, type, reason, count))
    for caption, _, texts in tqdm(
        store.entries(), total=len(store), unit="caption", disable=None, leave=False
    ):
        valid = [text for text in texts if text.valid]
        of_kind = Counter(text.kind for text in valid)
        for kind, counts in summary.counts.items():
            counts[of_kind[kind]] += 1
        _count(caption, valid, types, known)
    for found in types.values():
        found.words /= found.texts or 1
        found.edits /= found.texts or 1
    records = {record.name: record for record in store.generators()}
    names, kinds = list(records), store.kinds()
    summary.types = sorted(
        types.values(),
        key=lambda found: (
            names.index(found.generator),
            records[found.generator].types.index(found.type),
            kinds.index(found.kind),
        ),
    )
    summary.reasons.sort(key=lambda row: -row[-1])
    return summary


def _tell(store: Store, summary: Summary) -> None:
    """Add how well each type of negatives is told from its captions by their texts."""
    from open_clip_ext.negatives import text_only

    told = text_only.measure(text_only.sample(store))
    summary.untold = [place for place, found in told.items() if not found]
    for found in summary.types:
        if found.kind == NEGATIVE:
            found.told = told.get((found.generator, found.type))


def _count(
    caption: str, texts: Iterable[Text], types: dict[tuple[str, str, str], TypeSummary], known: set[int]
) -> None:
    seen: set[int] = set()
    covered: set[int] = set()
    said = word_diff.spoken(caption)
    for text in texts:
        found = types[text.generator, text.type, text.kind]
        spoken = word_diff.spoken(text.text)
        found.texts += 1
        found.captions += id(found) not in covered
        found.words += len(spoken)
        found.edits += word_diff.distance(word_diff.spoken(text.of) if text.of else said, spoken)
        found.repeated += (form := _form(spoken)) in seen
        found.captions_too += form in known
        covered.add(id(found))
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
    for kind in summary.counts:
        rows = [
            (
                found.generator,
                found.type,
                found.texts,
                share(found.captions),
                found.words,
                found.edits,
                found.repeated,
                found.captions_too,
                found.rejected,
            )
            for found in summary.types
            if found.kind == kind
        ]
        if rows:
            blocks.append(
                f"{TITLES.get(kind, f'Texts of the kind {kind}')}\n\n{aligned(head, rows, words=2)}"
            )
    told = [
        (found.generator, found.type, found.told.pairs, 100 * found.told.accuracy, 100 * found.told.half)
        for found in summary.types
        if found.told
    ]
    if told:
        title = "Negatives told from their captions by a classifier of texts alone; 50 %: it cannot tell"
        columns = ("", "", "pairs", "told, %", "+-")
        blocks.append(f"{title}\n\n{aligned(columns, told, words=2)}")
    if summary.untold:
        from open_clip_ext.negatives.text_only import too_few

        blocks.append(too_few(summary.untold))
    for kind, counts in summary.counts.items():
        if any(counts.keys()):
            shares = [(str(n), count, share(count)) for n, count in sorted(counts.items())]
            name = NAMES.get(kind, f"texts of the kind {kind}")
            blocks.append(f"Captions by their number of {name}\n\n" + aligned(("", "captions", "%"), shares))
    if summary.reasons:
        blocks.append("Rejected\n\n" + aligned(("", "", "", "texts"), summary.reasons, words=3))
    return "\n\n".join(blocks)


def plain(summary: Summary) -> dict[str, Any]:
    """The same for JSON."""
    reasons = ("generator", "type", "reason", "texts")
    counts = {
        kind: {str(n): count for n, count in sorted(counts.items())}
        for kind, counts in summary.counts.items()
    }
    return {
        "captions": summary.captions,
        "negatives": counts.pop(NEGATIVE),
        "positives": counts.pop(POSITIVE),
        **({"other_kinds": counts} if counts else {}),
        "kinds": [asdict(found) for found in summary.types],
        "reasons": [dict(zip(reasons, row, strict=True)) for row in summary.reasons],
    }
