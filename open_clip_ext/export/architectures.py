"""Copy an open_clip model into `CLIPModel` or `SiglipModel` of `transformers`.

The two libraries compute the same functions under other names. What a class of `transformers` cannot hold
shows in a weight without a place, in a place without a weight, or in a property that is checked here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import open_clip
import timm
import torch
import transformers
from open_clip.transformer import TextTransformer, VisionTransformer
from torch import Tensor, nn

# Names in `transformers` of the activations that both libraries have.
ACTIVATIONS = ("quick_gelu", "gelu", "gelu_pytorch_tanh")

# Patterns of open_clip's names and what they are in `transformers`, applied in this order. `qkv` is split
# afterwards.
BLOCKS = (
    (r"\.resblocks\.(\d+)\.", r".encoder.layers.\1."),
    (r"\.ln_(\d)\.", r".layer_norm\1."),
    (r"\.attn\.in_proj_", ".self_attn.qkv."),
    (r"\.attn\.out_proj\.", ".self_attn.out_proj."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)
TEXT = (
    (r"^token_embedding\.", "text_model.embeddings.token_embedding."),
    (r"^positional_embedding$", "text_model.embeddings.position_embedding.weight"),
    (r"^ln_final\.", "text_model.final_layer_norm."),
    (r"^transformer\.", "text_model."),
)
CLIP = (
    (r"^visual\.class_embedding$", "vision_model.embeddings.class_embedding"),
    (r"^visual\.conv1\.", "vision_model.embeddings.patch_embedding."),
    (r"^visual\.positional_embedding$", "vision_model.embeddings.position_embedding.weight"),
    (r"^visual\.ln_pre\.", "vision_model.pre_layrnorm."),
    (r"^visual\.ln_post\.", "vision_model.post_layernorm."),
    (r"^visual\.proj$", "visual_projection.weight"),
    (r"^visual\.transformer\.", "vision_model."),
    (r"^text_projection$", "text_projection.weight"),
    *TEXT,
    *BLOCKS,
)
SIGLIP = (
    (r"^visual\.trunk\.patch_embed\.proj\.", "vision_model.embeddings.patch_embedding."),
    (r"^visual\.trunk\.pos_embed$", "vision_model.embeddings.position_embedding.weight"),
    (r"^visual\.trunk\.norm\.", "vision_model.post_layernorm."),
    (r"^visual\.trunk\.attn_pool\.latent$", "vision_model.head.probe"),
    (r"^visual\.trunk\.attn_pool\.proj\.", "vision_model.head.attention.out_proj."),
    (r"^visual\.trunk\.attn_pool\.norm\.", "vision_model.head.layernorm."),
    (r"^visual\.trunk\.attn_pool\.(q|kv|mlp)\.", r"vision_model.head.\1."),
    (r"^visual\.trunk\.blocks\.(\d+)\.", r"vision_model.encoder.layers.\1."),
    (r"\.norm(\d)\.", r".layer_norm\1."),
    (r"\.attn\.qkv\.", ".self_attn.qkv."),
    (r"\.attn\.proj\.", ".self_attn.out_proj."),
    (r"^text_projection\.", "text_model.head."),
    *TEXT,
    *BLOCKS,
)


class Unfit(Exception):
    """No class of `transformers` that is known here can hold a model; the message is the reason."""


def convert(model: nn.Module, eos: int | None) -> Any:
    """A model of `transformers` with the weights and functions of an open_clip model.

    Args:
        model: an open_clip model, in fp32 on the CPU.
        eos: the id of the token that ends a text, if there is one.

    Returns:
        A `CLIPModel` or `SiglipModel`, in evaluation mode.

    Raises:
        Unfit: neither of them can hold it.
    """
    visual, text = model.visual, getattr(model, "text", model)
    if not isinstance(model, open_clip.CLIP | open_clip.CustomTextCLIP):
        raise Unfit(f"it is a {type(model).__name__}")
    if not isinstance(text, open_clip.CLIP | TextTransformer):
        raise Unfit(f"its text tower is a {type(text).__name__}")
    if isinstance(visual, VisionTransformer):
        return _clip(model, visual, text, eos)
    trunk = getattr(visual, "trunk", visual)
    if isinstance(trunk, timm.models.VisionTransformer):
        return _siglip(model, visual, text, eos)
    raise Unfit(f"its image tower is a {type(trunk).__name__}")


def _clip(model: Any, visual: Any, text: Any, eos: int | None) -> Any:
    pool = _pool(text)
    if pool == "eos":
        eos = model.text_eos_id if text is model else text.eos_id
    _require(visual.pool_type == "tok", f"its image tower pools by {visual.pool_type}")
    _require(visual.attn_pool is None, "its image tower pools by attention, and CLIPModel's does not")
    _require(pool in ("argmax", "eos"), f"its text tower pools by {pool}, and CLIPModel at the end of a text")
    _require(eos is not None, "its tokenizer has no token that ends a text, at which CLIPModel pools")
    _require((pool, eos) != ("eos", 2), "its text tower pools at token 2, and CLIPModel would at the highest")
    _require(text.attn_mask is not None, "its text tower reads in both directions, and CLIPModel's forwards")
    _require(model.logit_bias is None, "it has a logit bias, which CLIPModel has not")
    config = transformers.CLIPConfig(
        projection_dim=visual.proj.shape[1],
        vision_config={
            **_open_clip_tower(visual.transformer, visual.ln_post),
            "image_size": _side(visual.image_size),
            "patch_size": _side(visual.patch_size),
            "projection_dim": visual.proj.shape[1],
        },
        text_config={
            **_open_clip_tower(text.transformer, text.ln_final),
            **_vocabulary(text, eos),
            "projection_dim": visual.proj.shape[1],
        },
    )
    weights = _renamed(model, CLIP)
    for projection in ("visual_projection.weight", "text_projection.weight"):
        if projection in weights:  # x @ W here, x @ W.T there
            weights[projection] = weights[projection].T
    return _filled(transformers.CLIPModel(config), weights)


def _siglip(model: Any, visual: Any, text: Any, eos: int | None) -> Any:
    trunk = visual.trunk
    _require(trunk.attn_pool is not None, "its image tower has no attention pooling, which SiglipModel's has")
    pool = _pool(text)
    _require(pool == "last", f"its text tower pools by {pool}, and SiglipModel's by the last token")
    _require(text.attn_mask is None, "its text tower reads forwards, and SiglipModel's in both directions")
    _require(model.logit_bias is not None, "it has no logit bias, which SiglipModel has")
    width = trunk.embed_dim
    config = transformers.SiglipConfig(
        vision_config={
            **_tower(trunk.blocks, width, trunk.blocks[0].mlp.fc1, trunk.blocks[0].mlp.act, trunk),
            "image_size": _side(visual.image_size),
            "patch_size": _side(trunk.patch_embed.patch_size),
        },
        text_config={
            **_open_clip_tower(text.transformer, text.ln_final),
            **_vocabulary(text, eos),
            "projection_size": width,
        },
    )
    weights = _renamed(model, SIGLIP)
    if text.text_projection is None:
        weights["text_model.head.weight"] = torch.eye(width)
        weights["text_model.head.bias"] = torch.zeros(width)
    head = "vision_model.head"
    for part in ("weight", "bias"):
        query, both = (weights.pop(f"{head}.{name}.{part}", None) for name in ("q", "kv"))
        if query is not None and both is not None:
            weights[f"{head}.attention.in_proj_{part}"] = torch.cat([query, both])
    return _filled(transformers.SiglipModel(config), weights)


def _open_clip_tower(transformer: Any, norm: nn.Module) -> dict[str, Any]:
    mlp = transformer.resblocks[0].mlp
    return _tower(transformer.resblocks, transformer.width, mlp.c_fc, mlp.gelu, transformer, norm)


def _tower(blocks: Any, width: int, hidden: Any, activation: nn.Module, *parts: nn.Module) -> dict[str, Any]:
    """The entries of a configuration that every tower has."""
    norms = {m.eps for part in parts for m in part.modules() if isinstance(m, nn.LayerNorm)}
    _require(len(norms) == 1, f"its layer norms have different epsilons ({norms})")
    return {
        "hidden_size": width,
        "intermediate_size": hidden.out_features,
        "num_hidden_layers": len(blocks),
        "num_attention_heads": blocks[0].attn.num_heads,
        "hidden_act": _activation(activation),
        "layer_norm_eps": norms.pop(),
    }


def _vocabulary(text: Any, eos: int | None) -> dict[str, Any]:
    return {
        "vocab_size": text.vocab_size,
        "max_position_embeddings": text.context_length,
        # CLIPModel pools at the first of these; if this is 2, at the highest id, as its early versions did.
        "eos_token_id": eos,
        "bos_token_id": None,
        "pad_token_id": None,
    }


def _pool(text: Any) -> str:
    return str(text.text_pool_type if isinstance(text, open_clip.CLIP) else text.pool_type)


def _activation(module: nn.Module) -> str:
    """The name of an activation, by its values: classes differ among versions of timm and open_clip."""
    x = torch.linspace(-6, 6, 1001)
    for name in ACTIVATIONS:
        if torch.allclose(transformers.activations.ACT2FN[name](x), module(x), rtol=0, atol=1e-6):
            return name
    raise Unfit(f"its activation {type(module).__name__} is none of {', '.join(ACTIVATIONS)}")


def _side(size: int | Iterable[int]) -> int:
    sides = {size} if isinstance(size, int) else set(size)
    _require(len(sides) == 1, f"its images or patches are not square ({size})")
    return sides.pop()


def _renamed(model: nn.Module, rules: Iterable[tuple[str, str]]) -> dict[str, Tensor]:
    """The weights of `model` under the names of `transformers`; what no rule knows keeps its name."""
    weights = {}
    for key, value in model.state_dict().items():
        name = key.removeprefix("text.")
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        if ".qkv." in name:
            for part, its in zip("qkv", value.chunk(3), strict=True):
                weights[name.replace(".qkv.", f".{part}_proj.")] = its
        else:
            weights[name] = value
    return weights


def _filled(model: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """`model` with these weights, each in its place."""
    places = model.state_dict()
    name = type(model).__name__
    if extra := sorted(weights.keys() - places.keys()):
        raise Unfit(f"it has {extra[0]}{_more(extra)}, for which {name} has no place")
    if missing := sorted(places.keys() - weights.keys()):
        raise Unfit(f"it lacks {missing[0]}{_more(missing)} of {name}")
    shaped = {
        key: value.reshape(places[key].shape) for key, value in weights.items() if _fits(value, places[key])
    }
    if other := sorted(weights.keys() - shaped.keys()):
        raise Unfit(f"{other[0]}{_more(other)} has another shape in {name}")
    model.load_state_dict({key: value.contiguous() for key, value in shaped.items()})
    return model.eval()


def _fits(value: Tensor, place: Tensor) -> bool:
    """Whether the shapes are the same but for axes of length 1."""
    return value.squeeze().shape == place.squeeze().shape


def _require(fits: bool, reason: str) -> None:
    if not fits:
        raise Unfit(reason)


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
