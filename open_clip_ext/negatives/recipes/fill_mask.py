"""The recipe `ce-clip`: a noun swap, and words replaced by a masked language model.

After CE-CLIP (Zhang et al., CVPR 2024), without the defects of its released script: words are masked by
their offsets, a caption without a word of the class gets no text of that type, and what the model
proposes must be a whole word of the same class that the original does not imply.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from open_clip_ext.errors import InputError
from open_clip_ext.language import words
from open_clip_ext.language.things import noun_phrases
from open_clip_ext.language.words import Token
from open_clip_ext.negatives.recipes.rules import Rules
from open_clip_ext.negatives.recipes.swap import NO_PROPERTY
from open_clip_ext.negatives.records import Candidate, draw

CLASSES = {"replace_adj": "ADJ", "replace_noun": "NOUN", "replace_verb": "VERB"}
FILLS = 50  # asked of the model for each mask


class CECLIP(Rules):
    """Swaps two nouns; replaces an adjective, a noun and a verb by what a model finds likely there.

    Args:
        model: a fill-mask model: its name on the hub or its folder.
        rank: which of the allowed words is taken first; 1 is the likeliest, and the likeliest to be
            true of the picture as well.
        device: where the model runs, such as "cuda:0".
        model_batch: texts that the model gets at once.
        seed: of the choices.
        tagger: see `Rules`.
        wordnet: see `Rules`.
    """

    name: ClassVar[str] = "ce-clip"
    version = "1"
    types = ("swap_noun", *CLASSES)

    def __init__(
        self,
        *,
        model: str = "distilbert/distilroberta-base",
        rank: int = 3,
        device: str = "cpu",
        model_batch: int = 64,
        seed: int = 0,
        tagger: str = "auto",
        wordnet: bool = True,
    ) -> None:
        super().__init__(seed=seed, tagger=tagger, wordnet=wordnet)
        if rank < 1:
            raise ValueError(f"rank must be at least 1, not {rank}")
        self.model, self.rank, self.model_batch = model, rank, model_batch
        self._pipeline = _pipeline(model, device)

    def identity(self) -> dict[str, Any]:
        """Model and rank, seed, tagger and lexicon."""
        return {**super().identity(), "model": self.model, "rank": self.rank}

    def generate(self, captions: Sequence[str]) -> Iterator[tuple[int, list[Candidate]]]:
        """The candidates for each caption; the model sees the masks of all captions at once."""
        tagged = list(self.tagger.tag(captions))
        found: list[list[Candidate]] = []
        masks: list[tuple[int, str, int]] = []  # caption, type, token
        for index, (caption, tokens) in enumerate(zip(captions, tagged, strict=True)):
            rng = draw(self.seed, self.name, caption)
            pairs = self.noun_pairs(tokens, noun_phrases(tokens))
            found.append(list(self.swaps("swap_noun", caption, tokens, pairs, rng)))
            masks += [(index, type, at) for type, at in _places(tokens, rng)]
        mask = self._pipeline.tokenizer.mask_token
        texts = [words.edit(captions[i], tagged[i], {(at, at + 1): mask}) for i, _, at in masks]
        for (i, type, at), filled in zip(masks, self._fill(texts), strict=True):
            found[i] += self._allowed(type, captions[i], tagged[i], at, filled)
        yield from enumerate(found)

    def _fill(self, texts: Sequence[str]) -> list[list[dict[str, Any]]]:
        """The likeliest fills of each text's mask; none where the text is too long for the model."""
        lengths = [len(ids) for ids in self._pipeline.tokenizer(list(texts))["input_ids"]] if texts else []
        fit = [at for at, length in enumerate(lengths) if length <= self._longest]
        size = min(FILLS, self._pipeline.model.config.vocab_size)
        filled = (
            self._pipeline([texts[at] for at in fit], top_k=size, batch_size=self.model_batch) if fit else []
        )
        found: list[list[dict[str, Any]]] = [[] for _ in texts]
        for at, fills in zip(fit, filled if len(fit) > 1 else [filled], strict=bool(fit)):
            found[at] = fills
        return found

    @property
    def _longest(self) -> int:
        """Tokens that the model takes; the two below its positions that RoBERTa sets aside are not used."""
        config = self._pipeline.model.config
        positions = int(getattr(config, "max_position_embeddings", 514))
        return min(int(self._pipeline.tokenizer.model_max_length), positions - 2)

    def _allowed(
        self, type: str, caption: str, tokens: Sequence[Token], at: int, fills: Sequence[dict[str, Any]]
    ) -> Iterator[Candidate]:
        """The fills that may stand there, from the wanted rank on, then the likelier ones."""
        good: list[str] = []
        there = {token.text.lower() for token in tokens}
        for fill in fills:
            word = self._word(fill["token"])
            if word and word.lower() not in there:
                text = words.edit(caption, tokens, {(at, at + 1): word})
                new = next(iter(self.tagger.tag([text])))
                # The same class in its new place, and no other words disturbed.
                if (
                    len(new) == len(tokens)
                    and new[at].pos == tokens[at].pos
                    and self._new(tokens[at], new[at])
                ):
                    good.append(text)
            if len(good) == self.rank + self.proposals:
                break
        for text in [*good[self.rank - 1 :], *reversed(good[: self.rank - 1])][: self.proposals + 1]:
            yield Candidate(type, text)

    def _new(self, old: Token, new: Token) -> bool:
        return old.lemma != new.lemma and self.differ(old, new) and old.plural == new.plural

    def _word(self, token: int) -> str:
        """The word that a token id stands for; empty if it is a part of one, or none at all."""
        piece = str(self._pipeline.tokenizer.convert_ids_to_tokens(token))
        if self._marks_beginnings:
            if piece[:1] not in BEGINNINGS:
                return ""
            piece = piece[1:]
        return piece if piece.isascii() and piece.isalpha() and len(piece) > 1 else ""

    @property
    def _marks_beginnings(self) -> bool:
        """Whether the vocabulary marks the beginning of a word, not the going on of one ("##ing")."""
        pieces = self._pipeline.tokenizer.tokenize("a dog")
        return any(piece[:1] in BEGINNINGS for piece in pieces)


BEGINNINGS = ("\u0120", "\u2581")  # of byte-level BPE, and of SentencePiece


def _places(tokens: Sequence[Token], rng: random.Random) -> Iterator[tuple[str, int]]:
    """For each class one of its words, by type and token."""
    for type, pos in CLASSES.items():
        places = [i for i, token in enumerate(tokens) if token.pos == pos and token.lemma not in NO_PROPERTY]
        if places:
            yield type, rng.choice(places)


def _pipeline(model: str, device: str) -> Any:
    try:
        from transformers import pipeline
        from transformers.utils import logging
    except ImportError as error:
        raise InputError(
            "--recipe ce-clip: transformers is not installed; pip install transformers"
        ) from error
    logging.disable_progress_bar()
    try:
        made = pipeline("fill-mask", model=model, device=device)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"--cfg model={model}: no fill-mask model can be loaded from there ({reason})"
        ) from error
    if made.tokenizer is None or made.tokenizer.mask_token is None:
        raise InputError(f"--cfg model={model}: its tokenizer has no mask; give a masked language model")
    return made
