"""A small masked language model for the recipe `ce-clip`, trained on captions in four minutes of one core.

    python tests/masked_model.py CAPTIONS FOLDER [--steps N]
    open-clip-ext negatives make CAPTIONS --recipe ce-clip --cfg model=FOLDER tagger=textblob --out STORE

A BERT of two layers over whole words, so that what it fills in are words of captions. It stands in for a real
one, such as CE-CLIP's distilroberta-base: it knows which words go together in captions, and nothing else.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

from open_clip_ext.language.words import WORD
from open_clip_ext.negatives.captions import read

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS, LENGTH, BATCH = 5000, 24, 64
MASKED = 0.15
HELD_OUT = 1000  # captions


def tokenizer(captions: list[str], folder: Path) -> BertTokenizerFast:
    """Of the most frequent words, none of them in pieces."""
    counts = Counter(word for caption in captions for word in WORD.findall(caption.lower()))
    vocabulary = [*SPECIAL, ".", ",", *(word for word, _ in counts.most_common(WORDS))]
    (folder / "vocab.txt").write_text("\n".join(dict.fromkeys(vocabulary)))
    return BertTokenizerFast(vocab=str(folder / "vocab.txt"), do_lower_case=True)


def masked(ids: torch.Tensor, mask: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids `[B, L]` with words masked, and where `[B, L]`."""
    chosen = (torch.rand(ids.shape, generator=generator) < MASKED) & (ids >= len(SPECIAL))
    return ids.masked_fill(chosen, mask), chosen


def loss_and_hits(model, ids, mask, generator) -> tuple[torch.Tensor, torch.Tensor]:
    """The cross-entropy of the masked words, and whether the likeliest word is right `[N]`."""
    given, chosen = masked(ids, mask, generator)
    hidden = model.bert(given, attention_mask=ids != 0).last_hidden_state
    logits = model.cls(hidden[chosen])  # of the masked places alone
    return torch.nn.functional.cross_entropy(logits, ids[chosen]), logits.argmax(-1) == ids[chosen]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("captions", help="anything that `negatives make` reads")
    parser.add_argument("folder", type=Path, help="for the model")
    parser.add_argument("--steps", type=int, default=3000, help="of 64 captions (default: 3000)")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    captions = list(dict.fromkeys(" ".join(caption.split()) for caption, *_ in read(args.captions)))
    words = tokenizer(captions, args.folder)
    ids = words(captions, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt")
    ids = ids["input_ids"]
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    ids = ids[torch.randperm(len(ids), generator=generator)]
    held, ids = ids[:HELD_OUT], ids[HELD_OUT:]
    model = BertForMaskedLM(
        BertConfig(
            vocab_size=len(words), hidden_size=128, num_hidden_layers=2, num_attention_heads=4,
            intermediate_size=512, max_position_embeddings=64,
        )
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=args.steps, pct_start=0.1)
    start = time.process_time()
    for _ in tqdm(range(args.steps), unit="step", disable=None):
        batch = ids[torch.randint(len(ids), (BATCH,), generator=generator)]
        loss, _ = loss_and_hits(model, batch, words.mask_token_id, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    seconds = time.process_time() - start
    model.eval()
    with torch.no_grad():
        loss, hits = loss_and_hits(model, held, words.mask_token_id, generator)
    print(
        f"{len(ids):,} captions, {len(words):,} words, {args.steps:,} steps, {seconds:.0f} s of CPU time; "
        f"of {HELD_OUT:,} captions held out: loss {loss:.2f}, {hits.float().mean():.0%} of the words right"
    )
    model.save_pretrained(args.folder)
    words.save_pretrained(args.folder)


if __name__ == "__main__":
    main()
