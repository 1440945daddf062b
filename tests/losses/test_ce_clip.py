"""CE-CLIP: terms, and thresholds that move once per optimizer step."""

from __future__ import annotations

import copy

import oracles
import pytest
import torch
from reference import (
    close,
    features,
    gradient_norms,
    leaves,
    own_idle,
    set_a,
    set_b,
    set_c,
    student,
)

from open_clip_ext.losses import CECLIPLoss, functional

START = torch.tensor([0.5, 1.0, 1.5, 2.0], dtype=torch.float64)


def started(start=START, **options):
    loss = CECLIPLoss(**options).double()
    loss.configure({"neg": len(start)})
    loss.thresholds.copy_(start)
    return loss


@pytest.mark.parametrize("imc", ["paper", "release", "head"])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_equals_its_loop_oracles(k, imc):
    x = features(k=k)
    loss = started(START[:k], cmr_weight=0.7, imc_weight=0.9, imc=imc)
    terms = loss(**student(x), output_dict=True)
    expected = {
        "contrastive_loss": oracles.hard_negative_clip(x.v, x.t, x.n, x.s, x.m),
        "cmr_loss": 0.7 * oracles.hinge(x.v, x.t, x.n, x.s, START, x.m),
        "imc_loss": 0.9 * oracles.intra_modal(x.v, x.t, x.n, x.s, x.m, imc),
    }
    torch.testing.assert_close(terms, expected)
    got, want = (torch.autograd.grad(sum(d.values()), (x.v, x.t, x.n, x.s)) for d in (terms, expected))
    torch.testing.assert_close(got, want)
    loss.commit()
    new = oracles.thresholds(x.v, x.t, x.n, x.s, START[:k], x.m)
    torch.testing.assert_close(loss.thresholds, new)


def test_reference_values_of_random_features():
    x = set_a()
    masked = CECLIPLoss(imc_weight=0)(**student(x), output_dict=True)["cmr_loss"]
    plain = CECLIPLoss(imc_weight=0)(**student(x, mask=False), output_dict=True)
    assert (plain["contrastive_loss"] + masked).item() == close(9.1730620340)
    for threshold, value in ((0.0, 12.1776607263), (2.0, 12.3989134388)):
        # the reference masks the hinge only
        loss = CECLIPLoss(imc_weight=0.3, threshold=threshold)
        terms = loss(**student(x, mask=False), output_dict=True)
        terms["cmr_loss"] = loss(**student(x), output_dict=True)["cmr_loss"]
        assert sum(terms.values()).item() == close(value)


def test_reference_gradients_of_random_features():
    x = set_a()
    v, t, n = leaves(x)
    loss = CECLIPLoss(imc_weight=0.3, threshold=2.0)
    terms = loss(**student(x, mask=False), output_dict=True)
    terms["cmr_loss"] = loss(**student(x), output_dict=True)["cmr_loss"]
    norms = gradient_norms(sum(terms.values()), v, t, n)
    assert norms == close([13.2611275336, 12.5493492017, 3.0569544327])


def test_reference_values_of_two_steps_with_missing_negatives():
    x = set_b()
    v, t, n = leaves(x)
    loss = started(imc_weight=0.3)
    first = loss(**student(x))
    assert first.item() == close(0.6311273319)
    norms = gradient_norms(first, v, t, n)
    assert norms == close([1.9631753908, 2.4500309665, 2.3376050013])
    loss.commit()
    assert loss.thresholds.tolist() == close([1.8457646324, 0.8774163766, 1.5, 1.5801262531])
    assert loss(**student(x)).item() == close(0.6295179576)


def test_reference_values_of_eight_random_samples():
    x = set_c()
    v, _, _ = leaves(x)
    for imc, value, norms in (
        ("paper", 12.8058449313, [6.3330986753, 8.3154440929]),
        ("head", 13.3736974434, [5.1214290060, 6.9971354095]),
    ):
        loss = CECLIPLoss(imc_weight=0.3, imc=imc)
        terms = loss(**student(x, mask=False), output_dict=True)
        terms["cmr_loss"] = loss(**student(x), output_dict=True)["cmr_loss"]
        total = sum(terms.values())
        assert total.item() == close(value)
        (gradient,) = torch.autograd.grad(total, v)
        assert [half.norm().item() for half in gradient.split(4)] == close(norms)


def test_missing_negatives_are_masked_in_every_term():
    """The authors mask the hinge alone; see the reference values with missing negatives."""
    x = features()
    masked, plain = (CECLIPLoss()(**student(x, m), output_dict=True) for m in (True, False))
    assert all(masked[k] < plain[k] for k in masked)


