"""How often a tagger gives a word the class that people took it for.

    python tests/tagged_words.py SUGARCREPE [TAGGER ...]

SUGARCREPE holds the replace_*.json of the benchmark. Where a caption and its negative differ in one word,
people have replaced an object (a noun), an attribute (an adjective) or a relation (a verb or preposition).
Not all attributes are adjectives: "two" is a number, "wood" in "wood table" a noun. So no tagger reaches
100 % there.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from open_clip_ext.language.taggers import tagger
from open_clip_ext.language.words import WORD

CLASSES = {
    "replace_obj": {"NOUN", "PROPN"},
    "replace_att": {"ADJ"},
    "replace_rel": {"VERB", "AUX", "ADP"},
}


def edits(path: Path) -> list[tuple[str, str]]:
    """Captions, and their word that was replaced; each is there once in its caption."""
    found = []
    for item in json.loads(path.read_text()).values():
        one, other = (WORD.findall(item[key].lower()) for key in ("caption", "negative_caption"))
        places = [i for i, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]]
        if len(one) == len(other) and len(places) == 1 and one.count(one[places[0]]) == 1:
            found.append((item["caption"], one[places[0]]))
    return found


def main(folder: Path, names: list[str]) -> None:
    words = {name: edits(folder / f"{name}.json") for name in CLASSES}
    print("", *(f"{name} ({len(found)})" for name, found in words.items()), "texts a second", sep="\t")
    for name in names:
        made, rates = tagger(name), []
        list(made.tag(["a dog on a bench"]))
        start = time.process_time()
        for subset, found in words.items():
            tagged = zip(found, made.tag([caption for caption, _ in found]), strict=True)
            right = sum(
                any(token.text.lower() == word and token.pos in CLASSES[subset] for token in tokens)
                for (_, word), tokens in tagged
            )
            rates.append(f"{right / len(found):.1%}")
        speed = sum(map(len, words.values())) / (time.process_time() - start)
        print(made.name, *rates, f"{speed:,.0f}", sep="\t")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or ["textblob"])
