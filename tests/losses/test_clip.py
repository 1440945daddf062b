"""CLIPLoss is the host's loss. (On several processes: test_ranks.)"""

from __future__ import annotations

import oracles
import torch
from open_clip import ClipLoss
from reference import close, features, set_a

from open_clip_ext.losses import CLIPLoss


def test_equals_open_clip_to_the_bit_of_fp64():
    x = features(b=6)
    ours, theirs = CLIPLoss()(x.v, x.t, x.s), ClipLoss()(x.v, x.t, x.s)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-14)
    for got, want in zip(
        torch.autograd.grad(ours, (x.v, x.t, x.s)),
        torch.autograd.grad(theirs, (x.v, x.t, x.s)),
        strict=True,
    ):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-14)


def test_equals_its_loop_oracle():
    x = features()
    assert CLIPLoss()(x.v, x.t, x.s).item() == close(oracles.clip(x.v, x.t, x.s).item())


def test_reference_value():
    x = set_a()
    assert CLIPLoss()(x.v, x.t, x.s).item() == close(7.0797523780)


def test_has_no_state():
    assert CLIPLoss().state_dict() == {}
