"""`negatives export`: training data that carry their negatives, for any open_clip run.

A CSV with the columns `filepath`, `title` and `negatives`, or webdataset shards with a field
`negatives.json` in each sample. Other kinds are written under their own names.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from open_clip_ext.errors import InputError, TrainingError
from open_clip_ext.negatives.records import NEGATIVE
from open_clip_ext.negatives.store import Store

SEPARATORS = {".csv": ",", ".tsv": "\t"}
PICTURES = ("jpg", "jpeg", "png", "webp")  # that upstream's trainer looks for in a sample


@dataclass
class Export:
    """What has been written so far.

    Attributes:
        store: the store.
        types: by kinds that stand in the same places, a kind by itself among them: the types, in order.
        counts: of each kind, samples by their number of texts.
        missing: pictures that are not there.
        strange: pictures of a format that the trainer does not look for.
        unknown: samples whose caption the store does not have.
    """

    store: Store
    types: Mapping[tuple[str, ...], Sequence[str]]
    counts: dict[str, Counter[int]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    strange: list[str] = field(default_factory=list)
    unknown: int = 0

    @property
    def names(self) -> list[str]:
        """The columns or fields, in order."""
        return [_name(kind) for kinds in self.types for kind in kinds]

    def texts(self, caption: str) -> dict[str, list[str]]:
        """The list of each column or field for a sample, counted; a type without a text has an empty place.

        With one text of each type, as `negatives make` gives by default, each type is always at the same
        place, which CE-CLIP's thresholds need.
        """
        companions = self.store.companions(caption, self.types)
        self.unknown += companions is None
        found = {}
        for kinds, types in self.types.items():
            for kind in kinds:
                places = [[]] * len(types) if companions is None else companions[kind]
                texts = [text for place in places for text in place or [""]]
                self.counts.setdefault(kind, Counter())[sum(map(bool, texts))] += 1
                found[_name(kind)] = texts
        return found

    def report(self, what: str) -> str:
        """What was written, and what was not and why."""
        lines: list[str] = []
        for kinds, types in self.types.items():
            for kind in kinds:
                counts = self.counts[kind]
                samples = counts.total()
                some = samples - counts[0]
                mean = sum(n * count for n, count in counts.items()) / samples
                texts = "negatives" if kind == NEGATIVE else f"texts of kind {kind}"
                head = f"{what}: {samples:,} samples, {some:,} of them" if not lines else f"{some:,} samples"
                lines.append(f"{head} with {texts}, {mean:.2f} on average")
            lines.append(f"types, in this order: {', '.join(types)}")
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
        "--kind", nargs="+", default=(), metavar="KIND",
        help="further kinds of texts, each in a column or field of its name; `phrase+foil`: each foil in the "
        "place of its phrase",
    )  # fmt: skip
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
    if unknown := [type for type in args.type or () if type not in there]:
        raise InputError(
            f"--type {' '.join(unknown)}: {args.store} has no such negatives; it has {', '.join(there)}"
        )
    if not (there or args.kind):
        raise InputError(f"{args.store}: it has no valid negatives to write")
    types: dict[tuple[str, ...], Sequence[str]] = {(NEGATIVE,): args.type or there} if there else {}
    for word in args.kind:
        kinds = tuple(word.split("+"))
        for kind in kinds:
            taken = [known for group in (*types, kinds) for known in group].count(kind) > 1
            if taken or not store.types(kind):
                further = [kind for kind in store.kinds() if kind != NEGATIVE and store.types(kind)]
                raise InputError(
                    f"--kind {word}: give kinds other than {NEGATIVE} that {args.store} has, each once; it "
                    f"has {', '.join(further) or 'none'}"
                )
        types[kinds] = store.types(kinds[0])
        if len(kinds) > 1 and not _belong(store, kinds, types[kinds]):
            raise InputError(
                f"--kind {word}: in {args.store} no {kinds[0]} has a {' and a '.join(kinds[1:])} that "
                "belongs to it; name first the kind that others belong to, as in phrase+foil, or write "
                "single kinds"
            )
    export = Export(store, types)
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
            _write_table(export, args, part)
        else:
            part.mkdir(parents=True)
            (_rewrite_shards if args.source else _write_shards)(export, args, part)
        part.replace(args.out)
    except OSError as error:
        raise TrainingError(f"--out {args.out}: writing failed ({error})") from error
    finally:  # of what failed nothing stays
        part.unlink(missing_ok=True) if table else shutil.rmtree(part, ignore_errors=True)
    print(export.report(str(args.out)))
    return 0


def _write_table(export: Export, args: argparse.Namespace, part: Path) -> None:
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=SEPARATORS[args.out.suffix.lower()])
        writer.writerow(["filepath", "title", *export.names])
        for caption, picture in _pictures(export, args):
            texts = (json.dumps(texts, ensure_ascii=False) for texts in export.texts(caption).values())
            writer.writerow([picture, caption, *texts])


def _write_shards(export: Export, args: argparse.Namespace, part: Path) -> None:
    import webdataset as wds

    with wds.ShardWriter(
        str(part / "%05d.tar"), maxcount=args.shard_size, maxsize=1 << 40, verbose=0
    ) as shards:
        for number, (caption, picture) in enumerate(_pictures(export, args)):
            extension = picture.suffix.lower().removeprefix(".")
            if extension not in PICTURES:
                export.strange.append(str(picture))
                continue
            shards.write(
                {
                    "__key__": f"{number:09d}",
                    extension: picture.read_bytes(),
                    "txt": caption,
                    **{f"{name}.json": texts for name, texts in export.texts(caption).items()},
                }
            )
    if not export.counts:
        raise InputError(f"no picture is {', '.join(PICTURES)}: {_some(export.strange)}")


def _rewrite_shards(export: Export, args: argparse.Namespace, part: Path) -> None:
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
                for name, texts in export.texts(caption).items():
                    fields[f"{name}.json"] = json.dumps(texts, ensure_ascii=False).encode()
                tar.write({**fields, "__key__": sample["__key__"]})
    if not export.counts:
        raise InputError(f"--source {args.source}: there is no sample in it")


def _samples(shard: str) -> Iterator[dict[str, Any]]:
    import tarfile

    from webdataset.tariterators import tarfile_samples

    try:
        yield from tarfile_samples([{"url": shard}])
    except (tarfile.TarError, OSError, ValueError) as error:
        raise InputError(f"{shard}: not a whole tar file of samples ({error})") from error


def _pictures(export: Export, args: argparse.Namespace) -> Iterator[tuple[str, Path]]:
    """Every picture of the store's captions that is there, with the caption."""
    from tqdm import tqdm

    named = found = 0
    for caption, images, _ in tqdm(
        export.store.entries(), total=len(export.store), unit="caption", disable=None
    ):
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


def _belong(store: Store, kinds: Sequence[str], types: Sequence[str]) -> bool:
    """Whether a caption of the store has texts of all these kinds that belong together."""
    return any(any(store.together_by_type(caption, types, kinds) or ()) for caption, _, _ in store.entries())


def _name(kind: str) -> str:
    """The column or field of a kind, as training looks for it by default."""
    return "negatives" if kind == NEGATIVE else kind


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
