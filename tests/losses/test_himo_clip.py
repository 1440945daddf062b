"""HiMo-CLIP: the principal part of captions, and label smoothing."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from reference import arguments, close, features, own_idle
from set_d import waves, with_kinds

from open_clip_ext.losses import CLIPLoss, HiMoCLIPLoss
from open_clip_ext.losses.functional import principal_part


def terms(x, **options):
    return HiMoCLIPLoss(**options)(**arguments(HiMoCLIPLoss, x), output_dict=True)


def test_reference_values():
    x = with_kinds()
    found = terms(x, ratio=0.6)
    assert [loss.item() for loss in found.values()] == close([0.7385379795, 0.6323667000])
    plain = terms(x, ratio=0.6, label_smoothing=0.0)
    assert [loss.item() for loss in plain.values()] == close([0.0009921993, 0.0708629430])


def test_label_smoothing_is_torch_s():
    x = features()
    loss, logits = terms(x, label_smoothing=0.3)["contrastive_loss"], x.s * x.v @ x.t.T
    each = [F.cross_entropy(y, torch.arange(5), label_smoothing=0.3) for y in (logits, logits.T)]
    torch.testing.assert_close(loss, sum(each) / 2)
    leaves = (x.v, x.t, x.s)
    torch.testing.assert_close(*(torch.autograd.grad(y, leaves) for y in (loss, sum(each) / 2)))


@pytest.mark.parametrize(("ratio", "rank"), [(0.0, 0), (0.6, 2), (1.0, 3)])
def test_as_few_components_as_make_up_the_ratio(ratio, rank):
    """By eigenvectors of the covariance; four captions differ in three directions at most."""
    t = waves(4, 0.5)
    away = t - t.mean(0)
    variances, vectors = torch.linalg.eigh(away.T @ away)
    shares = variances.flip(0).cumsum(0) / variances.sum()
    assert rank == 0 or shares[rank - 1] >= ratio - 1e-12
    assert rank < 2 or shares[rank - 2] < ratio
    main = vectors.flip(1)[:, :rank]
    torch.testing.assert_close(principal_part(t, t, ratio, "live"), t.mean(0) + away @ main @ main.T)


@pytest.mark.parametrize("count", [4, 9])
def test_the_gradient_of_a_live_basis_is_the_derivative(count):
    """Fewer captions than dimensions, and more."""
    t = waves(count, 0.5).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: principal_part(t, t, 0.6, "live"), t)


def test_a_constant_basis_is_one():
    t = waves(4, 0.5).requires_grad_()
    (got,) = torch.autograd.grad(principal_part(t, t, 0.6, "constant").square().sum(), t)
    mean = t.mean(0)
    main = torch.linalg.svd((t - mean).detach()).Vh[:2]
    (want,) = torch.autograd.grad((mean + (t - mean) @ main.T @ main).square().sum(), t)
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("basis", ["live", "constant"])
@pytest.mark.parametrize("b", [1, 4])
def test_equal_captions_have_no_component_and_gradients_are_numbers(b, basis):
    x = features(b=b)
    x.t = x.t.detach()[:1].expand(b, -1).clone().requires_grad_()
    loss = sum(terms(x, basis=basis).values())
    assert all(g.isfinite().all() for g in torch.autograd.grad(loss, (x.v, x.t, x.s)))


def test_with_all_of_the_variance_and_no_smoothing_it_is_clip_twice():
    x = features()
    once = CLIPLoss()(x.v, x.t, x.s).item()
    assert [y.item() for y in terms(x, ratio=1.0, label_smoothing=0.0).values()] == close([once, once])


def test_options_without_effect_are_told():
    assert list(own_idle(HiMoCLIPLoss(component_weight=0))) == ["ratio", "basis"]
