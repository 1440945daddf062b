"""What a reader without the pictures tells of released benchmarks; the figures of docs/mining.md.

    python tests/text_only.py ANNOTATIONS

ANNOTATIONS holds sugarcrepe/*.json and valse/*.json. For stores there is `negatives stats --text-only`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from open_clip_ext.negatives import text_only
from open_clip_ext.negatives.text_only import Pair


def sugarcrepe(item) -> Iterator[Pair]:
    yield Pair(item["caption"], item["negative_caption"], item["filename"])


def valse(item) -> Iterator[Pair]:
    if int(item["mturk"]["caption"]) >= 2:  # of three annotators
        yield Pair(item["caption"], item["foil"], item["image_file"])


def main(folder: Path) -> None:
    for read in (sugarcrepe, valse):
        for path in sorted((folder / read.__name__).glob("*.json")):
            pairs = [pair for item in json.loads(path.read_text()).values() for pair in read(item)]
            (told,) = text_only.measure({(read.__name__, path.stem): pairs}).values()
            said = f"{100 * told.accuracy:6.1f} +-{100 * told.half:.1f}" if told else "  too few"
            print(f"{read.__name__:<12}{path.stem:<24}{len(pairs):>6}{said}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
