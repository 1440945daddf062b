"""Dictionary forms of English words, and back: as much as captions need, from TextBlob's lexicon."""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.resources import files

CLIPPED = frozenset(("auto", "hippo", "rhino", "photo", "limo"))  # of which TextBlob makes "autoes"


@lru_cache(maxsize=1 << 16)
def lemma(word: str, pos: str) -> str:
    """The dictionary form of a word in lower case, as far as rules give it."""
    if pos == "NOUN":
        from textblob.en.inflect import singularize

        return word if word.endswith(("ss", "us")) else str(singularize(word))
    if pos in ("VERB", "AUX"):
        return _irregular().get(word) or _base_verb(word)
    if pos == "ADJ" and (match := re.fullmatch(r"(\w{3,}?)(i?)(?:er|est)", word)):
        stem = match[1] + ("y" if match[2] else "")
        for form in (stem, stem + "e", stem[:-1] if stem[-1:] == stem[-2:-1] else stem):
            if _tags_of(form) == "JJ":
                return form
    return word


def _base_verb(word: str) -> str:
    for ending in ("ing", "ed", "s", "es"):
        if word.endswith(ending) and len(word) > len(ending) + 1:
            stem = word[: -len(ending)]
            doubled = stem[:-1] if stem[-1:] == stem[-2:-1] else stem
            forms = (stem, doubled, stem + "e", stem[:-1] + "y" if stem.endswith("i") else stem)
            for form in forms if ending != "s" else (stem,):
                if _tags_of(form).startswith("VB"):
                    return form
            for form in forms:  # known as a noun first: "paint", "fish"
                if _tags_of(form).startswith("NN"):
                    return form
            if ending != "s":
                return doubled
    return word


@lru_cache(maxsize=1)
def _irregular() -> dict[str, str]:
    lines = (files(__package__) / "english" / "verbs.txt").read_text("utf-8").splitlines()
    verbs = [line.split() for line in lines if line and not line.startswith("#")]
    return {form: base for base, *forms in verbs for form in forms}


def _tags_of(word: str) -> str:
    from textblob.en import lexicon

    return str(lexicon.get(word, ""))


def inflected(word: str, tag: str) -> str:
    """A dictionary form in the form that a Penn tag stands for; empty if that is not known here."""
    first, *rest = word.split()
    if tag in ("NN", "JJ", "IN", "VB", "VBP"):
        return word
    if tag == "NNS":
        from textblob.en.inflect import pluralize

        *before, last = word.split()
        return " ".join([*before, f"{last}s" if last in CLIPPED else str(pluralize(last))])
    if tag == "VBZ":
        ending = "es" if first.endswith(("s", "sh", "ch", "x", "z", "o")) else "s"
        stem, ending = (first[:-1], "ies") if re.search("[^aeiou]y$", first) else (first, ending)
    elif tag == "VBG":
        stem = re.sub("ie$", "y", first) if first.endswith("ie") else re.sub("([^eo])e$", r"\1", first)
        short = re.fullmatch("[^aeiou]*[aeiou][bdglmnprt]", first)
        stem, ending = (stem + stem[-1] if short else stem), "ing"
    else:
        return ""
    return " ".join([stem + ending, *rest])
