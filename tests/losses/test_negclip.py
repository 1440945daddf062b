"""NegCLIP: negatives are columns of image to text."""

from __future__ import annotations

import oracles
import pytest
import torch
from open_clip import ClipLoss
from reference import close, features, set_a, set_b, set_c, student

from open_clip_ext.losses import CLIPLoss, NegCLIPLoss


@pytest.mark.parametrize("k", [1, 2, 4])
def test_equals_its_loop_oracle(k):
    x = features(k=k)
    expected = oracles.hard_negative_clip(x.v, x.t, x.n, x.s, x.m)
    assert NegCLIPLoss()(**student(x)).item() == close(expected.item())


def test_reference_values():
    assert NegCLIPLoss()(**student(set_a(), mask=False)).item() == close(8.6059733283)
    assert NegCLIPLoss()(**student(set_b())).item() == close(0.2339137517)
    assert NegCLIPLoss()(**student(set_b(), mask=False)).item() == close(0.3621506517)
    assert NegCLIPLoss()(**student(set_c(), mask=False)).item() == close(9.3098877662)


def test_without_any_negative_it_is_clip():
    x = features()
    x.m = torch.zeros_like(x.m)
    torch.testing.assert_close(NegCLIPLoss()(**student(x)), CLIPLoss()(x.v, x.t, x.s))


def test_the_host_own_loss_cannot_take_negatives():
    x = set_a()
    with pytest.raises(ValueError, match="30"):
        ClipLoss()(x.v, torch.cat([x.t, x.n.flatten(0, 1)]), x.s)


def test_the_mask_may_come_as_integers():
    x = features()
    value = NegCLIPLoss()(**student(x))
    x.m = x.m.long()
    assert torch.equal(NegCLIPLoss()(**student(x)), value)
