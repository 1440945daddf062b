"""`negatives make`: captions in, a store of their negatives out."""

from __future__ import annotations

import argparse
import gc
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from open_clip_ext import plugins
from open_clip_ext.errors import InputError, TrainingError
from open_clip_ext.negatives.records import GROUP, NEGATIVE, POSITIVE, kinds_of, normalise

if TYPE_CHECKING:
    from open_clip_ext.negatives.gate import Gate
    from open_clip_ext.negatives.store import Writer

BATCH = 256
WIDTH = 10  # of a column of the table at the end


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "captions", metavar="CAPTIONS",
        help=".csv, .tsv, .json (COCO captions), .jsonl or .parquet, or webdataset shards {00..99}.tar",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, required=True, metavar="STORE", help="the store to write or go on with"
    )
    parser.add_argument(
        "--recipe", required=True, metavar="NAME", help=f"a generator: {', '.join(plugins.entries(GROUP))}"
    )
    parser.add_argument(
        "--cfg", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="options of the generator; a wrong one lists those that there are",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of all random choices (default: 0)")
    parser.add_argument(
        "--per-type", type=int, default=1, metavar="N",
        help="texts of each type that a caption gets at most (default: 1); training draws among them",
    )  # fmt: skip
    parser.add_argument(
        "--context", type=int, default=77, metavar="TOKENS",
        help="what the text tower reads: texts that differ only later are turned away (default: 77)",
    )  # fmt: skip
    parser.add_argument("--caption-key", default="", metavar="NAME", help="the column or key of the captions")
    parser.add_argument(
        "--image-key", default="", metavar="NAME", help="the column or key of the pictures' files"
    )
    parser.add_argument(
        "--csv-separator", default="", metavar="CHARACTER",
        help="what separates the columns of a CSV file, as in training (default: found from its header)",
    )  # fmt: skip
    parser.add_argument(
        "--shard", type=_shard, metavar="I/N",
        help="do part I of N (1/N to N/N) into STORE.I-of-N; bring the parts together with `negatives merge`",
    )  # fmt: skip
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N captions, to try it out")


def main(args: argparse.Namespace) -> int:
    """Make the negatives; the same command goes on where it was stopped."""
    from open_clip_ext.negatives.store import Writer

    if args.per_type < 1:
        raise InputError(f"--per-type {args.per_type}: at least 1")
    generator = _generator(args.recipe, args.cfg, args.seed)
    if hasattr(generator, "proposals"):
        generator.proposals = args.per_type + 1  # one to spare
    source = _read(args)
    if hasattr(generator, "survey"):
        generator.survey(source.pictures())
    gate = _gate(generator, args)
    out = (
        args.out
        if args.shard is None
        else args.out.with_name(f"{args.out.name}.{args.shard[0]}-of-{args.shard[1]}")
    )
    params = {**generator.identity(), **gate.identity()}
    try:
        kinds = kinds_of(generator)
    except ValueError as error:
        raise InputError(f"--recipe {args.recipe}: {error}") from error
    with (
        closing(generator) if hasattr(generator, "close") else nullcontext(),
        Writer(out, args.recipe, generator.version, params, generator.types, kinds) as writer,
    ):
        print(f"{source.describe(args.captions)}; {_part(args)}writing {out}", file=sys.stderr)
        if hasattr(generator, "proven"):
            generator.proven = any(not reason for _, _, reason in writer.tally())
        work = Work(generator, gate, writer, source)
        with _few_collections():
            work.run(source.part(args.shard, args.limit))
        tally = writer.tally()
    print(work.report(tally, kinds))
    if work.failed:
        raise TrainingError(f"{work.failed} captions failed; run the same command again to try them again")
    return 0


@dataclass
class Source:
    """The captions of a file, each once.

    Attributes:
        images: the pictures of each caption, in the file's order; those without a name left out.
        captions: the captions of each picture.
        listed: further captions of pictures without a name.
        rows: how many captions the file has.
    """

    images: dict[str, list[str]] = field(default_factory=dict)
    captions: dict[str, list[str]] = field(default_factory=dict)
    listed: dict[str, list[str]] = field(default_factory=dict)
    rows: int = 0

    def add(self, caption: str, image: str, others: Sequence[str] = ()) -> None:
        """Take in a caption of the file."""
        caption = normalise(caption)
        if others:
            self.listed.setdefault(caption, []).extend(map(normalise, others))
        self.rows += 1
        images = self.images.setdefault(caption, [])
        if image and image not in images:
            images.append(image)
            self.captions.setdefault(image, []).append(caption)

    def others(self, caption: str) -> list[str]:
        """Further captions of the same pictures."""
        named = (other for image in self.images[caption] for other in self.captions[image])
        return [other for other in (*named, *self.listed.get(caption, ())) if other != caption]

    def pictures(self) -> Iterator[Sequence[str]]:
        """The captions of each picture; without a name, those of a list."""
        yield from self.captions.values()
        lists = set()
        for caption, images in self.images.items():
            if others := self.listed.get(caption):
                lists.add(tuple(sorted({caption, *others})))
            elif not images:
                yield (caption,)
        yield from sorted(lists)

    def part(self, shard: tuple[int, int] | None, limit: int | None) -> list[str]:
        """The captions to do: those of a shard, which depends on the text alone."""
        from open_clip_ext.negatives.store_file import key

        chosen = islice(self.images, limit)
        return [c for c in chosen if shard is None or key(c) % shard[1] == shard[0] - 1]

    def describe(self, name: str) -> str:
        """What there is, in words."""
        pictures = f" of {len(self.captions)} pictures" if self.captions else ""
        return f"{name}: {self.rows} captions{pictures}, {len(self.images)} of them different"


class Work:
    """Captions on their way through a generator and the gate into a store, and what became of them."""

    def __init__(self, generator: Any, gate: Gate, writer: Writer, source: Source) -> None:
        self.generator = generator
        self.gate = gate
        self.writer = writer
        self.source = source
        self.unfit: Counter[str] = Counter()
        self.done = self.failed = 0
        self.seconds = 0.0

    def run(self, captions: Sequence[str]) -> None:
        """Do every caption that the store has not yet."""
        from tqdm import tqdm

        start = time.monotonic()
        status = getattr(self.generator, "status", None)
        todo = [caption for caption in captions if not self.writer.finished(caption)]
        if len(todo) < len(captions):
            print(f"{len(captions) - len(todo)} captions are done already", file=sys.stderr)
        # The rate and the time left are of this run alone.
        with tqdm(total=len(todo), unit=" captions", smoothing=0.1, file=sys.stderr) as bar:
            for batch in _batches(todo, getattr(self.generator, "batch_size", BATCH)):
                before = self.done
                with self.writer.together() if getattr(self.generator, "cheap", False) else nullcontext():
                    for _ in self._batch(batch):
                        bar.update()
                        if status:
                            bar.set_postfix_str(status())
                self.failed += len(batch) - (self.done - before)
        self.seconds = time.monotonic() - start

    def _batch(self, batch: Sequence[str]) -> Iterator[None]:
        from open_clip_ext.negatives.gate import unfit

        fit = []
        for caption in batch:
            if reason := unfit(caption, self.gate.tagger.knows):
                self.unfit[reason] += 1
                self._store(caption, [])
                yield
            else:
                fit.append(caption)
        tagged = dict(zip(fit, self.gate.tagger.tag(fit), strict=True))
        for index, candidates in self.generator.generate(fit):
            caption = fit[index]
            checked = self.gate.check(caption, tagged[caption], candidates, self.source.others(caption))
            self._store(caption, checked)
            yield

    def _store(self, caption: str, texts: Sequence[Any]) -> None:
        self.writer.add(caption, texts, self.source.images[caption])
        self.done += 1

    def report(self, tally: Mapping[tuple[str, str, str], int], kinds: Sequence[str] = ()) -> str:
        """What the store has of this generator now, as a table, and what this run did.

        Args:
            tally: the number of its texts by (type, kind, reason).
            kinds: its kinds.
        """
        from open_clip_ext.negatives.gate import REASONS, UNFIT

        others = [kind for kind in kinds if kind not in (NEGATIVE, POSITIVE)]
        heads = "".join(f"{kind:>{WIDTH}}" for kind in others)
        lines = [f"{'type':<16}{'negatives':>10}{'keep the meaning':>18}{heads}  turned away"]
        for type in self.generator.types:
            away = {reason: n for (t, _, reason), n in sorted(tally.items()) if t == type and reason}
            passed = [tally.get((type, kind, ""), 0) for kind in (NEGATIVE, POSITIVE)]
            rest = "".join(f"{tally.get((type, kind, ''), 0):>{WIDTH}}" for kind in others)
            reasons = ", ".join(f"{reason} {n}" for reason, n in away.items()) or "-"
            lines.append(f"{type:<16}{passed[0]:>10}{passed[1]:>18}{rest}  {reasons}")
        used = {reason for (_, _, reason) in tally if reason}
        lines += [f"  {reason}: {words}" for reason, words in REASONS.items() if reason in used]
        lines += [f"left out, {UNFIT[reason]}: {n} captions" for reason, n in sorted(self.unfit.items())]
        rate = self.done / self.seconds if self.seconds else 0
        lines.append(f"{self.done} captions in {self.seconds:.1f} s, {rate:.0f} a second")
        return "\n".join(lines)


@contextmanager
def _few_collections() -> Iterator[None]:
    """The garbage collector leaves the captions alone and comes seldom: it has next to nothing to find."""
    often, *others = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(100 * often, *others)
    try:
        yield
    finally:
        gc.set_threshold(often, *others)
        gc.unfreeze()


def _generator(recipe: str, pairs: Sequence[str], seed: int) -> Any:
    made = plugins.load(plugins.entries(GROUP), recipe, "--recipe", "generator")
    options = plugins.parse_options(
        plugins.options(made, ignore=("seed",)), pairs, "--cfg", f"--recipe {recipe}"
    )
    try:
        return made(seed=seed, **options)
    except (TypeError, ValueError) as error:
        raise InputError(f"--recipe {recipe}: {error}") from error


def _gate(generator: Any, args: argparse.Namespace) -> Gate:
    """The gate, with the generator's own tagger and lexicon where it has them."""
    from open_clip_ext.language.entailment import EntailmentChecker
    from open_clip_ext.language.lexicon import Lexicon
    from open_clip_ext.language.taggers import tagger
    from open_clip_ext.negatives.gate import Gate

    lexicon = getattr(generator, "lexicon", None) or Lexicon()
    return Gate(
        EntailmentChecker(lexicon),
        getattr(generator, "tagger", None) or tagger("auto"),
        args.context,
        args.per_type,
    )


def _read(args: argparse.Namespace) -> Source:
    from tqdm import tqdm

    from open_clip_ext.csv_files import one_character
    from open_clip_ext.negatives.captions import read

    separator = one_character(args.csv_separator) if args.csv_separator else ""
    source = Source()
    rows = read(args.captions, args.caption_key, args.image_key, separator)
    for row in tqdm(rows, desc="reading", unit=" captions", file=sys.stderr, leave=False):
        source.add(*row)
    if not any(source.images):
        raise InputError(f"{args.captions}: it has no captions")
    return source


def _batches(captions: Sequence[str], size: int) -> Iterable[Sequence[str]]:
    return (captions[at : at + size] for at in range(0, len(captions), size))


def _part(args: argparse.Namespace) -> str:
    return f"part {args.shard[0]} of {args.shard[1]}, " if args.shard else ""


def _shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"expected I/N with 1 <= I <= N, got {text!r}")
    return int(match[1]), int(match[2])
