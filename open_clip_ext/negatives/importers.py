"""`negatives import`: what the authors of the methods released, into a store.

Each format is a function from a file to its captions.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from open_clip_ext import csv_files
from open_clip_ext.errors import InputError
from open_clip_ext.negatives.records import NEGATIVE, POSITIVE, Candidate, normalise
from open_clip_ext.texts import parse_texts

if TYPE_CHECKING:
    from open_clip_ext.negatives.gate import Gate


class Item(NamedTuple):
    """A caption of a file, the texts made of it, and the picture it belongs to."""

    caption: str
    texts: list[Candidate]
    image: str


@dataclass(frozen=True)
class Format:
    """A format of files.

    Attributes:
        read: a file to its items; raises InputError naming the place.
        types: the types of their texts, in stored order, given the files.
        what: it in a line.
    """

    read: Callable[[Path], Iterable[Item]]
    types: Callable[[Sequence[Path]], Sequence[str]]
    what: str


# --- the formats ----------------------------------------------------------------------------------

CE_CLIP = {"relation": "swap_noun", "adj": "replace_adj", "noun": "replace_noun", "verb": "replace_verb"}


def degla(path: Path) -> Iterator[Item]:
    """DeGLA: a JSON list of {image_id, original, enhanced: [text, ...]}, of COCO train2014.

    xiaoxing2001/DeGLA@1c5e960. Which of the five types a place of `enhanced` holds is not documented,
    so a type is named by its place.
    """
    for where, item in _entries(path):
        image, caption = _take(item, "image_id", int, where), _take(item, "original", str, where)
        texts = _take(item, "enhanced", list, where)
        if not all(isinstance(text, str) for text in texts):
            raise InputError(f"{where}: enhanced must be a list of strings")
        if len(texts) > len(DEGLA):
            raise InputError(f"{where}: {len(texts)} texts in enhanced, expected at most {len(DEGLA)}")
        candidates = [Candidate(type, text) for type, text in zip(DEGLA, texts, strict=False)]
        yield Item(caption, candidates, f"train2014/COCO_train2014_{image:012d}.jpg")


DEGLA = tuple(f"rewrite_{place}" for place in range(1, 6))


def ce_clip(path: Path) -> Iterator[Item]:
    """CE-CLIP: a .npy object array of dictionaries, read by `plain_pickle`.

    lezhang7/Enhance-FineGrained@ef87eb7. A COCO annotation with `<edit>_aug_caption` of four edits and
    `valid_caption`, five ints of which the first is the caption's own. The images are of val2014 when
    "val" is in the path, as there.
    """
    from open_clip_ext.negatives import plain_pickle

    split = "val2014" if "val" in str(path) else "train2014"
    for number, item in enumerate(plain_pickle.load(path), start=1):
        where = f"{path}, item {number}"
        image, caption = _take(item, "image_id", int, where), _take(item, "caption", str, where)
        valid = _take(item, "valid_caption", list, where)
        if len(valid) != 1 + len(CE_CLIP):
            raise InputError(f"{where}: valid_caption has {len(valid)} entries, expected {1 + len(CE_CLIP)}")
        texts = [_take(item, f"{edit}_aug_caption", str, where) for edit in CE_CLIP]
        candidates = [
            Candidate(type, text)
            for type, text, there in zip(CE_CLIP.values(), texts, valid[1:], strict=True)
            if there
        ]
        yield Item(caption, candidates, f"{split}/COCO_{split}_{image:012d}.jpg")


def negclip(path: Path) -> Iterator[Item]:
    """NegCLIP: tab separated, `title, filepath, neg_caption`; the last a Python list of strings.

    vinid/neg_clip@e680f8e. `neg_image`, row numbers of hard images, is passed over.
    """
    rows = csv_files.rows(path, "\t")
    _, columns = next(rows)
    names = ("title", "filepath", "neg_caption")
    if missing := [name for name in names if name not in columns]:
        raise InputError(f"{path}: no column {', '.join(missing)}; its columns: {', '.join(columns)}")
    for line, fields in rows:
        where = f"{path}, line {line}"
        row = dict(zip(columns, fields, strict=False))
        if any(name not in row for name in names):
            raise InputError(f"{where}: fewer fields than the header has columns")
        try:
            texts = parse_texts(row["neg_caption"])
        except ValueError as error:
            raise InputError(f"{where}: neg_caption: {error}") from error
        yield Item(row["title"], [Candidate("swap", text) for text in texts], row["filepath"])


def sugarcrepe(path: Path) -> Iterator[Item]:
    """SugarCrepe, and SugarCrepe++: JSON of {filename, caption, negative_caption[, caption2]}.

    The type is the name of the file; `caption2` keeps the meaning and is of the type `paraphrase`.
    """
    for where, item in _entries(path):
        texts = [Candidate(path.stem, _take(item, "negative_caption", str, where))]
        if "caption2" in item:
            texts.append(Candidate(PARAPHRASE, _take(item, "caption2", str, where), kind=POSITIVE))
        yield Item(_take(item, "caption", str, where), texts, _take(item, "filename", str, where))


PARAPHRASE = "paraphrase"
FORMATS = {
    "degla": Format(degla, lambda files: DEGLA, "DeGLA's JSON"),
    "ce-clip": Format(ce_clip, lambda files: tuple(CE_CLIP.values()), "CE-CLIP's .npy files"),
    "negclip": Format(negclip, lambda files: ("swap",), "NegCLIP's TSV"),
    "sugarcrepe": Format(
        sugarcrepe,
        lambda files: (*dict.fromkeys(file.stem for file in files), PARAPHRASE),
        "JSON like SugarCrepe's and SugarCrepe++'s, one file a type",
    ),
}


def _entries(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Place and content of each object in a JSON list, or in a JSON object of objects."""
    with _opened(path) as file:
        text = file.read()
    try:
        content = json.loads(text)
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error})") from error
    if not isinstance(content, list | dict):
        raise InputError(f"{path}: expected a list or an object of items")
    pairs = content.items() if isinstance(content, dict) else enumerate(content, start=1)
    for key, item in pairs:
        yield f"{path}, item {key}", item


