"""How often a replaced word for people is true all the same, by captions that the recipe was not shown.

    python tests/false_people.py CAPTIONS ...

CAPTIONS are files with several captions of each picture, as `negatives make` reads them. `replace_noun` of
`degla-rules` is made of each caption alone, so that the gate knows no other. Where the word that goes and
the one that comes both name people, the other captions of the picture are the judges: the replacement may be
true if one of them uses the new word, or a synonym of it. `made` is what the gate let pass.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from open_clip_ext.language.entailment import EntailmentChecker
from open_clip_ext.negatives.captions import read
from open_clip_ext.negatives.gate import Gate
from open_clip_ext.negatives.recipes.degla_rules import DeGLARules
from open_clip_ext.negatives.records import NEGATIVE, normalise

OTHERS = "all other nouns"
FEWEST = 10  # of a pair of words that is printed


def pictures(source: str) -> list[list[str]]:
    found: dict[str, list[str]] = {}
    for caption, image, _ in read(source):
        found.setdefault(image, []).append(normalise(caption))
    return [captions for captions in found.values() if len(captions) > 1]


def main(source: str) -> None:
    found = pictures(source)
    made = DeGLARules(tagger="textblob", wordnet=False)
    made.proposals = 1000  # all of them
    gate = Gate(EntailmentChecker(made.lexicon), made.tagger, enough=1000)
    people = {word for word in made.lexicon.words("NOUN") if person(made.lexicon, word)}
    total, true = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for captions in found:
        tokens = list(made.tagger.tag(captions))
        nouns = [{token.lemma for token in its if token.pos == "NOUN"} for its in tokens]
        for i, (_, candidates) in enumerate(made.generate(captions)):
            said = set().union(*nouns[:i], *nouns[i + 1 :])
            proposed = [candidate for candidate in candidates if candidate.type == "replace_noun"]
            for text in gate.check(captions[i], tokens[i], proposed):
                if not (text.valid and text.kind == NEGATIVE):
                    continue
                (its,) = made.tagger.tag([text.text])
                (old, new), *_ = [
                    (a.lemma, b.lemma) for a, b in zip(tokens[i], its, strict=False) if a.lemma != b.lemma
                ] or [("", "")]
                place = (old, new) if {old, new} <= people else ("", OTHERS)
                synonyms = {new, *made.lexicon.synonyms(new, "NOUN")}
                total[place] += 1
                true[place] += not synonyms.isdisjoint(said)
    print(f"{Path(source).name}: {len(found)} pictures, {sum(map(len, found))} captions")
    both = [place for place in total if place[0]]
    rows = [("all words for people", both), (OTHERS, [("", OTHERS)])]
    rows += [(f"{old} -> {new}", [(old, new)]) for old, new in sorted(both, key=lambda p: -total[p])]
    for name, places in rows:
        n, t = (sum(counts[place] for place in places) for counts in (total, true))
        if n >= FEWEST:
            print(f"{name:<32}{n:>7}{t:>7}{t / n:>8.1%}")


def person(lexicon, word: str) -> bool:
    return word == "person" or lexicon.relation(word, "person", "NOUN") in ("same", "implied")


if __name__ == "__main__":
    for source in sys.argv[1:]:
        main(source)
