"""The blocks of `cross_entropy_of_product` add up to torch's own cross-entropy of the whole matrix."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from our_losses import VARIANTS, loss_of
from reference import arguments, features

from open_clip_ext.losses import NegCLIPLoss, chunked_cross_entropy
from open_clip_ext.losses import functional as f
from open_clip_ext.losses.chunked_cross_entropy import cross_entropy_of_product

BLOCKS = [1, 20, 33, 64, 10**6]  # one row, a few, unequal blocks, two, the whole


def case(dtype=torch.float64):
    """11 rows, 9 columns of which two do not exist, a first logit."""
    g = torch.Generator().manual_seed(0)
    shapes = (11, 5), (9, 5), (11,)
    x, columns, first = (3 * torch.randn(shape, generator=g, dtype=dtype) for shape in shapes)
    exists = torch.ones(9, dtype=torch.bool)
    exists[[2, 7]] = False
    target = torch.tensor([0, 1, 3, 4, 5, 6, 8, 0, 1, 3, 4])
    return x.requires_grad_(), columns.requires_grad_(), target, exists, first.requires_grad_()


def whole(x, columns, target, exists=None, first=None):
    logits = x @ columns.T
    if exists is not None:
        logits = logits.masked_fill(~exists, -torch.inf)
    if first is not None:
        logits = torch.cat([first[:, None], logits], dim=1)
    return F.cross_entropy(logits, target)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("with_first", [False, True])
def test_value_and_gradients_are_those_of_the_whole_matrix(monkeypatch, block, masked, with_first):
    monkeypatch.setattr(chunked_cross_entropy, "BLOCK", block)
    x, columns, target, exists, first = case()
    exists, first = exists if masked else None, first if with_first else None
    target = target + with_first
    leaves = [x, columns, *([first] if with_first else [])]
    value = cross_entropy_of_product(x, columns, target, exists, first)
    expected = whole(x, columns, target, exists, first)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    got, want = (torch.autograd.grad(7 * y, leaves) for y in (value, expected))
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("block", BLOCKS[:-1])
def test_no_loss_depends_on_the_blocks(monkeypatch, name, block):
    def evaluate():
        x = features(b=6, k=2)
        x.n = torch.where(x.m[..., None], x.n.detach(), torch.nan).requires_grad_()
        value = VARIANTS[name]()(**arguments(loss_of(name), x))
        return value, torch.autograd.grad(value, (x.v, x.t, x.s, x.n), allow_unused=True)

    expected = evaluate()
    monkeypatch.setattr(chunked_cross_entropy, "BLOCK", block)
    torch.testing.assert_close(evaluate(), expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("block", BLOCKS[:-1])
def test_rows_against_columns_do_not_depend_on_the_blocks(monkeypatch, block):
    x = features(b=6, k=2)
    columns = f.Samples(x.v, x.t, x.n, x.m, first=3)
    own = slice(3, 6)
    rows = (x.v[own], x.t[own], x.n[own], x.s, x.m[own])

    def evaluate():
        value = f.hard_negative_clip(*rows, columns=columns) + f.intra_modal(*rows, columns=columns)
        return value, torch.autograd.grad(value, (x.v, x.t, x.n, x.s))

    expected = evaluate()
    monkeypatch.setattr(chunked_cross_entropy, "BLOCK", block)
    torch.testing.assert_close(evaluate(), expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_features_are_scored_in_fp32_block_by_block(monkeypatch, dtype):
    x = features(b=6, k=2, grad=False)
    half = {"image_features": x.v, "text_features": x.t, "neg_text_features": x.n, "logit_scale": x.s}
    half = {key: y.to(dtype).requires_grad_() for key, y in half.items()}

    def evaluate():
        with torch.autocast("cpu", dtype):
            value = NegCLIPLoss()(**half, neg_valid=x.m)
        return value, torch.autograd.grad(value, list(half.values()))

    expected = evaluate()
    assert expected[0].dtype == torch.float32
    monkeypatch.setattr(chunked_cross_entropy, "BLOCK", 20)
    value, gradients = evaluate()
    torch.testing.assert_close(value, expected[0])
    torch.testing.assert_close(gradients, expected[1])
    assert all(g.dtype == dtype for g in gradients)


def test_no_more_logits_than_a_block_ever_exist(monkeypatch):
    monkeypatch.setattr(chunked_cross_entropy, "BLOCK", 64)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.numel())
            return out

    x = features(b=40, k=3, d=2)
    with Watch():
        total = f.hard_negative_clip(x.v, x.t, x.n, x.s, x.m) + f.intra_modal(x.v, x.t, x.n, x.s, x.m)
        total.backward()
    assert largest <= 40 * 4 * 2  # the columns [B(1+K), D]; a row has 160 logits, all rows 6,400


@pytest.mark.parametrize("rows", [1, 7, 64, 1000])
@pytest.mark.parametrize("columns", [1, 9, 50, 2000])
def test_blocks_cover_every_row_once_and_are_no_larger_than_one_row_or_the_limit(monkeypatch, rows, columns):
    monkeypatch.setattr(chunked_cross_entropy, "BLOCK", 100)
    blocks = chunked_cross_entropy.blocks(rows, columns)
    assert [i for block in blocks for i in range(rows)[block]] == list(range(rows))
    assert all(len(range(rows)[block]) * columns <= max(100, columns) for block in blocks)


def test_a_batch_of_a_thousand_is_one_block():
    assert len(chunked_cross_entropy.blocks(1024, 5 * 1024)) == 1
    assert len(chunked_cross_entropy.blocks(4096, 5 * 4096)) == 6


def test_nothing_is_differentiated_without_need():
    x, columns, target, exists, first = case()
    with torch.no_grad():
        value = cross_entropy_of_product(x, columns, target + 1, exists, first)
    assert not value.requires_grad
    value = cross_entropy_of_product(x, columns.detach(), target, exists)
    assert torch.autograd.grad(value, (x, columns), allow_unused=True)[1] is None


def test_a_second_backward_pass_gives_the_same():
    x, columns, target, *_ = case()
    value = cross_entropy_of_product(x, columns, target)
    first = torch.autograd.grad(value, x, retain_graph=True)
    assert torch.equal(torch.autograd.grad(value, x)[0], first[0])


def test_an_infinite_feature_is_not_hidden():
    x, columns, target, *_ = case()
    columns = columns.detach()
    columns[4, 1] = torch.nan
    assert cross_entropy_of_product(x, columns, target).isnan()


def test_rows_have_weights_and_may_skip_a_column(monkeypatch):
    """A row of weight 0 gives neither value nor gradient, and what is skipped is no column of that row."""
    monkeypatch.setattr(chunked_cross_entropy, "BLOCK", 10)
    draw = torch.Generator().manual_seed(0)
    x, columns = (torch.randn(5, 3, generator=draw, dtype=torch.float64, requires_grad=True) for _ in "xy")
    weight = torch.tensor([0.5, 0.0, 0.2, 1.0, 0.3], dtype=torch.float64)
    skip, target = torch.arange(5), torch.arange(5).roll(1)
    loss = cross_entropy_of_product(x, columns, target, weight=weight, skip=skip)
    logits = (x @ columns.T).masked_fill(torch.eye(5, dtype=torch.bool), -torch.inf)
    expected = (weight * F.cross_entropy(logits, target, reduction="none")).sum()
    torch.testing.assert_close(loss, expected)
    got, want = (torch.autograd.grad(y, (x, columns)) for y in (loss, expected))
    torch.testing.assert_close(got, want)
