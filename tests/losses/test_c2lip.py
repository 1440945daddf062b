"""C2LIP: SigLIP's loss with captions and with phrases."""

from __future__ import annotations

import oracles
import pytest
import torch
from reference import arguments, close, features, student
from set_d import with_kinds

from open_clip_ext.losses import C2LIPLoss, CLIPLoss


def terms(x, given=None, **options):
    bias = {} if given is None else {"logit_bias": given}
    return C2LIPLoss(**options)(**arguments(C2LIPLoss, x), **bias, output_dict=True)


def sigmoid_contrast(v, texts, s, bias):
    """`texts` are pairs: whose it is, and its feature."""
    sum_ = 0 * s
    for i in range(len(v)):
        for owner, text in texts:
            logit = s * oracles.dot(v[i], text) + bias
            sum_ = sum_ + torch.log(1 + torch.exp(-logit if owner == i else logit))
    return sum_ / max(1, len(texts))


def test_reference_values():
    x = with_kinds(phrase=(2.5, 3.0))
    x.phrase_m = torch.tensor([[1, 1], [1, 0], [1, 1], [1, 0]]).bool()
    x.phrase[2, 1] = x.phrase[1, 1].clone()  # the second of these phrases belongs to the third sample
    found = terms(x, bias=-5.0)
    assert found["contrastive_loss"].item() == close(0.0715098964)
    assert found["npc_loss"].item() == close(12.0249170731)


@pytest.mark.parametrize(("b", "k"), [(1, 1), (5, 1), (5, 3)])
def test_equals_its_loop_oracles(b, k):
    x = features(b=b, k=k)
    bias = torch.tensor(-2.0, dtype=torch.float64, requires_grad=True)
    found = terms(x, bias, npc_weight=0.5)
    captions = list(enumerate(x.t))
    phrases = [(i, x.phrase[i, j]) for i, j in oracles.slots(x.phrase_m)]
    expected = {
        "contrastive_loss": sigmoid_contrast(x.v, captions, x.s, bias),
        "npc_loss": 0.5 * sigmoid_contrast(x.v, phrases, x.s, bias),
    }
    assert list(found) == list(expected)
    leaves = (x.v, x.t, x.phrase, x.s, bias)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
        got, wanted = (
            torch.autograd.grad(y, leaves, retain_graph=True, materialize_grads=True)
            for y in (found[name], value)
        )
        torch.testing.assert_close(got, wanted)


def test_the_model_s_bias_takes_the_place_of_the_option():
    x = features()
    given = terms(x, torch.tensor([-3.0], dtype=torch.float64), bias=7.0)
    assert {k: y.item() for k, y in given.items()} == close(
        {k: y.item() for k, y in terms(x, bias=-3.0).items()}
    )


def test_without_any_phrase_siglip_is_left():
    x = features()
    x.phrase_m[:] = False
    found = terms(x)["npc_loss"]
    assert found == 0
    assert all((g == 0).all() for g in torch.autograd.grad(found, (x.v, x.phrase, x.s)))


def test_logits_far_from_0_have_a_loss_and_a_gradient():
    x = features()
    value = sum(terms(x, bias=-1e4).values())
    assert value.isfinite()
    assert all(g.isfinite().all() for g in torch.autograd.grad(value, (x.v, x.t, x.phrase, x.s)))


class Plain(CLIPLoss):
    takes_bias = False


def test_a_loss_that_reads_no_bias_refuses_one():
    x = features()
    args = {name: student(x)[name] for name in ("image_features", "text_features", "logit_scale")}
    with pytest.raises(TypeError, match=r"Plain takes no logit_bias: .* choose a loss that takes one$"):
        Plain()(**args, logit_bias=torch.zeros(()))


def test_a_bias_is_one_element():
    with pytest.raises(ValueError, match=r"^logit_bias has shape \(2,\), expected \(\)$"):
        terms(features(), torch.zeros(2))


def test_the_value_does_not_depend_on_blocks(monkeypatch):
    x = features()

    def evaluate():
        value = sum(terms(x).values())
        return [value, *torch.autograd.grad(value, (x.v, x.t, x.phrase, x.s))]

    whole = evaluate()
    monkeypatch.setattr("open_clip_ext.losses.chunked_cross_entropy.BLOCK", 2)
    torch.testing.assert_close(evaluate(), whole)
