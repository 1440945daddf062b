"""The recipe `degla-rules`: the five types of DeGLA (Hu et al., ACM MM 2025), by rules instead of an LLM.

The types are the paper's; its authors' prompts, examples and script were not released.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from open_clip_ext.language import words
from open_clip_ext.language.phrases import Phrase
from open_clip_ext.language.things import common, head, noun_phrases
from open_clip_ext.language.words import Token
from open_clip_ext.negatives.recipes.swap import Swap
from open_clip_ext.negatives.records import Candidate


class DeGLARules(Swap):
    """Reshuffles noun phrases, swaps nouns or adjectives, replaces an adjective or a noun.

    A replacement comes from the lexicon: another word of the same family, which excludes the first.
    """

    name = "degla-rules"
    version = "1"
    types = ("reshuffle", "swap_noun", "swap_adj", "replace_adj", "replace_noun")

    def propose(self, caption: str, tokens: Sequence[Token], rng: random.Random) -> Iterator[Candidate]:
        """Some texts of each type."""
        nouns = noun_phrases(tokens)
        yield from self.reshuffled(caption, tokens, nouns, rng)
        yield from self.swaps("swap_noun", caption, tokens, self.noun_pairs(tokens, nouns), rng)
        yield from self.swaps("swap_adj", caption, tokens, self.adjective_pairs(tokens, nouns), rng)
        adjectives = (i for i, token in enumerate(tokens) if token.pos == "ADJ")
        single = (p.last - 1 for p in nouns if common(tokens, p) and head(tokens, p)[0] == p.last - 1)
        there = {token.lemma for token in tokens}
        for type, places in (("replace_adj", adjectives), ("replace_noun", single)):
            for text in self.replaced(caption, tokens, places, there, rng):
                yield Candidate(type, text)

    def reshuffled(
        self, caption: str, tokens: Sequence[Token], nouns: Sequence[Phrase], rng: random.Random
    ) -> Iterator[Candidate]:
        """Three or more noun phrases, each in another's place; two, exchanged."""
        if len(nouns) < 3:
            yield from self.swaps("reshuffle", caption, tokens, self.phrase_pairs(tokens, nouns), rng)
            return
        texts = [words.lowered(caption, tokens, phrase.span) for phrase in nouns]
        for _ in range(self.proposals):
            chosen = sorted(rng.sample(range(len(nouns)), rng.randint(3, len(nouns))))
            turned = chosen[1:] + chosen[:1] if rng.random() < 0.5 else chosen[-1:] + chosen[:-1]
            changes = {nouns[to].span: texts[of] for to, of in zip(chosen, turned, strict=True)}
            yield Candidate("reshuffle", words.edit(caption, tokens, changes))
