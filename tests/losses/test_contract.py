"""What every built-in loss promises to the host, and to whoever calls it wrongly."""

from __future__ import annotations

import inspect
import types
import typing

import pytest
import torch
from our_losses import CLASSES, VARIANTS, loss_of
from our_losses import terms as terms_of
from reference import IMAGES, KINDS, WORDS, arguments, close, features, live, own_idle
from support import assert_same

from open_clip_ext.losses import CECLIPLoss, DeGLALoss

LOSSES = list(CLASSES.values())
DISTRIBUTED = {
    "local_loss": False,
    "gather_with_grad": False,
    "cache_labels": False,
    "rank": 0,
    "world_size": 1,
}
WEIGHTED = [(cls, weight, term) for cls in LOSSES for term, weight in cls.weights.items() if weight]


@pytest.mark.parametrize("cls", LOSSES)
def test_options_are_annotated_keywords_with_defaults(cls):
    parameters = inspect.signature(cls).parameters
    assert all(p.kind == p.KEYWORD_ONLY and p.default is not p.empty for p in parameters.values())
    assert {k: parameters[k].default for k in DISTRIBUTED} == DISTRIBUTED
    hints = typing.get_type_hints(cls.__init__)
    for name, p in parameters.items():
        hint = hints[name]
        union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
        for kind in typing.get_args(hint) if union else (hint,):
            assert kind in (float, int, bool, str) or typing.get_origin(kind) is typing.Literal
        assert p.default == cls(**{name: p.default}).__dict__[name]


@pytest.mark.parametrize("cls", LOSSES)
def test_declares_its_companions_and_its_paper(cls):
    assert all(kind in KINDS and count >= 0 for kind, count in cls.companions.items())
    assert all(kind in IMAGES and count >= 0 for kind, count in cls.companion_images.items())
    assert "arXiv" in cls.paper
    assert "\n" not in cls.paper


@pytest.mark.parametrize("cls", LOSSES)
def test_named_terms_sum_to_the_total(cls):
    args = arguments(cls, features())
    terms = cls()(**args, output_dict=True)
    assert list(terms) == terms_of(cls)
    assert all(name.endswith("_loss") for name in terms)
    assert sum(terms.values()).item() == close(cls()(**args).item())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("cls", LOSSES)
def test_arithmetic_is_fp32_under_autocast(cls, dtype):
    half = {
        k: x.to(dtype) if torch.is_tensor(x) and x.is_floating_point() else x
        for k, x in arguments(cls, features(grad=False)).items()
    }
    full = {k: x.float() if torch.is_tensor(x) and x.is_floating_point() else x for k, x in half.items()}
    with torch.autocast("cpu", dtype):
        value = cls()(**half)
    assert value.dtype == torch.float32
    assert torch.equal(value, cls()(**full))


@pytest.mark.parametrize("cls", LOSSES)
def test_fp64_stays_fp64(cls):
    assert cls()(**arguments(cls, features())).dtype == torch.float64


@pytest.mark.parametrize("cls", LOSSES)
def test_gradients_come_back_in_the_dtype_of_the_features(cls):
    x = features(grad=False)
    x.v = x.v.bfloat16().requires_grad_()
    args = arguments(cls, x)
    args = {k: y.bfloat16() if y.is_floating_point() else y for k, y in args.items()}
    cls()(**args).backward()
    assert x.v.grad.dtype == torch.bfloat16
    assert x.v.grad.isfinite().all()


@pytest.mark.parametrize("name", VARIANTS)
def test_a_batch_of_one_sample_has_a_loss_and_a_gradient(name):
    x = features(b=1)
    value = VARIANTS[name]()(**arguments(loss_of(name), x))
    assert value.isfinite()
    got = torch.autograd.grad(value, list(live(x).values()), allow_unused=True)
    assert all(g.isfinite().all() for g in got if g is not None)


@pytest.mark.parametrize("name", VARIANTS)
def test_what_is_stored_in_place_of_a_missing_companion_changes_nothing(name):
    def evaluate(content):
        x = features()
        for kind, mask, _ in (*KINDS.values(), *IMAGES.values()):
            y = getattr(x, kind).detach().masked_fill(~getattr(x, mask)[..., None], content)
            setattr(x, kind, y.requires_grad_())
        for tokens, mask in WORDS.values():
            y = getattr(x, tokens).detach().masked_fill(~getattr(x, mask)[..., None], content)
            setattr(x, tokens, y.masked_fill(~x.m[..., None, None], content) if y.ndim == 4 else y)
            getattr(x, tokens).requires_grad_()
        value = VARIANTS[name]()(**arguments(loss_of(name), x))
        return [value, *torch.autograd.grad(value, list(live(x).values()), allow_unused=True)]

    assert_same(evaluate(0.0), evaluate(torch.nan))


@pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace:UserWarning")
@pytest.mark.parametrize("name", VARIANTS)
def test_a_compiled_loss_is_one_graph_with_the_same_numbers(name):
    """Around it, TF32 is switched off while the graph runs, which a graph cannot do by itself."""
    x = features()
    args = arguments(loss_of(name), x)
    expected = VARIANTS[name]()(**args, output_dict=True)
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(VARIANTS[name](), backend=backend)
    got = compiled(**args, output_dict=True)
    assert len(graphs) == 1
    assert_same(got, expected)
    leaves = (x.v, x.t, x.n, x.s)
    grads = (torch.autograd.grad(sum(y.values()), leaves, allow_unused=True) for y in (got, expected))
    assert_same(*map(list, grads))


