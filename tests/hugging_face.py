"""Tiny text towers of transformers beside the tests' image tower, with tokenizers made here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import support
import torch

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789-'.,"
WORDS = [*support.COLOURS, *support.SHAPES, "left", "right", "of", "a", "on", "white"]
TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 80,
}
# The tokens of a text, at most: those of the tower are more.
CONTEXT = 64
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def write_model(folder: Path, kind: str = "bert", text: dict[str, Any] | None = None, **tower: Any) -> str:
    """A tiny model as `--model local-dir:...`, with a tokenizer and random weights of its text tower.

    Args:
        folder: where to write.
        kind: of `TOWERS`.
        text: changes of `text_cfg`.
        tower: changes of the tower's configuration.
    """
    from transformers import AutoModel

    config, tokenizer = TOWERS[kind](tower)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModel.from_config(config).save_pretrained(folder / "tower")
    tokenizer.save_pretrained(folder)
    return support.write_model(
        folder,
        text_cfg={
            "context_length": CONTEXT,
            "hf_model_name": str(folder / "tower"),
            "hf_tokenizer_name": "beside the model",
            "hf_proj_type": "linear",
            "hf_pooler_type": "mean_pooler",
            **(text or {}),
        },
    )


def bert(changes: dict[str, Any]) -> tuple[Any, Any]:
    """Words, and the letters of any other; the padding is 0."""
    from transformers import BertConfig, BertTokenizer

    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{c}" for c in LETTERS), *WORDS]
    vocab = {piece: place for place, piece in enumerate(dict.fromkeys(pieces))}
    return BertConfig(**TINY | {"vocab_size": len(vocab)} | changes), BertTokenizer(vocab=vocab)


def roberta(changes: dict[str, Any]) -> tuple[Any, Any]:
    """Bytes. The padding is 1, and positions are counted from it; 0 is the token that begins a text."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import RobertaConfig, RobertaTokenizer

    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(ByteLevel.alphabet())]
    vocab = {piece: place for place, piece in enumerate(pieces)}
    config = RobertaConfig(**TINY | {"vocab_size": len(vocab)} | changes)
    return config, RobertaTokenizer(vocab=vocab, merges=[])


def mt5(changes: dict[str, Any]) -> tuple[Any, Any]:
    """Positions are distances, so there is no longest text."""
    from transformers import MT5Config, T5Tokenizer

    pieces = dict.fromkeys(["<pad>", "</s>", "<unk>", "▁", *LETTERS, *(f"▁{word}" for word in WORDS)])
    size = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2, "vocab_size": len(pieces)}
    tokenizer = T5Tokenizer(vocab=[(piece, -float(i)) for i, piece in enumerate(pieces)], extra_ids=0)
    return MT5Config(**size | changes), tokenizer


def m2m_100(changes: dict[str, Any]) -> tuple[Any, Any]:
    """Positions are waves, counted from the padding, which is 1; the tokenizer does not fit it."""
    from transformers import M2M100Config

    size = {"d_model": 32, "vocab_size": 100, "max_position_embeddings": 80}
    for part in ("encoder", "decoder"):
        size |= {f"{part}_layers": 2, f"{part}_attention_heads": 2, f"{part}_ffn_dim": 64}
    return M2M100Config(**size | changes), bert({})[1]


TOWERS = {"bert": bert, "roberta": roberta, "mt5": mt5, "m2m_100": m2m_100}
