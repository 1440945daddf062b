"""`negatives select`: a store of the negatives that are hard for a model, or that texts do not give away."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from open_clip_ext.errors import InputError
from open_clip_ext.evaluation import models, options
from open_clip_ext.negatives.records import normalise
from open_clip_ext.negatives.store import Store

if TYPE_CHECKING:
    from open_clip_ext.mining.scores import Scorer
    from open_clip_ext.mining.selection import Rule, Selection
    from open_clip_ext.negatives.rewrite import Entry
    from open_clip_ext.negatives.text_only import Readers

KEEP = ("hardest", "band")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("store", type=Path, metavar="STORE", help="the store to select from")
    parser.add_argument("--out", type=Path, required=True, metavar="STORE", help="the store to write")
    group = parser.add_argument_group("by similarity to the picture, under a model")
    group.add_argument(
        "--keep", choices=KEEP,
        help="hardest: of each caption the --count most similar to its picture; band: all from --floor to "
        "--margin below the caption",
    )  # fmt: skip
    group.add_argument(
        "--count", type=int, metavar="N", help="negatives that a caption keeps (default: 1; with band: all)"
    )
    group.add_argument(
        "--margin", type=float, default=0.0, metavar="M",
        help="drop a negative whose cosine with the picture is above the caption's less M, since it may be "
        "true; below 0 lets some above the caption pass (default: %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--floor", type=float, metavar="F", help="drop a negative whose cosine with the picture is below F"
    )
    group.add_argument(
        "--images", type=Path, metavar="FOLDER",
        help="the folder that the pictures' paths are relative to (default: this one)",
    )  # fmt: skip
    group.add_argument(
        "--captions", metavar="FILE",
        help="take the pictures of the captions from this file, as `make` reads it (default: from the store)",
    )  # fmt: skip
    group.add_argument("--caption-key", default="", metavar="NAME", help="its column or key of the captions")
    group.add_argument("--image-key", default="", metavar="NAME", help="its column or key of the pictures")
    models.add_arguments(parser)
    options.add_encoding_arguments(parser)
    group = parser.add_argument_group("by their texts alone")
    group.add_argument(
        "--plausible", nargs="?", type=float, const=0.7, metavar="P",
        help="keep the negatives that a classifier of texts alone cannot tell from their captions: the "
        "probability that it takes one of the two for the caption is at most P (default: %(const)s)",
    )  # fmt: skip


def main(args: argparse.Namespace) -> int:
    """Select, write and report; the same command goes on from what is in the cache."""
    from open_clip_ext.mining.selection import Selection

    _check(args)
    store = Store.open(args.store)
    if not store.types():
        raise InputError(f"{args.store}: it has no valid negatives to select from")
    scorer = rule = None
    note: dict[str, Any] = {}
    images = _images(store, args)
    if args.keep:
        scorer, by = _scorer(store, images, args)
        rule = _rule(args)
        note |= {"by": by, "keep": args.keep, "margin": rule.margin, "count": rule.count, "floor": args.floor}
    if args.plausible is not None:
        note["plausible"] = args.plausible
    selection = Selection(scorer, rule, _readers(store, images, args), args.plausible or 0.0)
    _write(store, args.out, note, selection, images)
    print(f"{selection.report()}\n\n{args.out}")
    return 0


def _check(args: argparse.Namespace) -> None:
    """Raise InputError for options that are wrong whatever the store is."""
    if not args.keep and args.plausible is None:
        raise InputError(f"--keep: missing; give --keep {' or '.join(KEEP)}, or --plausible, or both")
    given = (name for name in ("count", "margin", "floor", "model", "pretrained", "activation", "images"))
    idle = [f"--{name}" for name in given if getattr(args, name)]
    if idle and not args.keep:
        raise InputError(f"{', '.join(idle)}: without effect, since --keep is missing")
    if args.keep == "band" and args.floor is None:
        raise InputError("--keep band: needs --floor, the least similarity to the picture, such as 0.15")
    if args.count is not None and args.count < 1:
        raise InputError(f"--count {args.count}: give at least 1")
    for flag, value in (("--margin", args.margin), ("--floor", args.floor)):
        least = -2 if flag == "--margin" else -1
        if value is not None and not least <= value <= -least:
            raise InputError(f"{flag} {value}: give a cosine, from {least} to {-least}")
    if args.plausible is not None and not 0.5 < args.plausible <= 1:
        raise InputError(f"--plausible {args.plausible}: give a probability above 0.5, up to 1")
    if args.batch_size < 1:
        raise InputError(f"--batch-size {args.batch_size}: give at least 1")
    if args.out.exists():
        raise InputError(f"--out {args.out}: it is there already; give another, or remove it")
    if not args.out.absolute().parent.is_dir():
        raise InputError(f"--out {args.out}: there is no folder {args.out.parent}; make it first")


def _rule(args: argparse.Namespace) -> Rule:
    from open_clip_ext.mining.selection import Rule

    count = args.count or (1 if args.keep == "hardest" else None)
    return Rule(args.margin, -math.inf if args.floor is None else args.floor, count)


def _images(store: Store, args: argparse.Namespace) -> Mapping[str, Sequence[str]] | None:
    """The pictures of each caption by `--captions`; None to take them from the store.

    Raises InputError if the file does not have most of the captions.
    """
    if not args.captions:
        return None
    from open_clip_ext.negatives.captions import read

    found: dict[str, list[str]] = {}
    for row in read(args.captions, args.caption_key, args.image_key):
        if row.image:
            found.setdefault(normalise(row.caption), []).append(row.image)
    if not found:
        raise InputError(f"--captions {args.captions}: its captions come without pictures")
    known = sum(caption in found for caption in store.captions())
    if 2 * known < len(store):
        raise InputError(
            f"--captions {args.captions}: it has {known:,} of the {len(store):,} captions of {args.store} "
            "with a picture; give the file that the store was made of"
        )
    return found


def _scorer(
    store: Store, images: Mapping[str, Sequence[str]] | None, args: argparse.Namespace
) -> tuple[Scorer, dict[str, Any]]:
    """The scorer, and which model it has."""
    from open_clip_ext.evaluation.items import Picture
    from open_clip_ext.mining.features import Model, present
    from open_clip_ext.mining.scores import Scorer

    # A dictionary for its order: pictures of one block of captions come together.
    names = list(dict.fromkeys(name for _, its, _ in entries(store, images) for name in its))
    if not names:
        raise InputError(
            f"{args.store}: its captions came without pictures; give a file that names them, with --captions"
        )
    paths = {name: str((args.images or Path()) / name) for name in names}
    there = present(list(dict.fromkeys(paths.values())), args.allow_missing)
    loaded = models.from_arguments(args)
    model = Model(loaded, args)
    features, digests = model.pictures([Picture(path) for path in there])
    places = {path: row for row, path in enumerate(there)}
    rows = {name: places[path] for name, path in paths.items() if path in places}
    by = {key: loaded.record[key] for key in ("name", "checkpoint", "sha256")}
    return Scorer(model, features, digests, rows), by


def _readers(
    store: Store, images: Mapping[str, Sequence[str]] | None, args: argparse.Namespace
) -> Readers | None:
    if args.plausible is None:
        return None
    from open_clip_ext.negatives import text_only

    return text_only.Readers(text_only.sample(store, entries=entries(store, images)))


def entries(store: Store, images: Mapping[str, Sequence[str]] | None) -> Iterator[Entry]:
    """All captions of a store, with the pictures of `images` where that is given."""
    for caption, its, texts in store.entries():
        yield caption, its if images is None else images.get(caption, ()), texts


def _write(
    store: Store,
    out: Path,
    note: Mapping[str, Any],
    selection: Selection,
    images: Mapping[str, Sequence[str]] | None,
) -> None:
    from tqdm import tqdm

    from open_clip_ext.negatives.rewrite import rewrite

    bar = tqdm(entries(store, images), total=len(store), desc="select", unit="caption", disable=None)
    rewrite(store, out, note, selection(bar))
