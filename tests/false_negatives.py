"""How often the checks of meaning err, on pairs of captions that people have labelled.

    python tests/false_negatives.py ANNOTATIONS [--wordnet] [--tagger NAME]

ANNOTATIONS holds sugarcrepe/*.json (verified negatives) and sugarcrepe_pp/*.json (pairs of captions of
one picture). A verified negative that is turned away is a loss; a caption of the same picture that is
let pass would be a false negative.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

from open_clip_ext.language.entailment import EntailmentChecker
from open_clip_ext.language.lexicon import Lexicon
from open_clip_ext.language.taggers import tagger
from open_clip_ext.language.words import WORD

FEW = 2  # words


def pairs(folder: Path, other: str):
    for path in sorted(folder.glob("*.json")):
        items = json.loads(path.read_text())
        for item in items.values() if isinstance(items, dict) else items:
            yield path.stem, item["caption"], item[other]


def changed(one: str, other: str) -> int:
    """How many words of the longer text the other has not."""
    words = [Counter(WORD.findall(text.lower())) for text in (one, other)]
    return max((words[0] - words[1]).total(), (words[1] - words[0]).total())


def judgements(judge: EntailmentChecker, tag, labelled) -> dict[str, Counter[str]]:
    """By kind of item: how many pairs got which judgement."""
    found: dict[str, Counter[str]] = {}
    labelled = list(labelled)
    tagged = [tag.tag([item[place] for item in labelled]) for place in (1, 2)]
    for (kind, caption, other), one, two in zip(labelled, *tagged, strict=True):
        judgement = judge.judge(one, two) or "passes"
        for row in (kind, "all", f"all, of at most {FEW} other words")[
            : 3 if changed(caption, other) <= FEW else 2
        ]:
            found.setdefault(row, Counter())[judgement] += 1
    return found


def main(folder: Path, wordnet: bool, name: str) -> None:
    judge, tag = EntailmentChecker(Lexicon(wordnet=wordnet)), tagger(name)
    print(f"lexicon {judge.lexicon.name}, tagger {tag.name}\n")
    columns = ("passes", "same_meaning", "implied", "narrower")
    for title, labelled in (
        ("verified negatives (should pass)", pairs(folder / "sugarcrepe", "negative_caption")),
        ("captions of the same picture (should not)", pairs(folder / "sugarcrepe_pp", "caption2")),
    ):
        found = judgements(judge, tag, labelled)
        print(f"{title:<42}{'n':>6}" + "".join(f"{c:>14}" for c in columns))
        for kind, counts in sorted(found.items(), key=lambda item: item[0].startswith("all")):
            n = sum(counts.values())
            print(f"  {kind:<40}{n:>6}" + "".join(f"{counts[c]:>7} {counts[c] / n:>5.1%}" for c in columns))
        print()


if __name__ == "__main__":
    given = sys.argv[1:]
    named = given[given.index("--tagger") + 1] if "--tagger" in given else "textblob"
    main(Path(given[0]), "--wordnet" in given, named)
