"""ARO's COCO-Order and Flickr-Order, with reproducible negatives.

A caption against four shuffles of its words. The authors draw the shuffles anew in every run, with spaCy,
nltk and unseeded generators, and some equal the caption itself. So no two of their runs use the same items.
Here each shuffle depends only on a seed and the caption, and never equals the caption. The result has the
sha256 of all shuffles. `frozen` names a file that stores them.

Differences from the authors' code: words are split at spaces, so that a comma does not give a negative
away. Nouns and adjectives are those of TextBlob's lexicon. A shuffle that cannot differ (one noun, one
adjective) is left out, so some items have fewer negatives.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from open_clip_ext.errors import InputError
from open_clip_ext.evaluation.items import Benchmark, Item
from open_clip_ext.evaluation.readers.files import Annotations, picture
from open_clip_ext.files import sha256, write_text

MAX_WORDS = 30
DRAWS = 20
DROPPED = re.compile(r'[.!"()*#:;~]')


def coco(*, annotations: Path, images: Path, frozen: Path | None = None, seed: int = 0) -> Benchmark:
    """Read COCO-Order.

    Args:
        annotations: `coco_karpathy_test.json` as LAVIS has it, or its folder.
        images: the folder with COCO's `val2014`.
        frozen: a file with the negatives; written if it is not there.
        seed: of the shuffles.
    """
    return _read("aro-coco-order", "coco_karpathy_test.json", annotations, images, frozen, seed)


def flickr(*, annotations: Path, images: Path, frozen: Path | None = None, seed: int = 0) -> Benchmark:
    """Read Flickr-Order.

    Args:
        annotations: `flickr30k_test.json` as LAVIS has it, or its folder.
        images: the folder with `flickr30k-images`.
        frozen: a file with the negatives; written if it is not there.
        seed: of the shuffles.
    """
    return _read("aro-flickr-order", "flickr30k_test.json", annotations, images, frozen, seed)


def _read(name: str, file: str, annotations: Path, images: Path, frozen: Path | None, seed: int) -> Benchmark:
    source = Annotations(annotations)
    rows = [
        (f"{key}/{n}", row.text("image"), plain(caption))
        for key, row in source.items(file)
        for n, caption in enumerate(row.texts("caption"))
    ]
    captions = [caption for _, _, caption in rows]
    negatives, digest, place = _negatives(captions, frozen, seed)
    items = [
        Item(key, (picture(images, image),), (caption, *wrong), "i2t", (0,))
        for (key, image, caption), wrong in zip(rows, negatives, strict=True)
        if wrong
    ]
    short = sum(len(wrong) < len(SHUFFLES) for wrong in negatives)
    notes = (
        f"negatives drawn from seed {seed}, not the authors' run-time shuffles; sha256 {digest[:16]}",
        f"{short} of {len(rows)} captions have fewer than {len(SHUFFLES)} negatives, "
        f"{len(rows) - len(items)} none",
    )  # fmt: skip
    return Benchmark(name, items, ("micro",), source.files | {place: digest}, notes)


def plain(caption: str) -> str:
    """A caption in ARO's form: lower case, without some punctuation, at most 30 words."""
    return " ".join(DROPPED.sub(" ", caption.lower()).split()[:MAX_WORDS])


def _negatives(captions: Sequence[str], frozen: Path | None, seed: int) -> tuple[list[list[str]], str, str]:
    """The negatives of each caption, the sha256 of their file, and the name of the file."""
    if frozen is not None and frozen.is_file():
        return _thawed(frozen, captions), sha256(frozen), str(frozen)
    made = [shuffles(caption, words, seed) for caption, words in zip(captions, tagged(captions), strict=True)]
    text = "".join(
        json.dumps({"caption": caption, "negatives": wrong}, ensure_ascii=False) + "\n"
        for caption, wrong in zip(captions, made, strict=True)
    )
    if frozen is not None:
        frozen.parent.mkdir(parents=True, exist_ok=True)
        write_text(frozen, text)
    return made, hashlib.sha256(text.encode()).hexdigest(), str(frozen or "negatives (generated)")


