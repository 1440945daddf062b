"""Whether a text says the same as a caption, or something that the caption implies.

Both are brought into a form in which everything is left out that makes no difference: articles, forms
of "to be", the order of conjuncts, the two sides of "next to", the order of "X while Y", which of two
synonyms was used. Two texts of the same form are true of the same pictures. This is a check against
false negatives; it is blind to whatever the lexicon does not know.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from open_clip_ext.negatives.lexicon import Lexicon
from open_clip_ext.negatives.phrases import Phrase, modifiers, phrases
from open_clip_ext.negatives.words import Token

Judgement = Literal["same_meaning", "implied", "narrower", ""]
# Relations whose two sides can be exchanged; "with" only where both sides live.
SYMMETRIC = frozenset(
    (
        *("next to", "beside", "near", "alongside", "close to", "adjacent to", "by", "along with"),
        *("together with", "across from", "opposite"),
    )
)
POSTURES = frozenset(("stand", "sit", "lie", "be", "walk", "pose"))
ARTICLES = frozenset(("a", "an", "the", "some"))
SILENT = frozenset(("there", "be"))
NEGATIONS = frozenset(("no", "not", "n't", "'t", "without", "never", "nobody", "nothing", "none"))
LIVING = ("person", "animal")
PLACES = ("place", "room", "building")

Form = tuple[object, ...]


class Judge:
    """Compares tagged texts by meaning.

    Args:
        lexicon: which words mean the same.
    """

    def __init__(self, lexicon: Lexicon) -> None:
        self.lexicon = lexicon

    def form(self, tokens: Sequence[Token]) -> Form:
        """What two texts of the same meaning have in common, as far as it is known here."""
        clauses, clause = [], list[Phrase]()
        for phrase in phrases(tokens):
            if phrase.words == "while" or (phrase.words == "as" and clause):
                clauses.append(clause)
                clause = []
            else:
                clause.append(phrase)
        clauses.append(clause)
        return tuple(sorted((self._clause(tokens, clause) for clause in clauses), key=repr))

    def judge(self, caption: Sequence[Token], text: Sequence[Token]) -> Judgement:
        """What is wrong with `text` as a negative of `caption`; empty if nothing is known to be.

        "same_meaning": it says the same. "implied": the caption says all of it and more.
        "narrower": it may well be true, since it only says more exactly what the caption says.
        """
        if self.form(caption) == self.form(text):
            return "same_meaning"
        said, more = (
            [item for clause in self.form(tokens) for item in _flat(clause)] for tokens in (caption, text)
        )
        if NEGATIONS & {token.lemma for token in caption} or NEGATIONS & {token.lemma for token in text}:
            return ""
        return self._covered(said, more)

    def _covered(self, said: Sequence[Form], more: Sequence[Form]) -> Judgement:
        """Whether `said` has all items of `more` in order, or broader or narrower words for them."""
        narrower, at = False, 0
        for item in more:
            start = at
            while at < len(said) and not (fit := self._fits(said[at], item)):
                at += 1
            # What is left out must be a whole phrase: "on a bench", not the "side of" in "on the side of it".
            if at == len(said) or (at > start and (said[start][0] == "np" or said[at - 1][0] == "relation")):
                return ""
            narrower |= fit == "narrower"
            at += 1
        return "narrower" if narrower else "implied"

    def _clause(self, tokens: Sequence[Token], clause: Sequence[Phrase]) -> Form:
        items = [
            self._item(tokens, phrase)
            for phrase in clause
            if phrase.words not in SILENT and not (phrase.kind == "other" and not phrase.words.isalnum())
        ]
        items = _join(_fronted(items))
        return tuple(self._symmetric(_ordered_verbs(items)))

    def _item(self, tokens: Sequence[Token], phrase: Phrase) -> Form:
        if phrase.kind == "noun phrase":
            head = tokens[phrase.last - 1]
            others = [
                tokens[i].lemma if tokens[i].tag != "NNS" else tokens[i].text.lower()
                for i in range(phrase.first, phrase.last - 1)
                if tokens[i].lemma not in ARTICLES and tokens[i].pos not in ("PUNCT", "CCONJ")
            ]
            described = (self._word(tokens[i]) for i in modifiers(tokens, phrase))
            kept = tuple(sorted({*described, *(word for word in others if word in NEGATIONS)}))
            return "np", self._word(head), head.plural, kept
        if phrase.kind == "relation":
            return "relation", self._representative(phrase.words, "ADP")
        if phrase.kind in ("verb", "adjective"):
            return phrase.kind, self._word(tokens[phrase.first])
        return phrase.kind, phrase.words

    def _word(self, token: Token) -> str:
        return self._representative(token.lemma, "NOUN" if token.pos == "PROPN" else token.pos)

    def _representative(self, word: str, pos: str) -> str:
        return min([word, *self.lexicon.synonyms(word, pos)])

    def _symmetric(self, items: Sequence[Form]) -> list[Form]:
        """The two sides of a symmetric relation in a fixed order.

        The relation must be all there is, but for a place: whatever else there is belongs to one side.
        """
        out = list(items)
        at = 2 if len(out) > 1 and out[1][0] == "verb" and out[1][1] in POSTURES else 1
        if len(out) > at + 1 and out[at][0] == "relation":
            left, right, rest = out[0], out[at + 1], out[at + 2 :]
            if (
                {left[0], right[0]} <= {"np", "all"}
                and self._exchangeable(out[at], left, right)
                and (not rest or (len(rest) == 2 and self._is(rest[1], PLACES)))
            ):
                out[0], out[at + 1] = sorted((left, right), key=repr)
        return out

    def _exchangeable(self, relation: Form, left: Form, right: Form) -> bool:
        names = {str(relation[1]), *self.lexicon.synonyms(str(relation[1]), "ADP")}
        if names & SYMMETRIC:
            return True
        return "with" in names and self._is(left, LIVING) and self._is(right, LIVING)

    def _is(self, item: Form, kinds: Sequence[str]) -> bool:
        """Whether a noun phrase, or each of several, is of one of the kinds."""
        if item[0] == "all":
            return all(self._is(part, kinds) for part in item[1:] if isinstance(part, tuple))
        return item[0] == "np" and any(
            self.lexicon.relation(str(item[1]), kind, "NOUN") in ("same", "implied") for kind in kinds
        )

    def _fits(self, said: Form, item: Form) -> str:
        """How what the caption says bears out what the text says: a relation of words, or nothing."""
        if said == item:
            return "same"
        if said[0] != item[0] or said[0] not in ("np", "verb", "adjective"):
            return ""
        pos = {"np": "NOUN", "verb": "VERB", "adjective": "ADJ"}[str(said[0])]
        relation = self.lexicon.relation(str(said[1]), str(item[1]), pos)
        if relation not in ("same", "implied", "narrower"):
            return ""
        if said[0] == "np":
            had, has = set(said[3]), set(item[3])  # type: ignore[call-overload]
            if said[2] != item[2] or not has <= had or (relation == "narrower" and has != had):
                return ""
        return relation


def _flat(clause: object) -> Iterator[Form]:
    """The noun phrases, verbs and so on of a clause, conjuncts one by one."""
    assert isinstance(clause, tuple)
    for item in clause:
        if item[0] == "all":
            yield from (part for part in item[1:] if isinstance(part, tuple))
        else:
            yield item


def _fronted(items: list[Form]) -> list[Form]:
    """A relation and its noun phrase in front put behind: "on the beach, a man runs"."""
    if len(items) > 3 and [item[0] for item in items[:3]] == ["relation", "np", "comma"]:
        return [*items[3:], *items[:2]]
    return items


def _join(items: list[Form]) -> list[Form]:
    """Noun phrases, or lone verbs or adjectives, joined by "and" as one item without an order."""
    out: list[Form] = []
    at = 0
    while at < len(items):
        kind, group, end = items[at][0], [items[at]], at + 1
        while kind in ("np", "verb", "adjective"):
            gap = end
            while gap < len(items) and items[gap][0] in ("and", "comma"):
                gap += 1
            if gap == end or gap == len(items) or items[gap][0] != kind:
                break
            group.append(items[gap])
            end = gap + 1
        last = [item for item in items[at:end] if item[0] in ("and", "comma")][-1:]
        if len(group) > 1 and last and last[0][0] == "and":
            out.append(("all", *sorted(group, key=repr)))
            at = end
        else:
            if items[at][0] != "comma":
                out.append(items[at])
            at += 1
    return out


def _ordered_verbs(items: list[Form]) -> list[Form]:
    """Two verb phrases that end a caption in a fixed order: "holds a cup and rides a horse"."""
    at = next((i for i, item in enumerate(items) if item[0] == "and"), -1)
    if at < 0 or at + 1 == len(items) or items[at + 1][0] != "verb":
        return items
    starts = [i for i in range(at) if items[i][0] == "verb"]
    if not starts or any(item[0] == "and" for item in items[at + 1 :]):
        return items
    head, pair = items[: starts[-1]], sorted((items[starts[-1] : at], items[at + 1 :]), key=repr)
    return [*head, *pair[0], ("and", "and"), *pair[1]]
