"""Whether a text says the same as a caption, or something that the caption implies.

Both are brought into a form in which everything is left out that makes no difference: articles, forms
of "to be", the order of conjuncts, the two sides of "next to", the order of "X while Y", which of two
synonyms was used. Two texts of the same form are true of the same pictures. This is a check against
false negatives; it is blind to whatever the lexicon does not know.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from operator import ne
from typing import Any, Literal

from open_clip_ext.language.denial import NEGATIONS
from open_clip_ext.language.lexicon import Lexicon
from open_clip_ext.language.phrases import (
    ADJECTIVE,
    AND,
    COMMA,
    NOUN_PHRASE,
    OTHER,
    RELATION,
    VERB,
    phrases,
)
from open_clip_ext.language.words import Token

Judgement = Literal["same_meaning", "implied", "narrower", ""]
# Relations whose two sides can be exchanged; "with" only where both sides live.
SYMMETRIC = frozenset(
    (
        *("next to", "beside", "near", "alongside", "close to", "adjacent to", "by", "along with"),
        *("together with", "across from", "opposite"),
    )
)
# Words without which nothing changes places in the form: of relations with two sides, and of clauses.
SIDES = frozenset(("with", *(relation.split()[0] for relation in SYMMETRIC)))
CLAUSES = frozenset((",", "while", "as"))
EXCHANGING = SIDES | CLAUSES | {"and"}
FREE = ("ADJ", "DET", "NUM", "PUNCT")
VERBAL = ("VERB", "AUX")
POSTURES = frozenset(("stand", "sit", "lie", "be", "walk", "pose"))
SIGNS = ("PUNCT", "CCONJ", "PART")
ALL = "all"  # of several, joined by "and"
SILENT = frozenset(("there", "be"))
LIVING = ("person", "animal")
PLACES = ("place", "room", "building")

Form = tuple[Any, ...]


class EntailmentChecker:
    """Compares tagged texts by meaning.

    Args:
        lexicon: which words mean the same.
    """

    def __init__(self, lexicon: Lexicon) -> None:
        self.lexicon = lexicon
        self._caption = _Read((), self)  # the last one: each is compared with several texts
        self._representative = lru_cache(maxsize=1 << 16)(self._first_synonym)
        self._lives = lru_cache(maxsize=1 << 16)(self._is_living)

    def form(self, tokens: Sequence[Token]) -> Form:
        """What two texts of the same meaning have in common, as far as it is known here."""
        clauses, fronted = [list[Form]()], False
        for phrase in phrases(tokens):
            if phrase.category == NOUN_PHRASE:
                clauses[-1].append(self._noun_phrase(tokens[phrase.first : phrase.last]))
            elif phrase.words == "while" or (phrase.words == "as" and clauses[-1]):
                fronted = not clauses[-1]
                clauses.append([])
            elif phrase.category == COMMA and fronted:  # "while Y, X"
                fronted = False
                clauses.append([])
            elif phrase.category == RELATION:
                clauses[-1].append((RELATION, self._representative(phrase.words, "ADP")))
            elif phrase.words not in SILENT and not (phrase.category == OTHER and not phrase.words.isalnum()):
                token = tokens[phrase.first]
                clauses[-1].append((phrase.category, self._representative(token.lemma, token.pos)))
        return tuple(sorted(tuple(self._clause(clause)) for clause in clauses if clause))

    def judge(self, caption: Sequence[Token], text: Sequence[Token]) -> Judgement:
        """What is wrong with `text` as a negative of `caption`; empty if nothing is known to be.

        "same_meaning": it says the same. "implied": the caption says all of it and more.
        "narrower": it may well be true, since it only says more exactly what the caption says.
        """
        if caption is not self._caption.tokens:
            self._caption = _Read(caption, self)
        one, other = self._caption, _Read(text, self)
        same_words = one.words == other.words
        if same_words:
            apart = _apart(one.lemmas, other.lemmas)
            # A short cut: without a word there that lets others change places, the order must be the same.
            if not self._exchanges(one, apart) and one.core(apart) != other.core(apart):
                return ""
        if one.form == other.form:
            return "same_meaning"
        # The same words in another order imply nothing; with a "not" anything may be.
        if same_words or not NEGATIONS.isdisjoint(one.lemmas + other.lemmas):
            return ""
        said, more = ([item for clause in read.form for item in clause] for read in (one, other))
        return self._covered(said, more)

    def _exchanges(self, read: _Read, apart: slice) -> bool:
        """Whether words in the stretch `apart` may change places without a change of meaning."""
        found = EXCHANGING.intersection(read.lemmas[apart])
        if "with" in found and not read.crowd:
            found -= {"with"}
        if found == {"and"}:  # conjuncts, or the verb phrases that end a caption
            there = {token.pos for token in read.tokens[apart]}
            return "ADP" not in there or not there.isdisjoint(VERBAL)
        if found and found <= SIDES:  # the left side begins a clause: nothing is before it, or another clause
            before = read.tokens[: apart.start]
            first = {"VERB", "ADP"}.isdisjoint([token.pos for token in before])
            return first or not CLAUSES.isdisjoint([token.lemma for token in before])
        return bool(found)

    def _is_living(self, noun: str) -> bool:
        return self._is((NOUN_PHRASE, self._representative(noun, "NOUN")), LIVING)

    def _covered(self, said: Sequence[Form], more: Sequence[Form]) -> Judgement:
        """Whether `said` has all items of `more` in order, or broader or narrower words for them."""
        narrower, at = False, 0
        for item in more:
            start = at
            while at < len(said) and not (fit := self._fits(said[at], item)):
                at += 1
            # What is left out must be a whole phrase: "on a bench", not "the side of" in "on the side of it".
            if at == len(said) or (
                at > start and (said[start][0] == NOUN_PHRASE or said[at - 1][0] == RELATION)
            ):
                return ""
            narrower |= fit == "narrower"
            at += 1
        return "narrower" if narrower else "implied"

    def _clause(self, items: list[Form]) -> list[Form]:
        categories = [item[0] for item in items]
        if COMMA in categories:
            items = _fronted(items)
        if AND in categories:
            items = _ordered_verbs(_join(items))
        return self._symmetric([item for item in items if item[0] != COMMA])

    def _noun_phrase(self, tokens: Sequence[Token]) -> Form:
        """Its head, whether that is in the plural, and what describes it, without an order."""
        head = tokens[-1]
        described = [
            self._representative(token.lemma, token.pos)
            for token in tokens[:-1]
            if token.pos not in SIGNS and (token.pos != "DET" or token.lemma in NEGATIONS)
        ]
        if len(described) > 1:
            described = sorted(set(described))
        return NOUN_PHRASE, self._representative(head.lemma, "NOUN"), head.plural, tuple(described)

    def _first_synonym(self, word: str, pos: str) -> str:
        return min([word, *self.lexicon.synonyms(word, pos)])

    def _symmetric(self, items: list[Form]) -> list[Form]:
        """The two sides of a symmetric relation in a fixed order.

        The relation must be all there is, but for a place: whatever else there is belongs to one side.
        """
        at = 2 if len(items) > 1 and items[1][0] == VERB and items[1][1] in POSTURES else 1
        if len(items) > at + 1 and items[at][0] == RELATION:
            left, right, rest = items[0], items[at + 1], items[at + 2 :]
            if (
                {left[0], right[0]} <= {NOUN_PHRASE, ALL}
                and self._exchangeable(items[at], left, right)
                and (not rest or (len(rest) == 2 and self._is(rest[1], PLACES)))
            ):
                items[0], items[at + 1] = sorted((left, right))
        return items

    def _exchangeable(self, relation: Form, left: Form, right: Form) -> bool:
        names = {str(relation[1]), *self.lexicon.synonyms(str(relation[1]), "ADP")}
        if names & SYMMETRIC:
            return True
        return "with" in names and self._is(left, LIVING) and self._is(right, LIVING)

    def _is(self, item: Form, hypernyms: Sequence[str]) -> bool:
        """Whether a noun phrase, or each of several, names a sort of one of the hypernyms."""
        if item[0] == ALL:
            return all(self._is(part, hypernyms) for part in item[1:] if isinstance(part, tuple))
        return item[0] == NOUN_PHRASE and any(
            self.lexicon.relation(str(item[1]), hypernym, "NOUN") in ("same", "implied")
            for hypernym in hypernyms
        )

    def _fits(self, said: Form, item: Form) -> str:
        """How what the caption says bears out what the text says: a relation of words, or nothing."""
        if said == item:
            return "same"
        if said[0] == ALL:  # each of what the text joins must be among what the caption joins
            parts = item[1:] if item[0] == ALL else (item,)
            fits = [next(filter(None, (self._fits(one, part) for one in said[1:])), "") for part in parts]
            return "" if "" in fits else "narrower" if "narrower" in fits else "implied"
        if said[0] != item[0] or said[0] not in (NOUN_PHRASE, VERB, ADJECTIVE):
            return ""
        pos = {NOUN_PHRASE: "NOUN", VERB: "VERB", ADJECTIVE: "ADJ"}[str(said[0])]
        relation = self.lexicon.relation(str(said[1]), str(item[1]), pos)
        if relation not in ("same", "implied", "narrower"):
            return ""
        if said[0] == NOUN_PHRASE:
            had, has = set(said[3]), set(item[3])
            if said[2] != item[2] or not has <= had or (relation == "narrower" and has != had):
                return ""
        return relation


class _Read:
    """A tagged text and what is compared of it, each worked out when it is first asked for."""

    def __init__(self, tokens: Sequence[Token], judge: EntailmentChecker) -> None:
        self.tokens = tokens
        self.lemmas = [token.lemma for token in tokens]
        self.words = sorted(self.lemmas)
        self._judge = judge

    def core(self, stretch: slice) -> list[str]:
        """The words whose order the form keeps, where nothing is exchanged."""
        return [t.lemma for t in self.tokens[stretch] if t.pos not in FREE and t.lemma not in SILENT]

    @cached_property
    def crowd(self) -> bool:
        """Whether it names at least two living things."""
        return sum(t.pos in ("NOUN", "PROPN") and self._judge._lives(t.lemma) for t in self.tokens) > 1

    @cached_property
    def form(self) -> Form:
        """What it has in common with all texts of its meaning."""
        return self._judge.form(self.tokens)


def _apart(one: Sequence[str], other: Sequence[str]) -> slice:
    """From the first to the last place where two of one length differ."""
    differs = list(map(ne, one, other))
    return slice(differs.index(True), len(differs) - differs[::-1].index(True)) if any(differs) else slice(0)


def _fronted(items: list[Form]) -> list[Form]:
    """A relation and its noun phrase in front put behind: "on the beach, a man runs"."""
    if len(items) > 3 and [item[0] for item in items[:3]] == [RELATION, NOUN_PHRASE, COMMA]:
        return [*items[3:], *items[:2]]
    return items


def _join(items: list[Form]) -> list[Form]:
    """Noun phrases, or lone verbs or adjectives, joined by "and" as one item without an order."""
    out: list[Form] = []
    at = 0
    while at < len(items):
        category, group, end = items[at][0], [items[at]], at + 1
        while category in (NOUN_PHRASE, VERB, ADJECTIVE):
            gap = end
            while gap < len(items) and items[gap][0] in (AND, COMMA):
                gap += 1
            if gap == end or gap == len(items) or items[gap][0] != category:
                break
            group.append(items[gap])
            end = gap + 1
        last = [item for item in items[at:end] if item[0] in (AND, COMMA)][-1:]
        if len(group) > 1 and last and last[0][0] == AND:
            out.append((ALL, *sorted(group)))
            at = end
        else:
            if items[at][0] != COMMA:
                out.append(items[at])
            at += 1
    return out


def _ordered_verbs(items: list[Form]) -> list[Form]:
    """Two verb phrases that end a caption in a fixed order: "holds a cup and rides a horse"."""
    at = next((i for i, item in enumerate(items) if item[0] == AND), -1)
    if at < 0 or at + 1 == len(items) or items[at + 1][0] != VERB:
        return items
    starts = [i for i in range(at) if items[i][0] == VERB]
    if not starts or any(item[0] == AND for item in items[at + 1 :]):
        return items
    head, pair = items[: starts[-1]], sorted((items[starts[-1] : at], items[at + 1 :]))
    return [*head, *pair[0], (AND, "and"), *pair[1]]
