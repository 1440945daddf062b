"""ListMLE, made a block of rows at a time."""

from __future__ import annotations

import oracles
import pytest
import torch
from reference import close, features
from set_d import set_d

from open_clip_ext.losses import chunked_cross_entropy
from open_clip_ext.losses import functional as f
from open_clip_ext.losses.chunked_list_mle import Lists, list_mle_of_products

BLOCKS = {
    "cross_modal_order": (f.cross_modal_order, oracles.cross_modal_order),
    "in_modal_order": (f.in_modal_order, oracles.in_modal_order),
}


@pytest.mark.parametrize("block", [1, 7, 10, 2**24])
@pytest.mark.parametrize("name", BLOCKS)
def test_equals_its_loop_oracle_in_value_and_gradient_whatever_the_block(monkeypatch, name, block):
    monkeypatch.setattr(chunked_cross_entropy, "BLOCK", block)
    ours, oracle = BLOCKS[name]
    x = features()
    leaves = (x.v, x.t, x.s)
    value, expected = ours(*leaves), oracle(*leaves)
    assert value.item() == close(expected.item())
    got, want = (torch.autograd.grad(3 * y, leaves) for y in (value, expected))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-11)


def test_reference_values():
    x = set_d()
    images, texts = Lists(x.s * x.v, x.t), Lists(x.s * x.t, x.v)
    assert list_mle_of_products(images, texts).item() == close(3.7961089108)
    assert list_mle_of_products(texts, images).item() == close(3.6671861175)
    images, texts = Lists(x.s * x.v, x.v), Lists(x.s * x.t, x.t)
    assert list_mle_of_products(images, texts).item() == close(0.4412363637)
    assert list_mle_of_products(texts, images).item() == close(0.2570687821)


def test_the_order_gets_no_gradient():
    x = features()
    loss = list_mle_of_products(Lists(x.s * x.v.detach(), x.t.detach()), Lists(x.t, x.v))
    assert torch.autograd.grad(loss, (x.v, x.t), allow_unused=True) == (None, None)


def test_equal_numbers_keep_the_order_of_the_columns():
    x = torch.tensor([[0.0, 1.0, 2.0]], dtype=torch.float64)
    everywhere = Lists(torch.zeros(1, 3, dtype=torch.float64), torch.eye(3, dtype=torch.float64))
    expected = oracles.list_mle([[*x[0]]], [[*torch.tensor([3.0, 2.0, 1.0])]])
    assert list_mle_of_products(Lists(x, torch.eye(3).double()), everywhere).item() == close(expected.item())


def test_wide_logits_give_a_finite_gradient():
    """With an order the other way round, the first logarithm is of e^-2000."""
    x = torch.tensor([[-1000.0, 1000.0]], dtype=torch.float32, requires_grad=True)
    order = Lists(torch.tensor([[1.0, 0.0]]), torch.eye(2))
    loss = list_mle_of_products(Lists(x, torch.eye(2)), order)
    assert loss == 2000
    assert torch.autograd.grad(loss, x)[0].tolist() == [pytest.approx([-1, 1], abs=1e-4)]


def test_a_single_sample_has_one_order():
    x = features(b=1)
    assert f.cross_modal_order(x.v, x.t, x.s) == 0


def test_rows_against_columns_average_to_the_whole():
    x = features(b=6)
    whole = f.Samples(x.v, x.t)
    for block, _ in BLOCKS.values():
        parts = [
            block(x.v[own], x.t[own], x.s, columns=whole._replace(first=own.start))
            for own in (slice(0, 3), slice(3, 6))
        ]
        assert (sum(parts) / 2).item() == close(block(x.v, x.t, x.s).item())