def test_a_threshold_acts_at_the_step_after_the_one_that_set_it():
    x = set_b()
    loss = CECLIPLoss()
    first = loss(**student(x), output_dict=True)["cmr_loss"]
    expected, new = functional.cross_modal_rank(x.v, x.t, x.n, x.s, 0 * START, x.m)
    assert first.item() == close(0.2 * expected.item())
    loss.commit()
    second = loss(**student(x), output_dict=True)["cmr_loss"]
    expected, _ = functional.cross_modal_rank(x.v, x.t, x.n, x.s, new, x.m)
    assert second.item() == close(0.2 * expected.item())
    assert second > first


def test_forward_alone_never_moves_the_thresholds():
    """Accumulation calls forward several times per step; a skipped step must leave no trace."""
    loss = started()
    for seed in range(3):
        loss(**student(features(k=4, seed=seed)))
    assert torch.equal(loss.thresholds, START)


def test_commit_takes_the_last_batch_and_is_done():
    last = set_b()
    loss = started()
    loss(**student(features(k=4)))
    loss(**student(last))
    loss.commit()
    x = last
    new = functional.adaptive_thresholds(x.v, x.t, x.n, x.s, START, x.m)
    assert torch.equal(loss.thresholds, new)
    loss.thresholds.zero_()
    loss.commit()
    assert loss.thresholds.tolist() == [0.0] * 4


def test_nothing_is_recorded_in_evaluation_mode_or_without_the_hinge():
    for loss in (started().eval(), started(cmr_weight=0)):
        loss(**student(set_b()))
        loss.commit()
        assert torch.equal(loss.thresholds, START)


def test_thresholds_are_capped_and_a_missing_type_keeps_its_own():
    """The authors divide by zero for a type without negatives, and stay NaN from then on."""
    loss = started(threshold_cap=1.5)
    loss(**student(set_b()))
    loss.commit()
    assert loss.thresholds.tolist() == close([1.5, 0.8774163766, 1.5, 1.5])


def test_the_max_rule():
    x = set_a()
    loss = CECLIPLoss(threshold="max")
    loss(**student(x))
    loss.commit()
    assert loss.thresholds.tolist() == close([1.0814589672, 1.2239454723, 0.8233174040, 2.4844561816])


def test_a_constant_threshold_has_no_state():
    x, loss = set_a(), CECLIPLoss(threshold=2)
    loss.configure({"neg": 4})
    for _ in range(2):
        cmr = loss(**student(x), output_dict=True)["cmr_loss"]
        assert cmr.item() == close(0.2 * 3.9417070912)
        loss.commit()
    assert loss.state_dict() == {}


@pytest.mark.parametrize("sized", [True, False])
def test_thresholds_survive_a_checkpoint(sized):
    loss = started()
    loss(**student(set_b()))
    loss.commit()
    state = copy.deepcopy(loss.state_dict())
    assert list(state) == ["thresholds"]

    resumed = CECLIPLoss().double()
    if sized:
        resumed.configure({"neg": 4})
    resumed(**student(features(k=4)))  # what it recorded belongs to the life before
    resumed.load_state_dict(state)
    resumed.commit()
    assert torch.equal(resumed.thresholds, loss.thresholds)
    assert torch.equal(resumed(**student(set_a())), loss(**student(set_a())))


def test_a_state_from_before_the_first_batch_can_be_loaded():
    loss = started()
    loss.load_state_dict(CECLIPLoss().state_dict())
    value = loss(**student(set_b()))
    assert torch.equal(value, CECLIPLoss()(**student(set_b())))


def test_thresholds_of_another_number_of_types_are_refused():
    loss = started()
    with pytest.raises(ValueError, match=r"neg_text_features has shape \(5, 3, 7\), expected \(5, 4"):
        loss(**student(features(k=3)))
    with pytest.raises(RuntimeError, match="size mismatch for thresholds"):
        loss.load_state_dict(started(START[:2]).state_dict())


@pytest.mark.parametrize("companions", [{}, {"neg": 0}, {"paraphrase": 2}])
def test_it_cannot_be_sized_without_negatives(companions):
    with pytest.raises(ValueError, match=r"companions are .*, expected at least one neg"):
        CECLIPLoss().configure(companions)


def test_options_without_effect_are_told():
    assert own_idle(CECLIPLoss(threshold=2.0)) == {"threshold_cap": "threshold is the constant 2.0"}
    assert own_idle(CECLIPLoss(cmr_weight=0)) == {
        "threshold": "cmr_weight is 0",
        "threshold_cap": "cmr_weight is 0",
    }
    assert own_idle(CECLIPLoss(imc_weight=0)) == {"imc": "imc_weight is 0"}