def _take(item: Any, key: str, expected: type, where: str) -> Any:
    value = item.get(key) if isinstance(item, dict) else None
    if not isinstance(value, expected):
        raise InputError(
            f"{where}: {key} must be {'a list' if expected is list else expected.__name__}, "
            f"not {str(value)[:80]!r}"
        )
    return value


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """The text file `path`. Raises InputError if it cannot be read to its end."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield file
    except OSError as error:
        raise InputError(f"{path}: it cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise csv_files.not_utf8(path) from error


# --- the command ----------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="the released files")
    parser.add_argument(
        "--format", required=True, choices=FORMATS, metavar="NAME",
        help="; ".join(f"{name}: {form.what}" for name, form in FORMATS.items()),
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="STORE", help="the store")
    parser.add_argument(
        "--images", type=Path, default=Path(), metavar="FOLDER",
        help="the folder that the files' picture names are relative to, such as that of train2014/",
    )  # fmt: skip
    parser.add_argument(
        "--as-released", action="store_true",
        help="take every text as valid that the authors took, without the quality gate",
    )  # fmt: skip


def main(args: argparse.Namespace) -> int:
    """Import the files; repeating it changes nothing."""
    from tqdm import tqdm

    from open_clip_ext.negatives.store import Writer

    form = FORMATS[args.format]
    released = _collect(form, args.files, args.images)
    gate = None if args.as_released else _gate(released)
    params = {"files": [file.name for file in args.files], **(gate.identity() if gate else {"gate": None})}
    with Writer(args.out, f"imported-{args.format}", "1", params, form.types(args.files)) as writer:
        todo = [caption for caption in released.texts if not writer.finished(caption)]
        judged = _judged(gate, released, todo) if gate else _as_released(released, todo)
        for caption, texts in tqdm(judged, total=len(todo), unit=" captions", disable=None):
            writer.add(caption, texts, released.images[caption])
        tally = writer.tally()
    _say(args.out, len(released.texts), tally)
    return 0


@dataclass
class Released:
    """What files hold, by caption; a caption may stand in several places.

    Attributes:
        texts: the texts of each caption, without repetitions.
        images: the pictures of each caption.
        captions: the captions of each picture.
    """

    texts: dict[str, list[Candidate]]
    images: dict[str, list[str]]
    captions: dict[str, list[str]]


def _collect(form: Format, files: Sequence[Path], folder: Path) -> Released:
    found = Released({}, {}, {})
    for file in files:
        for item in form.read(file):
            caption = normalise(item.caption)
            texts = found.texts.setdefault(caption, [])
            texts += (text for text in item.texts if text not in texts)
            images = found.images.setdefault(caption, [])
            if item.image and (image := str(folder / item.image)) not in images:
                images.append(image)
                found.captions.setdefault(image, []).append(caption)
    return found


def _gate(released: Released) -> Gate:
    """The gate of `negatives make`, with room for all texts that a caption has."""
    from open_clip_ext.language.entailment import EntailmentChecker
    from open_clip_ext.language.lexicon import Lexicon
    from open_clip_ext.language.taggers import tagger
    from open_clip_ext.negatives.gate import Gate

    most = max(map(len, released.texts.values()), default=1)
    return Gate(EntailmentChecker(Lexicon()), tagger("auto"), enough=most)


def _judged(gate: Gate, released: Released, captions: Sequence[str]) -> Iterator[tuple[str, list[Candidate]]]:
    """The captions with their texts as the gate sees them."""
    for caption, tokens in zip(captions, gate.tagger.tag(captions), strict=True):
        others = [
            other
            for image in released.images[caption]
            for other in released.captions[image]
            if other != caption
        ]
        yield caption, gate.check(caption, tokens, released.texts[caption], others)


def _as_released(released: Released, captions: Sequence[str]) -> Iterator[tuple[str, list[Candidate]]]:
    """The captions with their texts, all of them valid that there are."""
    for caption in captions:
        texts = released.texts[caption]
        yield caption, [text if text.text.strip() else replace(text, reason="empty") for text in texts]


def _say(out: Path, captions: int, tally: Counter[tuple[str, str, str]]) -> None:
    """Print what the store has of these files."""
    valid: Counter[str] = Counter()
    rejected: Counter[str] = Counter()
    for (_, kind, reason), count in tally.items():
        if reason:
            rejected[reason] += count
        else:
            valid[kind] += count
    print(f"{out}: {captions:,} captions, {valid[NEGATIVE]:,} negatives, {valid[POSITIVE]:,} positives")
    for reason, count in rejected.most_common():
        print(f"  rejected  {reason:<24}  {count:>9,}")
