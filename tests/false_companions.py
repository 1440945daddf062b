"""How often companions are false, by captions of the picture that the recipe was not shown.

    python tests/false_companions.py CAPTIONS
    python tests/false_companions.py CAPTIONS --recipe swap degla-rules --cfg tagger=en_core_web_sm
    python tests/false_companions.py CAPTIONS --recipe ce-clip --cfg model=FOLDER --pictures 1000

CAPTIONS is a file with five captions of each picture, as `negatives make` reads it. Texts are made of the
first one. Once nothing else is known, and the other four are the judges; once the gate knows three others,
and the fifth is the judge. An absence is false if a judge names what it denies; a foil or a replacement is
false if all its new words are in the captions; a denial is false if a judge denies the same. Exchanged words
are not judged.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from pathlib import Path

from open_clip_ext import plugins
from open_clip_ext.language.denial import denied, names
from open_clip_ext.language.entailment import EntailmentChecker
from open_clip_ext.language.taggers import CachedTagger
from open_clip_ext.language.words import WORD
from open_clip_ext.negatives.captions import read
from open_clip_ext.negatives.gate import Gate
from open_clip_ext.negatives.records import ABSENCE, FOIL, GROUP, NEGATIVE

CAPTIONS = 5  # of a picture


def pictures(source: str) -> list[list[str]]:
    found: dict[str, list[str]] = {}
    for caption, image, _ in read(source):
        found.setdefault(image, []).append(" ".join(caption.split()))
    return [captions[:CAPTIONS] for captions in found.values() if len(captions) >= CAPTIONS]


def is_false(text, caption: str, judges: list[str], made) -> bool:
    """Whether captions of the picture speak against a text."""
    tag, lexicon = made.tagger.tag, made.lexicon
    if text.kind == FOIL or text.type.startswith("replace_"):
        new = words(text.text) - words(text.of or caption) - {"a", "an"}
        return bool(new) and new <= words(" ".join([caption, *judges]))
    (tokens,) = tag([text.text])
    things = [token for token in denied(tokens) if token.pos == "NOUN"]
    if text.kind == ABSENCE:
        return any(names(lexicon, judge, thing) for judge in tag(judges) for thing in things)
    denials = {token.lemma for judge in tag(judges) for token in denied(judge)}
    return not denials.isdisjoint(thing.lemma for thing in things)


def words(text: str) -> set[str]:
    return {*WORD.findall(text.lower())}


def measure(name: str, options: list[str], found: list[list[str]]) -> None:
    recipe = plugins.load(plugins.entries(GROUP), name, "--recipe", "generator")
    given = {option.partition("=")[0] for option in options}
    options = [
        *options,
        *(o for o in ("tagger=textblob", "wordnet=false") if o.partition("=")[0] not in given),
    ]
    made = recipe(**plugins.parse_options(plugins.options(recipe), options, "--cfg", name))
    if hasattr(made, "survey"):
        made.survey(found)
    made.tagger = CachedTagger(made.tagger, captions=10**7)  # each text is tagged once
    gate = Gate(EntailmentChecker(made.lexicon), made.tagger)
    start = time.process_time()
    texts = dict(made.generate([captions[0] for captions in found]))
    seconds = time.process_time() - start
    list(made.tagger.tag([text.text for candidates in texts.values() for text in candidates]))
    print(f"\n{name}, {made.tagger.name}, {made.lexicon.name}: {len(texts) / seconds:,.0f} captions a second")
    for known in (0, CAPTIONS - 2):
        counts, false, rejected = Counter(), Counter(), Counter()
        for index, captions in enumerate(found):
            caption, others, judges = captions[0], captions[1 : 1 + known], captions[1 + known :]
            (tokens,) = made.tagger.tag([caption])
            for text in gate.check(caption, tokens, texts[index], others):
                if text.valid and text.kind in (NEGATIVE, FOIL, ABSENCE):
                    counts[text.kind, text.type] += 1
                    if not text.type.startswith(("swap_", "reshuffle")):
                        false[text.kind, text.type] += is_false(text, caption, judges, made)
                elif not text.valid:
                    rejected[text.reason] += 1
        for (kind, type), n in sorted(counts.items()):
            judged = f"{false[kind, type]:>8}{false[kind, type] / n:>9.2%}" if (kind, type) in false else ""
            print(
                f"{kind:<10}{type:<14}{known:>6}{CAPTIONS - 1 - known:>8}{n:>8}{n / len(found):>9.1%}{judged}"
            )
        print("rejected:", ", ".join(f"{n} {reason}" for reason, n in rejected.most_common()) or "none")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("captions")
    parser.add_argument("--recipe", nargs="+", default=["negation", "phrases"])
    parser.add_argument("--cfg", nargs="+", default=[])
    parser.add_argument("--pictures", type=int, help="only the first of them")
    args = parser.parse_args()
    found = pictures(args.captions)[: args.pictures]
    print(f"{Path(args.captions).name}: {len(found)} pictures, {CAPTIONS} captions of each\n")
    print(f"{'kind':<10}{'type':<14}{'known':>6}{'judges':>8}{'made':>8}{'share':>9}{'false':>8}{'share':>9}")
    for name in args.recipe:
        measure(name, args.cfg, found)


if __name__ == "__main__":
    main()
