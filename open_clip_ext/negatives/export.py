"""`negatives export`: training data that carry their negatives, for any open_clip run.

A CSV with the columns `filepath`, `title` and `negatives`, or webdataset shards with a field
`negatives.json` in each sample.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from open_clip_ext.errors import InputError, TrainingError
from open_clip_ext.negatives.store import Store

SEPARATORS = {".csv": ",", ".tsv": "\t"}
PICTURES = ("jpg", "jpeg", "png", "webp")  # that upstream's trainer looks for in a sample


@dataclass
class Export:
    """What has been written so far.

    Attributes:
        types: the types of negatives, in order.
        counts: samples by their number of negatives.
        missing: pictures that are not there.
        strange: pictures of a format that the trainer does not look for.
        unknown: samples whose caption the store does not have.
    """

    types: Sequence[str]
    counts: Counter[int] = field(default_factory=Counter)
    missing: list[str] = field(default_factory=list)
    strange: list[str] = field(default_factory=list)
    unknown: int = 0

    def negatives(self, store: Store, caption: str) -> list[str]:
        """The list for a sample, counted; a type without a text has an empty place in it.

        With one text of each type, as `negatives make` gives by default, each type is always at the same
        place, which CE-CLIP's thresholds need.
        """
        places = store.texts_by_type(caption, self.types)
        self.unknown += places is None
        texts = [text for place in places or [[]] * len(self.types) for text in place or [""]]
        self.counts[sum(map(bool, texts))] += 1
        return texts

    def report(self, what: str) -> str:
        """What was written, and what was not and why."""
        samples = self.counts.total()
        some = samples - self.counts[0]
        mean = sum(n * count for n, count in self.counts.items()) / samples
        lines = [
            f"{what}: {samples:,} samples, {some:,} of them with negatives, {mean:.2f} on average",
            f"types, in this order: {', '.join(self.types)}",
        ]
        for count, words in (
            (self.unknown, "samples have a caption that the store has not"),
            (len(self.missing), f"pictures are not there and were left out: {_some(self.missing)}"),
            (
                len(self.strange),
                f"pictures are not {', '.join(PICTURES)} and were left out: {_some(self.strange)}",
            ),
        ):
            if count:
                lines.append(f"{count:,} {words}")
        return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("store", type=Path, metavar="STORE", help="the store")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="PATH",
        help="a .csv or .tsv file, or a folder to make for webdataset shards",
    )  # fmt: skip
    parser.add_argument(
        "--images", type=Path, default=Path(), metavar="FOLDER",
        help="the folder that the pictures' paths are relative to (default: this one)",
    )  # fmt: skip
    parser.add_argument(
        "--type", nargs="+", metavar="TYPE", help="only these types of negatives, in this order"
    )
    parser.add_argument(
        "--source", metavar="SHARDS",
        help="for captions that came from webdataset shards {00..99}.tar: write these, with negatives",
    )  # fmt: skip
    parser.add_argument(
        "--caption-key", default="", metavar="NAME", help="with --source, the field of the captions"
    )
    parser.add_argument(
        "--shard-size", type=int, default=10_000, metavar="N", help="samples in a shard (default: 10000)"
    )


def main(args: argparse.Namespace) -> int:
    """Write the data."""
    store = Store.open(args.store)
    there = store.types()
    export = Export(tuple(args.type or there))
    if unknown := [type for type in export.types if type not in there]:
        raise InputError(
            f"--type {' '.join(unknown)}: {args.store} has no such negatives; it has {', '.join(there)}"
        )
    if not export.types:
        raise InputError(f"{args.store}: it has no valid negatives to write")
    if args.shard_size < 1:
        raise InputError(f"--shard-size {args.shard_size}: give at least 1")
    table = args.out.suffix.lower() in SEPARATORS
    if table and args.source:
        raise InputError(f"--out {args.out}: shards are written to a folder; give one, or leave out --source")
    part = args.out.with_name(args.out.name + ".part")
    for path in (args.out, part):
        if path.exists():
            raise InputError(f"{path}: it is there already; give another --out, or remove it")
    try:
        if table:
            _write_table(store, export, args, part)
        else:
            part.mkdir(parents=True)
            (_rewrite_shards if args.source else _write_shards)(store, export, args, part)
        part.replace(args.out)
    except OSError as error:
        raise TrainingError(f"--out {args.out}: writing failed ({error})") from error
    finally:  # of what failed nothing stays
        part.unlink(missing_ok=True) if table else shutil.rmtree(part, ignore_errors=True)
    print(export.report(str(args.out)))
    return 0


def _write_table(store: Store, export: Export, args: argparse.Namespace, part: Path) -> None:
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=SEPARATORS[args.out.suffix.lower()])
        writer.writerow(["filepath", "title", "negatives"])
        for caption, picture in _pictures(store, export, args):
            negatives = export.negatives(store, caption)
            writer.writerow([picture, caption, json.dumps(negatives, ensure_ascii=False)])


def _write_shards(store: Store, export: Export, args: argparse.Namespace, part: Path) -> None:
    import webdataset as wds

    with wds.ShardWriter(
        str(part / "%05d.tar"), maxcount=args.shard_size, maxsize=1 << 40, verbose=0
    ) as shards:
        for number, (caption, picture) in enumerate(_pictures(store, export, args)):
            extension = picture.suffix.lower().removeprefix(".")
            if extension not in PICTURES:
                export.strange.append(str(picture))
                continue
            shards.write(
                {
                    "__key__": f"{number:09d}",
                    extension: picture.read_bytes(),
                    "txt": caption,
                    "negatives.json": export.negatives(store, caption),
                }
            )
    if not export.counts:
        raise InputError(f"no picture is {', '.join(PICTURES)}: {_some(export.strange)}")


def _rewrite_shards(store: Store, export: Export, args: argparse.Namespace, part: Path) -> None:
    """Each shard of the source again under its own name, with the negatives of each sample."""
    import webdataset as wds
    from braceexpand import braceexpand
    from tqdm import tqdm

    from open_clip_ext.negatives.captions import Keys, sample_rows

    names = list(braceexpand(args.source))
    if len({Path(name).name for name in names}) < len(names):
        raise InputError(f"--source {args.source}: two shards have the same name; export them one by one")
    for name in tqdm(names, unit="shard", disable=None):
        if not Path(name).is_file():
            raise InputError(f"{name}: no such file")
        with wds.TarWriter(str(part / Path(name).name), encoder=False) as tar:
            for sample in _samples(name):
                fields = {key: value for key, value in sample.items() if not key.startswith("__")}
                where = f"{name}, sample {sample['__key__']}"
                (caption, *_), *more = sample_rows(fields, Keys(args.caption_key), where)
                if more:
                    raise InputError(
                        f"{where}: {1 + len(more)} captions, where training reads one; name its field with "
                        "--caption-key"
                    )
                negatives = json.dumps(export.negatives(store, caption), ensure_ascii=False)
                tar.write({**fields, "__key__": sample["__key__"], "negatives.json": negatives.encode()})
    if not export.counts:
        raise InputError(f"--source {args.source}: there is no sample in it")


def _samples(shard: str) -> Iterator[dict[str, Any]]:
    import tarfile

    from webdataset.tariterators import tarfile_samples

    try:
        yield from tarfile_samples([{"url": shard}])
    except (tarfile.TarError, OSError, ValueError) as error:
        raise InputError(f"{shard}: not a whole tar file of samples ({error})") from error


def _pictures(store: Store, export: Export, args: argparse.Namespace) -> Iterator[tuple[str, Path]]:
    """Every picture of the store's captions that is there, with the caption."""
    from tqdm import tqdm

    named = found = 0
    for caption, images, _ in tqdm(store.entries(), total=len(store), unit="caption", disable=None):
        for image in images:
            named += 1
            if (picture := args.images / image).is_file():
                found += 1
                yield caption, picture
            else:
                export.missing.append(str(picture))
    if not named:
        raise InputError(
            f"{args.store}: its captions came without pictures; train on the source with --negatives "
            f"{args.store}, or, for webdataset shards, give them with --source"
        )
    if not found:
        raise InputError(
            f"none of the {named:,} pictures is there, such as {export.missing[0]}; "
            "name their folder with --images"
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
