"""RankCLIP: its ramp, and its values. (The orders: test_list_mle.)"""

from __future__ import annotations

import oracles
import pytest
import torch
from reference import arguments, close, features, own_idle
from set_d import set_d

from open_clip_ext.losses import RankCLIPLoss


def test_equals_its_loop_oracles():
    x = features()
    terms = RankCLIPLoss(cross_weight=0.7, in_weight=0.4)(x.v, x.t, x.s, output_dict=True)
    expected = {
        "contrastive_loss": oracles.clip(x.v, x.t, x.s),
        "cross_loss": 0.7 * oracles.cross_modal_order(x.v, x.t, x.s),
        "in_loss": 0.4 * oracles.in_modal_order(x.v, x.t, x.s),
    }
    torch.testing.assert_close(terms, expected)
    got, want = (torch.autograd.grad(sum(y.values()), (x.v, x.t, x.s)) for y in (terms, expected))
    torch.testing.assert_close(got, want)


def test_reference_values_on_the_way_up():
    """The paper's factor is 0 at first, 1 after half of the ramp, and 2 from its end on."""
    x, loss = set_d(), RankCLIPLoss(ramp_steps=2)
    for value in (0.0009921993, 0.0647547007, 0.1285172021, 0.1285172021):
        assert loss(x.v, x.t, x.s).item() == close(value)
        loss.commit()
    assert RankCLIPLoss()(x.v, x.t, x.s).item() == close(0.1285172021)


def test_the_ramp_moves_with_steps_not_with_batches_and_survives_a_checkpoint():
    x = features()
    args = arguments(RankCLIPLoss, x)
    loss = RankCLIPLoss(ramp_steps=4)
    for _ in range(3):
        assert loss(**args, output_dict=True)["in_loss"] == 0
    loss.commit()
    loss.eval()(**args)
    loss.commit()
    assert loss.steps == 1
    again = RankCLIPLoss(ramp_steps=4)
    again.load_state_dict(loss.state_dict())
    assert torch.equal(again(**args), loss(**args))


@pytest.mark.parametrize(("weights", "idle"), [((0, 0), ["ramp_steps"]), ((0, 1), []), ((1, 0), [])])
def test_without_the_orders_the_ramp_is_idle(weights, idle):
    cross, within = weights
    loss = RankCLIPLoss(cross_weight=cross, in_weight=within, ramp_steps=3)
    assert list(own_idle(loss)) == idle


def test_a_single_sample_gives_zero():
    x = features(b=1)
    assert RankCLIPLoss()(x.v, x.t, x.s) == 0
