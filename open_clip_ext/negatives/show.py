"""`negatives show`: captions with their texts, the changed words marked, as a page or in the terminal."""

from __future__ import annotations

import argparse
import base64
import io
import os
import random
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from open_clip_ext.errors import InputError
from open_clip_ext.files import write_text
from open_clip_ext.language import word_diff
from open_clip_ext.negatives.gate import REASONS
from open_clip_ext.negatives.records import ABSENCE, FOIL, NEGATIVE, PHRASE, POSITIVE, Text
from open_clip_ext.negatives.store import Store

REJECTED = "rejected"
# What a text does, by its status: its kind, or that it was rejected.
LABELS = {
    NEGATIVE: "changes the meaning",
    POSITIVE: "keeps the meaning",
    ABSENCE: "denies what is not there",
    PHRASE: "says a part",
    FOIL: "changes a part",
    REJECTED: "rejected",
}
SIGNS = {
    NEGATIVE: "\u2260",
    POSITIVE: "\u2248",
    ABSENCE: "\u2205",
    PHRASE: "\u2282",
    FOIL: "\u2260",
    REJECTED: "\u2715",
}
COLOURS = {NEGATIVE: "31", POSITIVE: "32", ABSENCE: "32", PHRASE: "32", FOIL: "31", REJECTED: "2"}
BELONGS = "\u21b3 "  # before the type of a text that belongs to the one above it
OTHER = "\u00b7"  # the sign of any other kind
JOINER = "\u200d"  # inside many an emoji
THUMBNAIL = (400, 304)  # pixels: twice the size on the page, for sharp screens


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("store", type=Path, metavar="STORE", help="the store")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page that needs nothing else")
    parser.add_argument(
        "--limit", type=int, metavar="N", help="captions, drawn at random (default: 200 on a page, 10 here)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default: 0)")
    parser.add_argument("--find", default="", metavar="WORDS", help="only captions that contain these words")
    parser.add_argument("--type", nargs="+", metavar="TYPE", help="only texts of these types")
    parser.add_argument("--rejected", action="store_true", help="with the texts that were rejected")
    parser.add_argument(
        "--images", type=Path, default=Path(), metavar="FOLDER",
        help="the folder that the pictures' paths are relative to (default: this one)",
    )  # fmt: skip


def main(args: argparse.Namespace) -> int:
    """Show some captions of the store."""
    store = Store.open(args.store)
    limit = args.limit if args.limit is not None else 200 if args.html else 10
    if limit < 1:
        raise InputError(f"--limit {limit}: give at least 1")
    _require_types(store, args.type or ())
    drawn = [
        (
            caption,
            [text for text in store.texts(caption, rejected=args.rejected) or () if _wanted(text, args)],
            store.images(caption),
        )
        for caption in draw(store, limit, args.seed, args.find)
    ]
    if not drawn:
        raise InputError(
            f"{args.store}: no caption contains {args.find!r}" if args.find else f"{args.store}: it is empty"
        )
    if args.html:
        _write_page(args, store, drawn)
    else:
        colour = sys.stdout.isatty()
        shown = "\n\n".join(terminal(caption, texts, colour) for caption, texts, _ in drawn)
        try:
            print(shown, flush=True)
        except BrokenPipeError:  # a pager or `head` that has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def draw(store: Store, count: int, seed: int, find: str = "") -> list[str]:
    """Up to `count` captions that contain `find`, drawn at random, in the order of the store."""
    rng = random.Random(seed)
    drawn: list[tuple[int, str]] = []
    matching = (caption for caption in store.captions() if find.casefold() in caption.casefold())
    for place, caption in enumerate(matching):  # a reservoir: the store may have millions
        if place < count:
            drawn.append((place, caption))
        elif (at := rng.randrange(place + 1)) < count:
            drawn[at] = place, caption
    return [caption for _, caption in sorted(drawn)]


def terminal(caption: str, texts: Sequence[Text], colour: bool) -> str:
    """A caption and its texts as lines; the changed words in colour, or in brackets."""
    types = [(BELONGS if text.of else "") + text.type for text in texts]
    width = max(map(len, types), default=0)
    caption = _printable(caption)
    lines = [caption]
    for text, type in zip(texts, types, strict=True):
        status = _status(text)
        said = "".join(
            _marked(piece.text, colour, COLOURS.get(status, "1")) if piece.change == "new" else piece.text
            for piece in word_diff.pieces(_printable(text.of) or caption, _printable(text.text))
            if piece.change != "gone"
        )
        note = f"  ({text.reason})" if text.reason else ""
        lines.append(f"  {SIGNS.get(status, OTHER)} {type.ljust(width)}  {said.strip()}{note}")
    return "\n".join(lines)


