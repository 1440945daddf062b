"""`negatives mine`: similar pictures of the same data, with their captions, as hard images of each picture.

The nearest pictures under a model are NegCLIP's hard images (Yuksekgonul et al., ICLR 2023). With
`--seen-by` they are CLIP-blind pairs, by the recipe of MMVP (Tong et al., CVPR 2024): pictures that `--model`
takes for alike and that the other model, such as DINOv2, tells apart.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from open_clip_ext.errors import InputError, TrainingError
from open_clip_ext.evaluation import models, options
from open_clip_ext.files import atomic_write
from open_clip_ext.negatives.records import draw, normalise
from open_clip_ext.negatives.store import Store

if TYPE_CHECKING:
    from open_clip_ext.evaluation.models import Loaded
    from open_clip_ext.mining.search import Alike

HARD, NEG = KINDS = ("hard", "neg")
SAME, ABOVE, BELOW = 0.98, 0.95, 0.6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "captions", metavar="CAPTIONS",
        help="captions with their pictures' files, as `negatives make` reads them",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the .csv file to write")
    parser.add_argument(
        "--images", type=Path, default=Path(), metavar="FOLDER",
        help="the folder that the pictures' paths are relative to (default: this one)",
    )  # fmt: skip
    parser.add_argument(
        "--kind", choices=KINDS, default=HARD,
        help="hard: further samples for negclip; neg: a caption of a similar picture as the negative, with "
        "that picture, for triplet-clip and con-clip (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--count", type=int, default=3, metavar="N", help="pictures for each picture (default: %(default)s)"
    )
    parser.add_argument(
        "--negatives", type=Path, metavar="STORE",
        help="with --kind hard: also write the negatives of each caption, and one of each hard caption",
    )  # fmt: skip
    parser.add_argument(
        "--same", type=float, metavar="COSINE",
        help=f"without --seen-by: pictures from this cosine on count as the same picture (default: {SAME})",
    )  # fmt: skip
    parser.add_argument("--caption-key", default="", metavar="NAME", help="the column or key of the captions")
    parser.add_argument(
        "--image-key", default="", metavar="NAME", help="the column or key of the pictures' files"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the caption of a hard picture (default: 0)")
    models.add_arguments(parser)
    options.add_encoding_arguments(parser)
    group = parser.add_argument_group("pairs that the model is blind to")
    group.add_argument(
        "--seen-by", metavar="NAME",
        help="a model that tells the pictures apart: timm:NAME, or a model of open_clip",
    )  # fmt: skip
    group.add_argument(
        "--seen-by-pretrained", metavar="TAG|FILE", help="its weights (timm: default, its own)"
    )
    group.add_argument(
        "--seen-by-activation", choices=models.ACTIVATIONS, help="its activation, as for --model"
    )
    group.add_argument(
        "--above", type=float, metavar="COSINE",
        help=f"of the two pictures under --model, more than this (default: {ABOVE})",
    )  # fmt: skip
    group.add_argument(
        "--below", type=float, metavar="COSINE",
        help=f"of the two under --seen-by, less than this (default: {BELOW})",
    )  # fmt: skip


def main(args: argparse.Namespace) -> int:
    """Search, write and report; features are kept, so that a killed command goes on where it was."""
    from open_clip_ext.mining.features import present

    _check(args)
    store = Store.open(args.negatives) if args.negatives else None
    captions = _captions(args)
    paths = present(list(captions), args.allow_missing)
    if len(paths) < 2:
        raise InputError(f"{args.captions}: it has {len(paths)} picture; there is nothing to compare it with")
    texts = [captions[path] for path in paths]
    if store and not any(store.texts(caption) for its in texts for caption in its):
        raise InputError(f"--negatives {args.negatives}: it has none of the captions of {args.captions}")
    partners, values = _search(args, paths, texts)
    if (partners < 0).all():
        limits = "lower --above or raise --below" if args.seen_by else "raise --same"
        raise InputError(f"{args.captions}: no picture has a partner; {limits}")
    table = Table(args.kind, paths, texts, partners, args.seed, store)
    try:
        atomic_write(args.out, table.write)
    except OSError as error:
        raise TrainingError(f"--out {args.out}: writing failed ({error})") from error
    print(_report(args, partners, values, sum(map(len, texts))))
    return 0


def _check(args: argparse.Namespace) -> None:
    """Raise InputError for options that are wrong whatever the data are."""
    if args.out.exists():
        raise InputError(f"--out {args.out}: it is there already; give another, or remove it")
    if args.out.suffix.lower() != ".csv":
        raise InputError(f"--out {args.out}: give the name of a .csv file")
    if not args.out.absolute().parent.is_dir():
        raise InputError(f"--out {args.out}: there is no folder {args.out.parent}; make it first")
    for flag, value in (("--same", args.same), ("--above", args.above), ("--below", args.below)):
        if value is not None and not -1 <= value <= 1:
            raise InputError(f"{flag} {value}: give a cosine, from -1 to 1")
    for flag, value in (("--count", args.count), ("--batch-size", args.batch_size)):
        if value < 1:
            raise InputError(f"{flag} {value}: give at least 1")
    if args.negatives and args.kind != HARD:
        raise InputError(f"--negatives: goes with --kind {HARD}; the negatives of --kind {NEG} are captions")
    if not args.seen_by and (args.seen_by_pretrained or args.seen_by_activation):
        raise InputError("--seen-by-pretrained, --seen-by-activation: name the model with --seen-by")
    if not args.seen_by and (args.above, args.below) != (None, None):
        raise InputError("--above, --below: without effect, since --seen-by is missing")
    if args.seen_by and args.same is not None:
        raise InputError("--same: without effect with --seen-by, by which pictures are told apart")


def _captions(args: argparse.Namespace) -> dict[str, list[str]]:
    """The different captions of each picture file, in the order of the data."""
    from tqdm import tqdm

    from open_clip_ext.negatives.captions import read

    found: dict[str, list[str]] = {}
    rows = read(args.captions, args.caption_key, args.image_key)
    for row in tqdm(rows, desc="reading", unit=" captions", disable=None, leave=False):
        caption = normalise(row.caption)
        if row.image and caption:
            its = found.setdefault(str(args.images / row.image), [])
            if caption not in its:
                its.append(caption)
    if not found:
        raise InputError(
            f"{args.captions}: its captions come without pictures; name their column or key with --image-key"
        )
    return found


def _search(args: argparse.Namespace, paths: Sequence[str], texts: Sequence[Sequence[str]]) -> Any:
    """Partners and values, as `search.best` returns them."""
    import torch

    from open_clip_ext.evaluation.items import Picture
    from open_clip_ext.mining import search, vision
    from open_clip_ext.mining.features import Model

    pictures = [Picture(path) for path in paths]

    def features(load: Callable[[], Loaded]) -> tuple[torch.Tensor, list[bytes]]:
        model = Model(load(), args)  # gone before the next one is loaded
        rows, digests = model.pictures(pictures)
        device = next(model.loaded.model.parameters()).device
        return torch.from_numpy(rows).to(device), digests

    one, digests = features(lambda: models.from_arguments(args))
    if args.seen_by:
        flags = args.seen_by_pretrained, args.seen_by_activation, args.precision, args.device
        other, _ = features(lambda: vision.load(args.seen_by, *flags))
        above = ABOVE if args.above is None else args.above
        value = search.blind(one, other, above, BELOW if args.below is None else args.below)
    else:
        value = search.nearest(one, SAME if args.same is None else args.same)
    return search.best(len(paths), args.count, value, alike(digests, texts))


def alike(digests: Sequence[bytes], texts: Sequence[Sequence[str]]) -> Alike:
    """Pictures whose files are equal, or that have a caption in common, are no partners."""
    from open_clip_ext.mining.search import Alike

    files = ((i, f"file {digest.hex()}") for i, digest in enumerate(digests))
    captions = ((i, f"caption {text.casefold()}") for i, its in enumerate(texts) for text in its)
    return Alike(len(digests), chain(files, captions))


class Table:
    """The rows of the new data, one for each caption.

    Args:
        kind: of the companions.
        paths: of the pictures.
        texts: the captions of each.
        partners: of each picture, `[N, K]`; -1 for none.
        seed: of the caption that a partner brings along.
        store: of negatives; None for none.
    """

    def __init__(
        self,
        kind: str,
        paths: Sequence[str],
        texts: Sequence[Sequence[str]],
        partners: Any,
        seed: int,
        store: Store | None,
    ) -> None:
        self.kind, self.paths, self.texts, self.partners = kind, paths, texts, partners
        self.seed, self.store = seed, store
        self.types = store.types() if store else ()

    def write(self, path: Path) -> None:
        """Write the CSV file."""
        names = (
            ["negatives"] if self.kind == NEG else [HARD, *(["negatives", "hard_neg"] if self.store else [])]
        )
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["filepath", "title", *names, f"{self.kind}_image"])
            for row in self.rows():
                writer.writerow(row)

    def rows(self) -> Iterator[list[str]]:
        """The rows; the lists of a row are JSON."""
        for i, (path, captions) in enumerate(zip(self.paths, self.texts, strict=True)):
            partners = [int(j) for j in self.partners[i] if j >= 0]
            for caption in captions:
                rng = draw(self.seed, "mine", f"{path}/{caption}")
                theirs = [rng.choice(self.texts[j]) for j in partners]
                lists = [theirs]
                if self.store:
                    own = [text for its in self._negatives(caption) for text in its or [""]]
                    further = [rng.choice([*chain(*self._negatives(text))] or [""]) for text in theirs]
                    lists += [own, further]
                lists.append([self.paths[j] for j in partners])
                yield [path, caption, *(json.dumps(its, ensure_ascii=False) for its in lists)]

    def _negatives(self, caption: str) -> list[list[str]]:
        assert self.store
        return self.store.texts_by_type(caption, self.types) or [[] for _ in self.types]


def _report(args: argparse.Namespace, partners: Any, values: Any, captions: int) -> str:
    """How many partners pictures have, and how near the best ones are."""
    import numpy as np

    counts = Counter((partners >= 0).sum(1).tolist())
    some = len(partners) - counts[0]
    lines = [
        f"{args.out}: {len(partners):,} pictures, {captions:,} captions; {some:,} pictures have a partner"
    ]
    lines.append("pictures by their partners: " + ", ".join(f"{n}: {c:,}" for n, c in sorted(counts.items())))
    if some:
        first = values[:, 0][partners[:, 0] >= 0]
        what, first = (f"under {args.seen_by}", -first) if args.seen_by else ("of the best", first)
        marks = np.quantile(first, (0.05, 0.5, 0.95))
        lines.append(f"cosine {what}: " + ", ".join(f"{m:.3f}" for m in marks) + " (5 %, median, 95 %)")
    return "\n".join(lines)
