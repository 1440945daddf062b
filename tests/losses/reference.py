"""The three sets of seeded features on which a second implementation computed reference values."""

from __future__ import annotations

from types import SimpleNamespace

import torch
import torch.nn.functional as F

from open_clip_ext import registry

SCALE = torch.tensor(20.0, dtype=torch.float64)
# Where the features of a kind of companions lie in a case, their mask, and the teacher's.
KINDS = {
    "neg": ("n", "m", "tn"),
    "pos": ("pos", "pos_m", "pos_t"),
    "absence": ("absence", "absence_m", "absence_t"),
    "phrase": ("phrase", "phrase_m", "phrase_t"),
    "foil": ("foil", "foil_m", "foil_t"),
    "masked": ("masked", "masked_m", "masked_t"),
    "hard": ("hard", "hard_m", "hard_t"),
    "hard_neg": ("hard_neg", "hard_neg_m", "hard_neg_t"),
    "pair": ("pair", "pair_m", "pair_t"),
    "pair_pos": ("pair_pos", "pair_pos_m", "pair_pos_t"),
    "pair_neg": ("pair_neg", "pair_neg_m", "pair_neg_t"),
}
# The same of kinds of companion images.
IMAGES = {kind: (f"{kind}_v", f"{kind}_v_m", f"{kind}_v_t") for kind in ("neg", "hard", "pair")}
# Where the words of captions and of a kind of companions lie, and which of them count.
WORDS = {"text": ("words", "words_m"), "neg_text": ("neg_words", "neg_words_m")}
# The weights of the anchors; a loss has them as options, and as attributes of its class, their defaults.
ANCHORS = ("image_anchor", "text_anchor", "similarity_anchor")
OTHER_KINDS = [*(names for kind, names in KINDS.items() if kind != "neg"), *IMAGES.values()]


def unit(x):
    return F.normalize(x, dim=-1)


def stream(seed):
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)


def random_set(b, seed=0, k=4, d=16):
    """Independent features: set A with b = 6, set C with b = 8."""
    draw = stream(seed)
    v, t, n = unit(draw(b, d)), unit(draw(b, d)), unit(draw(b * k, d)).view(b, k, d)
    tv, tt, tn = unit(draw(b, d)), unit(draw(b, d)), unit(draw(b * k, d)).view(b, k, d)
    m = torch.ones(b, k, dtype=torch.bool)
    x = SimpleNamespace(v=v, t=t, n=n, tv=tv, tt=tt, tn=tn, m=m, s=SCALE)
    for features, mask, taught in OTHER_KINDS:
        setattr(x, features, unit(draw(b * k, d)).view(b, k, d))
        setattr(x, mask, m.clone())
        setattr(x, taught, unit(draw(b * k, d)).view(b, k, d))
    x.patches, x.words, x.neg_words = draw(b, 5, d), draw(b, 6, d), draw(b, k, 6, d)
    x.words_m, x.neg_words_m = (torch.ones(y.shape[:-1], dtype=torch.bool) for y in (x.words, x.neg_words))
    x.mixed, x.mixed_0, x.said, x.said_0 = (unit(draw(*shape)) for shape in 2 * [(b, d)] + 2 * [(b, 2, d)])
    return x


def set_a():
    """Random features; the mask is for the ranking hinge and its thresholds alone."""
    x = random_set(6)
    x.m[0, 0] = x.m[3, 0] = x.m[2, 2] = False
    assert x.v[0, 0].item() == close(-0.4899175509)
    assert x.n[5, 3, 15].item() == close(0.1309898920)
    assert x.tn[0, 0, 0].item() == close(0.3574223236)
    return x


def set_b():
    """Features that agree, with missing negatives: a whole type, a whole sample, two more slots."""
    draw = stream(1)
    v = unit(draw(6, 16))
    t = unit(v + 0.6 * unit(draw(6, 16)))
    n = unit(t[:, None] + 0.5 * unit(draw(6, 4, 16)))
    tv = unit(v + 0.2 * unit(draw(6, 16)))
    tt = unit(t + 0.2 * unit(draw(6, 16)))
    tn = unit(n + 0.2 * unit(draw(6, 4, 16)))
    m = torch.ones(6, 4, dtype=torch.bool)
    m[:, 2] = m[4] = m[0, 0] = m[1, 3] = False
    assert v[0, 0].item() == close(-0.1167055959)
    assert n[5, 3, 15].item() == close(0.0958921719)
    assert tn[5, 3, 15].item() == close(0.0784008606)
    assert m.sum() == 13
    return SimpleNamespace(v=v, t=t, n=n, tv=tv, tt=tt, tn=tn, m=m, s=SCALE)


def set_c():
    """Random features of two ranks, four samples each; mask for the ranking hinge alone."""
    x = random_set(8)
    x.m[0, 0] = x.m[4, 0] = False
    assert x.v[0, 0].item() == close(-0.4899175509)
    return x