def page(
    title: str, about: str, drawn: Sequence[tuple[str, Sequence[Text], str]], order: Sequence[str] = ()
) -> str:
    """The page.

    Args:
        title: its title.
        about: a line under it.
        drawn: each caption with its texts, and its picture as a data URL or "".
        order: the types in the order in which they are listed.
    """
    import jinja2

    texts = [text for _, found, _ in drawn for text in found]
    statuses, types = Counter(map(_status, texts)), Counter(text.type for text in texts)
    labels = {**{status: status for status in statuses}, **LABELS}
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("open_clip_ext.negatives", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("show.html").render(
        title=title,
        about=about,
        labels=labels,
        signs={status: SIGNS.get(status, OTHER) for status in labels},
        statuses=[
            {"name": status, "label": labels[status], "count": statuses[status]}
            for status in dict.fromkeys([*LABELS, *statuses])
            if statuses[status]
        ],
        types=[
            {"name": type, "count": types[type]} for type in dict.fromkeys([*order, *types]) if types[type]
        ],
        cards=[
            {"caption": caption, "picture": picture, "texts": [_row(caption, text) for text in found]}
            for caption, found, picture in drawn
        ],
    )


def _write_page(
    args: argparse.Namespace, store: Store, drawn: Sequence[tuple[str, Sequence[Text], Sequence[str]]]
) -> None:
    from tqdm import tqdm

    cards = [
        (caption, texts, _picture(args.images, images))
        for caption, texts, images in tqdm(drawn, unit="caption", desc="pictures", disable=None, leave=False)
    ]
    about = f"{len(drawn):,} of {len(store):,} captions" + (
        f" with \u201c{args.find}\u201d" if args.find else ""
    )
    try:
        write_text(args.html, page(args.store.name, about, cards, _types(store)))
    except OSError as error:
        raise InputError(f"--html {args.html}: it cannot be written ({error.strerror})") from error
    named = sum(bool(images) for _, _, images in drawn)
    shown = sum(bool(picture) for _, _, picture in cards)
    note = f"; {named - shown} pictures were not found, see --images" if shown < named else ""
    print(f"{args.html}: {len(cards)} captions, {shown} pictures{note}")


def _row(caption: str, text: Text) -> dict[str, Any]:
    pieces = [
        {**piece._asdict(), "bare": piece.text.lstrip(), "space": piece.text[: -len(piece.text.lstrip())]}
        for piece in (word_diff.pieces(text.of or caption, text.text) if text.text else ())
        if text.kind != PHRASE or piece.change != "gone"  # all but the phrase is gone
    ]
    return {
        "status": _status(text),
        "type": text.type,
        "belongs": BELONGS if text.of else "",
        "generator": text.generator,
        "reason": text.reason,
        "why": REASONS.get(text.reason, ""),
        "original": "text it belongs to" if text.of else "caption",
        "pieces": pieces,
    }


def _picture(folder: Path, images: Sequence[str]) -> str:
    """The first picture that can be read, small, as a data URL; "" without one."""
    from PIL import Image

    for image in images:
        try:
            with Image.open(folder / image) as opened:
                small = opened.convert("RGB")
        except (OSError, ValueError, Image.DecompressionBombError):
            continue
        small.thumbnail(THUMBNAIL)
        jpeg = io.BytesIO()
        small.save(jpeg, "jpeg", quality=80)
        return f"data:image/jpeg;base64,{base64.b64encode(jpeg.getvalue()).decode()}"
    return ""


def _status(text: Text) -> str:
    return REJECTED if text.reason else text.kind


def _wanted(text: Text, args: argparse.Namespace) -> bool:
    return not args.type or text.type in args.type


def _types(store: Store) -> list[str]:
    return list(dict.fromkeys(type for record in store.generators() for type in record.types))


def _require_types(store: Store, wanted: Sequence[str]) -> None:
    there = _types(store)
    if unknown := [type for type in wanted if type not in there]:
        raise InputError(f"--type {' '.join(unknown)}: {store.path} has none; its types: {', '.join(there)}")


def _marked(text: str, colour: bool, code: str) -> str:
    bare = text.lstrip()
    space = text[: len(text) - len(bare)]
    return f"{space}\x1b[1;{code}m{bare}\x1b[0m" if colour else f"{space}[{bare}]"


def _printable(text: str) -> str:
    """Without control characters: a caption must not steer the terminal."""
    return "".join(c if c.isprintable() or c == JOINER else "\ufffd" for c in text)
