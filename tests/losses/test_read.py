"""READ's half about paraphrases."""

from __future__ import annotations

import oracles
import pytest
import torch
from reference import arguments, close, features, live
from set_d import places, set_d

from open_clip_ext.losses import NegCLIPLoss, READLoss


@pytest.mark.parametrize("k", [1, 3])
def test_equals_its_loop_oracles(k):
    x = features(k=k)
    terms = READLoss(par_weight=0.7)(**arguments(READLoss, x), output_dict=True)
    expected = {
        "contrastive_loss": oracles.hard_negative_clip(x.v, x.t, x.n, x.s, x.m),
        "par_loss": 0.7 * oracles.from_positives(x.pos, x.t, x.s, x.pos_m),
    }
    torch.testing.assert_close(terms, expected)
    leaves = list(live(x).values())
    got, want = (torch.autograd.grad(sum(y.values()), leaves, allow_unused=True) for y in (terms, expected))
    torch.testing.assert_close(got, want)


def test_reference_values():
    x = set_d()
    terms = READLoss()(x.v, x.t, x.s, x.n, None, places(x.p), output_dict=True)
    assert terms["contrastive_loss"].item() == close(0.0258408496)
    assert terms["par_loss"].item() == close(0.5 * 0.1493172465)


def test_without_paraphrases_it_is_negclip():
    x = features()
    x.pos_m = torch.zeros_like(x.pos_m)
    assert READLoss()(**arguments(READLoss, x)).item() == close(
        NegCLIPLoss()(**arguments(NegCLIPLoss, x)).item()
    )