def close(value):
    import pytest

    return pytest.approx(value, rel=0, abs=1e-9)


def student(x, mask=True):
    """The arguments of a loss with negatives, by name."""
    return {
        "image_features": x.v,
        "text_features": x.t,
        "logit_scale": x.s,
        "neg_text_features": x.n,
        "neg_valid": x.m if mask else None,
    }


def teacher(x):
    return {
        "teacher_image_features": x.tv,
        "teacher_text_features": x.tt,
        "teacher_neg_text_features": x.tn,
    }


def arguments(loss, x):
    """The arguments of any loss by name, from what it declares; of one that declares nothing, CLIP's."""
    args = {"image_features": x.v, "text_features": x.t, "logit_scale": x.s}
    if hasattr(x, "b"):
        args["logit_bias"] = x.b
    taught = {"teacher_image_features": x.tv, "teacher_text_features": x.tt}
    kinds = [
        (*KINDS[kind], f"{kind}_text_features", f"{kind}_valid")
        for kind, count in getattr(loss, "companions", {}).items()
        if count
    ] + [
        (*IMAGES[kind], f"{kind}_image_features", f"{kind}_image_valid")
        for kind, count in getattr(loss, "companion_images", {}).items()
        if count
    ]
    for features, mask, teacher_features, name, mask_name in kinds:
        args |= {name: getattr(x, features), mask_name: getattr(x, mask)}
        taught[f"teacher_{name}"] = getattr(x, teacher_features)
    if getattr(loss, "dense_terms", ()) and hasattr(x, "patches"):
        args["image_tokens"] = x.patches
        for text, (tokens, mask) in WORDS.items():
            args |= {f"{text}_tokens": getattr(x, tokens), f"{text}_token_mask": getattr(x, mask)}
    args |= taught if getattr(loss, "teacher", None) else {}
    args |= anchors(x) if any(getattr(loss, weight, 0) for weight in ANCHORS) else {}
    return args | (identities(loss, x) if hasattr(loss, "same") and hasattr(x, "picture") else {})


def anchors(x):
    """Mixed pictures and reference texts, as the model sees them and as its base does."""
    return {
        "anchor_image_features": x.mixed,
        "anchor_base_image_features": x.mixed_0,
        "anchor_text_features": x.said,
        "anchor_base_text_features": x.said_0,
    }


def identities(loss, x):
    """Those of a case, by the names of a loss's arguments."""
    kinds = {f"{kind}_text_id": getattr(x, f"{KINDS[kind][0]}_id") for kind in loss.companions}
    return {"image_id": x.picture, "text_id": x.caption, **kinds}


def gradient_norms(loss, *leaves):
    return [g.norm().item() for g in torch.autograd.grad(loss, leaves)]


def leaves(x):
    """Make v, t and n free; return them."""
    x.v, x.t, x.n = (y.detach().clone().requires_grad_() for y in (x.v, x.t, x.n))
    return x.v, x.t, x.n


def features(b=5, k=3, d=7, seed=3, grad=True):
    """A random case with a random mask."""
    x = random_set(b, seed=seed, k=k, d=d)
    generator = torch.Generator().manual_seed(seed)
    for _, mask, _ in (*KINDS.values(), *IMAGES.values()):
        setattr(x, mask, torch.rand(b, k, generator=generator) < 0.6)
    for _, mask in WORDS.values():
        lengths = torch.randint(2, 7, getattr(x, mask).shape[:-1], generator=generator)
        setattr(x, mask, torch.arange(6) < lengths[..., None])
    identify(x)
    x.s = torch.tensor(7.0, dtype=torch.float64, requires_grad=grad)
    if grad:
        leaves(x)
        for name in ("patches", "words", "neg_words", "mixed", "said", *(name for name, *_ in OTHER_KINDS)):
            getattr(x, name).requires_grad_()
    return x


def identify(x):
    """Give a case identities: of six samples, two pictures and one caption occur twice, in both halves.

    One companion of each kind occurs twice, one reads as another sample's caption, one as its own's.
    """
    b = len(x.v)
    x.picture = torch.arange(b) % max(1, b - 2)
    x.caption = 100 + torch.arange(b)
    x.caption[3:4] = x.caption[2:3]
    for number, (kind, *_) in enumerate(KINDS.values(), start=1):
        ids = 1000 * number + torch.arange(getattr(x, kind)[..., 0].numel()).view(b, -1)
        ids[-1, 0] = ids[0, 0]
        ids[1:2, -1] = x.caption[0]
        ids[2:3, -1] = x.caption[2:3]
        setattr(x, f"{kind}_id", ids)


def live(x):
    """What is differentiated of a case, by name."""
    return {name: y for name, y in vars(x).items() if torch.is_tensor(y) and y.requires_grad}


def own_idle(loss):
    """The options without effect beside the others, without those that every loss has."""
    return {name: why for name, why in loss.idle_options().items() if name not in registry.SHARED_OPTIONS}