@pytest.mark.parametrize("cls", LOSSES)
def test_a_logit_scale_of_one_element_will_do(cls):
    x = features(grad=False)
    value = cls()(**arguments(cls, x))
    x.s = x.s[None]
    assert torch.equal(cls()(**arguments(cls, x)), value)


@pytest.mark.parametrize("cls", LOSSES)
def test_options_of_a_plain_loss_leave_none_idle(cls):
    assert own_idle(cls()) == {}


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("image_features", (5, 2, 7), "(5, 2, 7), expected (B, D), B >= 1, D >= 1"),
        ("image_features", (0, 7), "(0, 7), expected (B, D), B >= 1, D >= 1"),
        ("text_features", (4, 7), "(4, 7), expected (5, 7)"),
        ("logit_scale", (2,), "(2,), expected ()"),
        ("neg_text_features", (15, 7), "(15, 7), expected (5, K, 7), K >= 1"),
        ("neg_text_features", (5, 0, 7), "(5, 0, 7), expected (5, K, 7), K >= 1"),
        ("neg_text_features", (5, 3, 6), "(5, 3, 6), expected (5, K, 7), K >= 1"),
        ("neg_valid", (5, 1), "(5, 1), expected (5, 3)"),
        ("teacher_image_features", (5, 6), "(5, 6), expected (5, 7)"),
        ("teacher_text_features", (20, 7), "(20, 7), expected (5, 7)"),
        ("teacher_neg_text_features", (15, 7), "(15, 7), expected (5, 3, 7)"),
        ("image_tokens", (5, 4, 6), "(5, 4, 6), expected (5, P, 7), P >= 1"),
        ("text_tokens", (5, 6), "(5, 6), expected (5, L, 7), L >= 1"),
        ("text_token_mask", (5, 5), "(5, 5), expected (5, 6)"),
        ("neg_text_tokens", (5, 3, 5, 7), "(5, 3, 5, 7), expected (5, 3, 6, 7)"),
        ("neg_text_token_mask", (15, 6), "(15, 6), expected (5, 3, 6)"),
    ],
)
def test_a_wrong_shape_is_named_with_the_one_expected(name, shape, message):
    for cls in LOSSES:
        args = arguments(cls, features())
        if name in args:
            with pytest.raises(ValueError, match=name) as error:
                cls()(**(args | {name: torch.ones(shape)}))
            assert str(error.value) == f"{name} has shape {message}"


@pytest.mark.parametrize(
    ("cls", "option", "value", "message"),
    [
        *(
            (cls, option, value, f"{option} is {value}, expected a number >= 0")
            for cls, option in (
                (CECLIPLoss, "cmr_weight"),
                (CECLIPLoss, "imc_weight"),
                (CECLIPLoss, "threshold"),
                (CECLIPLoss, "threshold_cap"),
                (DeGLALoss, "igc_weight"),
                (DeGLALoss, "tgc_weight"),
                (DeGLALoss, "distill_weight"),
                (DeGLALoss, "tgc_scale"),
            )
            for value in (-0.1, float("nan"), float("inf"))
        ),
        (CECLIPLoss, "threshold", "median", "expected mean, max or a number >= 0"),
        (CECLIPLoss, "imc", "old", "imc is 'old', expected one of paper, release, head"),
        (DeGLALoss, "tgc", "old", "tgc is 'old', expected one of paper, released"),
        (DeGLALoss, "ema_decay", 1.1, "ema_decay is 1.1, expected a number in [0, 1]"),
        (DeGLALoss, "ema_decay", -0.1, "ema_decay is -0.1, expected a number in [0, 1]"),
    ],
)
def test_a_bad_option_is_refused_by_name(cls, option, value, message):
    with pytest.raises(ValueError, match=option) as error:
        cls(**{option: value})
    assert message in str(error.value)


@pytest.mark.parametrize(("cls", "option", "term"), WEIGHTED)
def test_a_weight_scales_its_term_and_zero_leaves_it_out_but_keeps_its_name(cls, option, term):
    args = arguments(cls, features())
    one, two = (cls(**{option: w})(**args, output_dict=True) for w in (1.0, 2.0))
    assert {k: (two[k] / one[k]).item() for k in one} == close(dict.fromkeys(one, 1.0) | {term: 2})
    none = cls(**{option: 0})(**args, output_dict=True)
    assert list(none) == list(one)
    assert none[term] == 0
    assert not none[term].requires_grad
    assert sum(none.values()).requires_grad


@pytest.mark.parametrize("cls", LOSSES)
def test_accumulation_leaves_features_one_big_batch_and_counts_the_logit_scale_twice(cls):
    """The host replays each part into the cached features of the others, and steps once.

    Each replay scores the whole batch, so the features' gradients add up to those of one big batch,
    and the gradient of the logit scale arrives once per replay.
    """
    x = features(b=4)
    whole = torch.autograd.grad(cls()(**arguments(cls, x)), (x.v, x.t, x.s))
    total = [torch.zeros_like(g) for g in whole]
    for half in (slice(0, 2), slice(2, 4)):
        part = features(b=4)
        live = torch.zeros(4, 1, dtype=torch.bool)
        live[half] = True
        leaves = (part.v, part.t, part.s)
        for name in ("v", "t", "n"):
            y = getattr(part, name)
            where = live[..., None] if y.ndim == 3 else live
            setattr(part, name, torch.where(where, y, y.detach()))
        for sum_, g in zip(total, torch.autograd.grad(cls()(**arguments(cls, part)), leaves), strict=True):
            sum_ += g
    torch.testing.assert_close(total, [whole[0], whole[1], 2 * whole[2]])
