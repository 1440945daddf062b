"""The tokenizer and the preprocessing of an open_clip model as files of `transformers`."""

from __future__ import annotations

import json
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
import transformers
from PIL import Image
from tokenizers import Regex, Tokenizer, normalizers

from open_clip_ext.export.architectures import Unfit

# open_clip's names of the two special tokens, and OpenAI's.
SPECIAL = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
RESAMPLE = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def end_of_text(tokenizer: Any) -> int | None:
    """The id of the token that ends a text; None if there is none, as in BERT's tokenizer."""
    if isinstance(tokenizer, open_clip.SimpleTokenizer):
        return int(tokenizer.eot_token_id)
    ends: int | None = tokenizer.tokenizer.eos_token_id
    return ends


def convert_tokenizer(tokenizer: Any, context_length: int, *, reads_padding: bool) -> Any:
    """A tokenizer of `transformers` that gives the ids of an open_clip tokenizer.

    It does not repair broken Unicode or HTML entities, which open_clip's does.

    Args:
        tokenizer: a `SimpleTokenizer` or `HFTokenizer`.
        context_length: the number of tokens that a text is cut off at.
        reads_padding: whether the model attends to padding.

    Raises:
        Unfit: there is none.
    """
    if isinstance(tokenizer, open_clip.SimpleTokenizer):
        if reads_padding:  # of zeros, where that of `transformers` would pad with the end of text
            raise Unfit("its text tower reads the padding, and its tokenizer is CLIP's")
        return transformers.CLIPTokenizer(
            vocab={SPECIAL.get(token, token): number for token, number in tokenizer.encoder.items()},
            merges=list(tokenizer.bpe_ranks),
            model_max_length=context_length,
        )
    inner = tokenizer.tokenizer
    if (
        getattr(inner, "backend_tokenizer", None) is None
        or tokenizer.tokenizer_mode
        or tokenizer.strip_sep_token
    ):
        raise Unfit(f"its tokenizer {type(inner).__name__} is changed or written in Python")
    backend = Tokenizer.from_str(inner.backend_tokenizer.to_str())
    backend.no_padding()
    backend.no_truncation()
    own = [] if backend.normalizer is None else [backend.normalizer]
    backend.normalizer = normalizers.Sequence([*_cleaning(tokenizer.clean_fn), *own])
    # The general class: that of a family builds its normalizer anew.
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=context_length,
        padding_side=inner.padding_side,
        truncation_side=inner.truncation_side,
        model_input_names=["input_ids"],  # SiglipModel would take a mask, and open_clip has none
        **inner.special_tokens_map,
    )


def _cleaning(clean: Any) -> list[normalizers.Normalizer]:
    """What open_clip does to a text before it tokenizes it, as normalizers."""
    names = {open_clip.tokenizer.get_clean_fn(name): name for name in ("canonicalize", "lower", "whitespace")}
    name = names[clean]
    steps: list[normalizers.Normalizer] = []
    if name == "canonicalize":
        punctuation = "".join(f"\\{mark}" for mark in string.punctuation)
        steps += [normalizers.Replace("_", " "), normalizers.Replace(Regex(f"[{punctuation}]"), "")]
    if name in ("canonicalize", "lower"):
        steps.append(normalizers.Lowercase())
    return [*steps, normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]


def convert_preprocessing(config: Mapping[str, Any], side: int, *, siglip: bool) -> Any:
    """An image processor of `transformers` that does what open_clip's validation transform does.

    Args:
        config: the `preprocess_cfg` of the model.
        side: of its images, in pixels.
        siglip: whether the model is a `SiglipModel`.

    Raises:
        Unfit: there is none.
    """
    mode, interpolation = config["resize_mode"], config["interpolation"]
    if mode not in ("shortest", "squash") or interpolation not in RESAMPLE:
        raise Unfit(f"its images are resized in the mode {mode} by {interpolation} interpolation")
    square = {"height": side, "width": side}
    crops = mode == "shortest"
    made = transformers.SiglipImageProcessor if siglip else transformers.CLIPImageProcessor
    return made(
        size={"shortest_edge": side} if crops else square,
        do_center_crop=crops,
        crop_size=square,
        resample=int(RESAMPLE[interpolation]),
        image_mean=list(config["mean"]),
        image_std=list(config["std"]),
    )


def save(image_processor: Any, tokenizer: Any, folder: Path, *, siglip: bool) -> None:
    """Write the files from which `AutoProcessor` and its parts are loaded."""
    made = transformers.SiglipProcessor if siglip else transformers.CLIPProcessor
    made(image_processor, tokenizer).save_pretrained(folder)
    # What versions before 5 read as well.
    image_processor.save_pretrained(folder)
    if isinstance(tokenizer, transformers.CLIPTokenizer):
        tokenizer.backend_tokenizer.model.save(str(folder))  # vocab.json and merges.txt
    else:
        path = folder / "tokenizer_config.json"
        config = {**json.loads(path.read_text()), "tokenizer_class": "PreTrainedTokenizerFast"}
        path.write_text(json.dumps(config, indent=2))
