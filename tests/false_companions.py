"""How often companions made by rules are false, by captions of the picture that the recipe was not shown.

    python tests/false_companions.py CAPTIONS

CAPTIONS is a file with five captions of each picture, as `negatives make` reads it. Texts are made of the
first one. Once nothing else is known, and the other four are the judges; once the gate knows three others,
and the fifth is the judge. An absence is false if a judge names what it denies; a foil is false if all its
new words are in the captions; a denial is false if a judge denies the same.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from open_clip_ext.language.denial import denied, names
from open_clip_ext.language.entailment import EntailmentChecker
from open_clip_ext.language.words import WORD
from open_clip_ext.negatives.captions import read
from open_clip_ext.negatives.gate import Gate
from open_clip_ext.negatives.recipes.negation import Negation
from open_clip_ext.negatives.recipes.phrases import Phrases
from open_clip_ext.negatives.records import ABSENCE, FOIL, NEGATIVE

CAPTIONS = 5  # of a picture


def pictures(source: str) -> list[list[str]]:
    found: dict[str, list[str]] = {}
    for caption, image, _ in read(source):
        found.setdefault(image, []).append(" ".join(caption.split()))
    return [captions[:CAPTIONS] for captions in found.values() if len(captions) >= CAPTIONS]


def is_false(text, caption: str, judges: list[str], made) -> bool:
    """Whether captions of the picture speak against a text."""
    tag, lexicon = made.tagger.tag, made.lexicon
    if text.kind == FOIL:
        new = words(text.text) - words(text.of) - {"a", "an"}
        return bool(new) and new <= words(" ".join([caption, *judges]))
    (tokens,) = tag([text.text])
    things = [token for token in denied(tokens) if token.pos == "NOUN"]
    if text.kind == ABSENCE:
        return any(names(lexicon, judge, thing) for judge in tag(judges) for thing in things)
    denials = {token.lemma for judge in tag(judges) for token in denied(judge)}
    return not denials.isdisjoint(thing.lemma for thing in things)


def words(text: str) -> set[str]:
    return {*WORD.findall(text.lower())}


def main(source: str) -> None:
    found = pictures(source)
    print(f"{Path(source).name}: {len(found)} pictures, {CAPTIONS} captions of each\n")
    print(f"{'kind':<10}{'type':<12}{'known':>6}{'judges':>8}{'made':>8}{'false':>8}{'share':>9}")
    for recipe in (Negation, Phrases):
        made = recipe(tagger="textblob", wordnet=False)
        if hasattr(made, "survey"):
            made.survey(found)
        gate = Gate(EntailmentChecker(made.lexicon), made.tagger)
        for known in (0, CAPTIONS - 2):
            counts, false = Counter(), Counter()
            for captions, (_, candidates) in zip(found, made.generate([c[0] for c in found]), strict=True):
                caption, others, judges = captions[0], captions[1 : 1 + known], captions[1 + known :]
                (tokens,) = made.tagger.tag([caption])
                for text in gate.check(caption, tokens, candidates, others):
                    if text.valid and text.kind in (NEGATIVE, FOIL, ABSENCE):
                        counts[text.kind, text.type] += 1
                        false[text.kind, text.type] += is_false(text, caption, judges, made)
            for place, n in counts.items():
                print(
                    f"{place[0]:<10}{place[1]:<12}{known:>6}{CAPTIONS - 1 - known:>8}{n:>8}{false[place]:>8}"
                    f"{false[place] / n:>9.2%}"
                )


if __name__ == "__main__":
    main(sys.argv[1])
