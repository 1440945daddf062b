"""Hard positives: true captions count as the caption does, and are held against the negatives too."""

from __future__ import annotations

import oracles
import pytest
import torch
from reference import arguments, close, features, live
from set_d import places, set_d

from open_clip_ext.losses import CLIPLoss, HardPositivesLoss
from open_clip_ext.losses import functional as f


@pytest.mark.parametrize("k", [1, 3])
def test_equals_its_loop_oracles(k):
    x = features(k=k)
    terms = HardPositivesLoss(igc_weight=0.7)(**arguments(HardPositivesLoss, x), output_dict=True)
    true = torch.cat([x.t[:, None], x.pos], 1)
    exists = torch.cat([torch.ones(5, 1, dtype=torch.bool), x.pos_m], 1)
    own = oracles.own_negatives_of_positives(x.v, true, x.n, x.s, exists, x.m)
    expected = {
        "contrastive_loss": oracles.positives_clip(x.v, true, x.s, exists),
        "igc_loss": 0.7 * own,
    }
    torch.testing.assert_close(terms, expected)
    leaves = list(live(x).values())
    got, want = (torch.autograd.grad(sum(y.values()), leaves, allow_unused=True) for y in (terms, expected))
    torch.testing.assert_close(got, want)


def test_reference_values():
    """Those of CLIC, whose first two terms are these."""
    x = set_d()
    loss = HardPositivesLoss()
    terms = loss(x.v, x.t, x.s, x.n[:, :1], None, places(x.p, x.q, x.u), output_dict=True)
    assert terms["contrastive_loss"].item() == close(5.4969642395)
    assert terms["igc_loss"].item() == close(2.9901773675)


def test_without_hard_positives_it_is_clip_and_the_image_grounded_contrast():
    x = features()
    x.pos_m = torch.zeros_like(x.pos_m)
    terms = HardPositivesLoss()(**arguments(HardPositivesLoss, x), output_dict=True)
    assert terms["contrastive_loss"].item() == close(CLIPLoss()(x.v, x.t, x.s).item())
    assert terms["igc_loss"].item() == close(f.image_grounded(x.v, x.t, x.n, x.s, x.m).item())


def test_a_true_caption_is_no_negative_of_its_own_image():
    """However close it is to the caption, the loss of a batch of one stays 0."""
    x = features(b=1)
    terms = HardPositivesLoss()(**arguments(HardPositivesLoss, x), output_dict=True)
    assert terms["contrastive_loss"] == 0