def _thawed(frozen: Path, captions: Sequence[str]) -> list[list[str]]:
    rows = list(Annotations(frozen).items(frozen.name)) if frozen.suffix == ".jsonl" else None
    if rows is None:
        raise InputError(f"frozen={frozen}: must be a .jsonl file")
    if [row.text("caption") for _, row in rows] != list(captions):
        raise InputError(f"frozen={frozen}: contains the negatives of other captions; name another file")
    # A caption may have none.
    return [row.texts("negatives") if row["negatives"] != [] else [] for _, row in rows]


def tagged(captions: Sequence[str]) -> list[list[tuple[str, str]]]:
    """The words of each caption with their Penn tags.

    Raises InputError if TextBlob is not installed.
    """
    try:
        from textblob.en import tag
    except ImportError as error:
        raise InputError(
            "the order benchmarks tag words with TextBlob, which is not installed; "
            'run `pip install "open_clip_ext[evaluation]"`'
        ) from error
    from tqdm import tqdm

    found: list[list[tuple[str, str]]] = []
    for caption in tqdm(captions, desc="negatives", unit="caption", disable=None, leave=False):
        words = caption.split()
        # A comma belongs to its word here, but not for the lexicon.
        tags: list[Any] = tag(" ".join(word.strip(",'") or "," for word in words), tokenize=False)
        found.append([(word, tags[i][1] if i < len(tags) else "") for i, word in enumerate(words)])
    return found


def shuffles(caption: str, words: Sequence[tuple[str, str]], seed: int) -> list[str]:
    """Up to four different negatives, none of which is the caption."""
    made: list[str] = []
    for kind, shuffle in SHUFFLES.items():
        rng = random.Random(f"{seed} {kind} {caption}")
        for _ in range(DRAWS):
            negative = " ".join(shuffle(list(words), rng))
            if negative != caption and negative not in made:
                made.append(negative)
                break
    return made


def _among(words: list[tuple[str, str]], rng: random.Random, *classes: Any) -> list[str]:
    """The words, with those of each class shuffled among their places."""
    out = [word for word, _ in words]
    for belongs in classes:
        places = [i for i, (_, tag) in enumerate(words) if belongs(tag)]
        for place, word in zip(places, rng.sample([out[i] for i in places], len(places)), strict=True):
            out[place] = word
    return out


def _noun(tag: str) -> bool:
    return tag.startswith("NN")


def _adjective(tag: str) -> bool:
    return tag.startswith("JJ")


def _other(tag: str) -> bool:
    return not (_noun(tag) or _adjective(tag))


def _trigrams(words: list[tuple[str, str]]) -> list[list[str]]:
    return [[word for word, _ in words[i : i + 3]] for i in range(0, len(words), 3)]


def _nouns_and_adjectives(words: list[tuple[str, str]], rng: random.Random) -> list[str]:
    return _among(words, rng, _noun, _adjective)


def _all_but_nouns_and_adjectives(words: list[tuple[str, str]], rng: random.Random) -> list[str]:
    return _among(words, rng, _other)


def _within_trigrams(words: list[tuple[str, str]], rng: random.Random) -> list[str]:
    return [word for trigram in _trigrams(words) for word in rng.sample(trigram, len(trigram))]


def _trigram_order(words: list[tuple[str, str]], rng: random.Random) -> list[str]:
    trigrams = _trigrams(words)
    return [word for trigram in rng.sample(trigrams, len(trigrams)) for word in trigram]


SHUFFLES = {
    "nouns and adjectives": _nouns_and_adjectives,
    "all but nouns and adjectives": _all_but_nouns_and_adjectives,
    "within trigrams": _within_trigrams,
    "order of trigrams": _trigram_order,
}
