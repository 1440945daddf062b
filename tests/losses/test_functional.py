"""Each building block equals its formula written as loops, whatever is missing."""

from __future__ import annotations

import oracles
import pytest
import torch
from reference import (
    close,
    features,
    gradient_norms,
    leaves,
    random_set,
    set_a,
    set_b,
    set_c,
)

from open_clip_ext.losses import functional as f

MARGINS = torch.tensor([0.5, 1.0, 1.5, 2.0], dtype=torch.float64)

# name: (ours, oracle), both functions of a case; in the order of the formulas
BLOCKS = {
    "clip": (
        lambda x: f.clip(x.v, x.t, x.s),
        lambda x: oracles.clip(x.v, x.t, x.s),
    ),
    "hard_negative_clip": (
        lambda x: f.hard_negative_clip(x.v, x.t, x.n, x.s, x.m),
        lambda x: oracles.hard_negative_clip(x.v, x.t, x.n, x.s, x.m),
    ),
    "image_grounded": (
        lambda x: f.image_grounded(x.v, x.t, x.n, x.s, x.m),
        lambda x: oracles.own_negatives(x.v, x.t, x.n, x.s, x.m),
    ),
    "text_grounded": (
        lambda x: f.text_grounded(x.t, x.tt, x.n, 9.0, x.m),
        lambda x: oracles.own_negatives(x.t, x.tt, x.n, 9.0, x.m),
    ),
    "text_grounded, released": (
        lambda x: f.text_grounded(x.t, x.tt, f.tiled(x.n), 9.0, f.tiled(x.m)),
        lambda x: oracles.text_grounded_released(x.t, x.tt, x.n, 9.0, x.m),
    ),
    "self_distillation": (
        lambda x: f.self_distillation(x.v, x.tv, x.t, x.tt, x.n, x.tn, x.m),
        lambda x: oracles.self_distillation(x.v, x.tv, x.t, x.tt, x.n, x.tn, x.m),
    ),
    "cross_modal_rank": (
        lambda x: f.cross_modal_rank(x.v, x.t, x.n, x.s, MARGINS[: x.n.shape[1]], x.m)[0],
        lambda x: oracles.hinge(x.v, x.t, x.n, x.s, MARGINS[: x.n.shape[1]], x.m),
    ),
    **{
        f"intra_modal, {form}": (
            lambda x, form=form: f.intra_modal(x.v, x.t, x.n, x.s, x.m, form),
            lambda x, form=form: oracles.intra_modal(x.v, x.t, x.n, x.s, x.m, form),
        )
        for form in ("paper", "release", "head")
    },
    **{
        f"disturbed_contrast, {form}": (
            lambda x, form=form: f.disturbed_contrast(x.v, x.t, x.n, x.s, x.m, form),
            lambda x, form=form: oracles.disturbed_contrast(x.v, x.t, x.n, x.s, x.m, form),
        )
        for form in ("paper", "own")
    },
}
MASKED = [name for name in BLOCKS if name != "clip"]
BY_PLACE = ["text_grounded, released", "intra_modal, release", "intra_modal, head"]


def gradients(value, x):
    """With zeros for what the value does not depend on."""
    wanted = (x.v, x.t, x.n, x.s)
    got = torch.autograd.grad(value, wanted, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for g, w in zip(got, wanted, strict=True)]


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("name", BLOCKS)
def test_equals_its_loop_oracle_in_value_and_gradient(name, k):
    ours, oracle = BLOCKS[name]
    x = features(k=k)
    value, expected = ours(x), oracle(x)
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-12)
    for got, want in zip(gradients(value, x), gradients(expected, x), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-11)


@pytest.mark.parametrize("form", ["release", "head"])
def test_the_published_programs_aim_at_the_first_negative_that_exists(form):
    x = features(k=4, grad=False)
    x.m[0] = x.m[1, 0] = False
    value = f.intra_modal(x.v, x.t, x.n, x.s, x.m, form)
    assert value.item() == close(oracles.intra_modal(x.v, x.t, x.n, x.s, x.m, form).item())


@pytest.mark.parametrize("rule", ["mean", "max"])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_thresholds_equal_their_loop_oracle(k, rule):
    for seed in range(5):
        x, previous = features(k=k, seed=seed, grad=False), MARGINS[:k]
        x.m[:, 0] &= seed > 0  # once, the first type is empty
        got = f.adaptive_thresholds(x.v, x.t, x.n, x.s, previous, x.m, rule=rule, cap=1.0)
        want = oracles.thresholds(x.v, x.t, x.n, x.s, previous, x.m, rule, cap=1.0)
        torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


def test_thresholds_carry_no_gradient():
    x = features(k=4)
    assert not f.cross_modal_rank(x.v, x.t, x.n, x.s, MARGINS, x.m)[1].requires_grad


@pytest.mark.parametrize("content", [0.0, 1e3, torch.inf, torch.nan])
@pytest.mark.parametrize("name", MASKED)
def test_content_of_missing_negatives_changes_no_value_and_no_gradient(name, content):
    ours, _ = BLOCKS[name]
    x = features(k=4)
    value = ours(x)
    expected = gradients(value, x)

    gone = ~x.m[..., None]
    x.n = x.n.detach().masked_fill(gone, content).requires_grad_()
    x.tn = x.tn.masked_fill(gone, content)
    got = gradients(ours(x), x)
    assert torch.equal(ours(x), value)
    assert all(map(torch.equal, got, expected))
    assert got[2][~x.m].abs().sum() == 0
    assert all(g.isfinite().all() for g in got)


def test_content_of_missing_negatives_changes_no_threshold():
    x = features(k=4, grad=False)
    want = f.adaptive_thresholds(x.v, x.t, x.n, x.s, MARGINS, x.m)
    x.n[~x.m] = torch.nan
    assert torch.equal(f.adaptive_thresholds(x.v, x.t, x.n, x.s, MARGINS, x.m), want)


def test_with_no_negative_at_all_the_contrast_is_clip_and_the_rest_is_zero():
    x = features(k=4)
    x.m = torch.zeros_like(x.m)
    for name in MASKED:
        if name == "self_distillation":
            continue
        value = BLOCKS[name][0](x)
        expected = f.clip(x.v, x.t, x.s) if name == "hard_negative_clip" else 0 * x.s
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-12)
        with torch.autograd.set_detect_anomaly(True):  # no NaN on the way either
            assert all(g.isfinite().all() for g in gradients(value, x))
    value = BLOCKS["self_distillation"][0](x)
    expected = (x.v - x.tv).square().sum() + (x.t - x.tt).square().sum()
    torch.testing.assert_close(value, expected)
    assert torch.equal(f.adaptive_thresholds(x.v, x.t, x.n, x.s, MARGINS, x.m), MARGINS)


def test_a_sample_without_negatives_adds_exactly_nothing_to_the_own_negative_terms():
    x = features(b=1, k=4)
    x.m = torch.zeros_like(x.m)
    assert f.image_grounded(x.v, x.t, x.n, x.s, x.m) == 0
    assert f.text_grounded(x.t, x.tt, x.n, 10.0, x.m) == 0


@pytest.mark.parametrize("name", MASKED)
def test_no_mask_means_all_exist(name):
    x = features(k=4)
    x.m = torch.ones_like(x.m)
    value = BLOCKS[name][0](x)
    if name == "text_grounded, released":
        got = f.text_grounded(x.t, x.tt, f.tiled(x.n), 9.0)
    else:
        x.m = None
        got = BLOCKS[name][0](x)
    assert torch.equal(got, value)


@pytest.mark.parametrize("name", [name for name in BLOCKS if name not in BY_PLACE])
def test_the_order_of_samples_does_not_matter(name):
    x = features(k=4)
    value = BLOCKS[name][0](x)
    order = torch.tensor([3, 0, 4, 1, 2])
    for key in ("v", "t", "n", "tv", "tt", "tn", "m"):
        setattr(x, key, getattr(x, key)[order])
    torch.testing.assert_close(BLOCKS[name][0](x), value, rtol=0, atol=1e-12)


def test_the_order_of_samples_matters_to_the_published_programs():
    """Their target, or their choice of negatives, is a place in the batch."""
    x = random_set(6)
    order = torch.tensor([3, 0, 4, 1, 2, 5])
    for form in ("release", "head"):
        value = f.intra_modal(x.v, x.t, x.n, x.s, form=form)
        moved = f.intra_modal(x.v[order], x.t[order], x.n[order], x.s, form=form)
        assert abs(value - moved) > 1e-3
    value = f.text_grounded(x.t, x.tt, f.tiled(x.n))
    moved = f.text_grounded(x.t[order], x.tt[order], f.tiled(x.n[order]))
    assert abs(value - moved) > 1e-3


def test_every_image_sees_all_negatives_in_the_contrast_and_its_own_in_image_grounded():
    x = random_set(3, k=2)
    n = x.n.clone().requires_grad_()
    first = f.Samples(x.v[:1], x.t[:1], n[:1])
    contrast = f.hard_negative_clip(*first[:3], x.s, columns=f.Samples(x.v, x.t, n))
    assert (torch.autograd.grad(contrast, n)[0].abs().amax(-1) > 0).all()

    n = x.n.clone().requires_grad_()
    v = torch.cat([x.v[:1], torch.zeros(2, 16)])  # only the first image pulls
    (pull,) = torch.autograd.grad(f.image_grounded(v, x.t, n, x.s), n)
    assert (pull.abs().amax(-1) > 0).tolist() == [[True, True], [False, False], [False, False]]


def test_rows_against_columns_average_to_the_whole():
    x = features(b=6, k=2, grad=False)
    whole = f.Samples(x.v, x.t, x.n, x.m)
    halves = [(slice(i, i + 3), whole._replace(first=i)) for i in (0, 3)]
    for block, args in (
        (f.clip, (x.v, x.t)),
        (f.hard_negative_clip, (x.v, x.t, x.n)),
        (f.intra_modal, (x.v, x.t, x.n)),
        (f.disturbed_contrast, (x.v, x.t, x.n)),
    ):
        parts = [block(*(a[rows] for a in args), x.s, columns=columns) for rows, columns in halves]
        masked = {} if block is f.clip else {"valid": x.m}
        torch.testing.assert_close(sum(parts) / 2, block(*args, x.s, **masked))


def test_gradients_pass_gradcheck():
    x = features(b=2, k=2, d=3, seed=5)
    x.m = torch.tensor([[True, False], [True, True]])

    def total(v, t, n, s):
        x.v, x.t, x.n, x.s = v, t, n, s
        # What stops a gradient on its way has not that of its value.
        return sum(ours(x) for name, (ours, _) in BLOCKS.items() if not name.startswith("disturbed"))

    assert torch.autograd.gradcheck(total, (x.v, x.t, x.n, x.s))


def test_the_teacher_gets_no_gradient():
    x = features()
    x.tv, x.tt, x.tn = (y.requires_grad_() for y in (x.tv, x.tt, x.tn))
    total = BLOCKS["text_grounded"][0](x) + BLOCKS["self_distillation"][0](x)
    assert torch.autograd.grad(total, (x.tv, x.tt, x.tn), allow_unused=True) == (None,) * 3


def test_tiled_reads_sample_major_rows_in_steps_of_the_batch():
    flat = torch.arange(12).view(6, 2)  # row i*K + k of B = 6, K = 2: sample i
    assert f.tiled(flat)[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert f.tiled(flat)[:, 1].tolist() == [6, 7, 8, 9, 10, 11]
    owner = torch.arange(256)[:, None].expand(256, 4)
    assert (f.tiled(owner) == owner).sum() == 4  # of 1024 at the published batch size


def test_an_unknown_form_or_rule_is_refused():
    x = random_set(2)
    with pytest.raises(ValueError, match="form is 'old', expected one of paper, release, head"):
        f.intra_modal(x.v, x.t, x.n, x.s, form="old")
    with pytest.raises(ValueError, match="form is 'old', expected one of paper, own"):
        f.disturbed_contrast(x.v, x.t, x.n, x.s, form="old")
    with pytest.raises(ValueError, match="rule is 'median', expected one of mean, max"):
        f.adaptive_thresholds(x.v, x.t, x.n, x.s, MARGINS, rule="median")


# Reference values: a second implementation of the formulas in fp64; those of sets A and C were also
# obtained from the authors' functions.


def test_reference_values_of_random_features():
    x = set_a()
    assert f.clip(x.v, x.t, x.s).item() == close(7.0797523780)
    assert f.hard_negative_clip(x.v, x.t, x.n, x.s).item() == close(8.6059733283)
    assert f.image_grounded(x.v, x.t, x.n, x.s).item() == close(7.1097888916)
    assert f.text_grounded(x.t, x.tt, x.n).item() == close(3.0803351928)
    assert f.text_grounded(x.t, x.tt, f.tiled(x.n)).item() == close(3.6933324110)
    distill = f.self_distillation(x.v, x.tv, x.t, x.tt, x.n, x.tn)
    assert distill.item() == close(69.7099821720)
    for form, value in (
        ("paper", 10.0153289742),
        ("release", 9.0630131821),
        ("head", 9.0525234795),
    ):
        assert f.intra_modal(x.v, x.t, x.n, x.s, form=form).item() == close(value)


def test_the_interleaved_reading_of_tiled_negatives_must_not_appear():
    """Type-major rows read as sample-major give this image-grounded loss in the released code."""
    x = set_a()
    assert f.image_grounded(x.v, x.t, f.tiled(x.n), x.s).item() != close(7.1097888916)
    assert f.image_grounded(x.v, x.t, x.n, x.s).item() != close(8.3877126790)


def test_distillation_is_the_sum_of_three_sums():
    x = set_a()
    zero = torch.zeros_like(x.n)
    image = f.self_distillation(x.v, x.tv, x.t, x.t, zero, zero)
    positive = f.self_distillation(x.v, x.v, x.t, x.tt, zero, zero)
    negative = f.self_distillation(x.v, x.v, x.t, x.t, x.n, x.tn)
    assert image.item() == close(10.1022561984)
    assert positive.item() == close(12.3919770171)
    assert negative.item() == close(47.2157489565)


def test_reference_values_of_the_ranking_hinge():
    x = set_a()
    for margin, value in ((0.0, 2.8354435287), (2.0, 3.9417070912), (10.0, 10.0006800424)):
        th = torch.full((4,), margin, dtype=torch.float64)
        loss, new = f.cross_modal_rank(x.v, x.t, x.n, x.s, th, x.m)
        assert loss.item() == close(value)
        assert new.tolist() == [0.0] * 4  # captions are behind: no margin
    raw = f.adaptive_thresholds(-x.v, x.t, x.n, x.s, th, x.m)  # the clamp at 0 seen from behind
    assert raw.tolist() == close([1.3612454276, 1.9901999021, 1.0029370578, 1.4783576097])
    new = f.adaptive_thresholds(x.v, x.t, x.n, x.s, th, x.m, rule="max")
    assert new.tolist() == close([1.0814589672, 1.2239454723, 0.8233174040, 2.4844561816])


def test_reference_values_with_missing_negatives():
    x = set_b()
    assert f.clip(x.v, x.t, x.s).item() == close(0.0000226996)
    for m, values in (
        (x.m, (0.2339137517, 0.4677651718, 0.5872061862, 0.1703494792, 1.2104789480)),
        (None, (0.3621506517, 0.7241950017, 0.9439869806, 0.2842621036, 1.9308406242)),
    ):
        neg, igc, tgc, cmr, imc = values
        assert f.hard_negative_clip(x.v, x.t, x.n, x.s, m).item() == close(neg)
        assert f.image_grounded(x.v, x.t, x.n, x.s, m).item() == close(igc)
        assert f.text_grounded(x.t, x.tt, x.n, valid=m).item() == close(tgc)
        assert f.cross_modal_rank(x.v, x.t, x.n, x.s, MARGINS, m)[0].item() == close(cmr)
        assert f.intra_modal(x.v, x.t, x.n, x.s, m).item() == close(imc)
    distill = f.self_distillation(x.v, x.tv, x.t, x.tt, x.n, x.tn, x.m)
    assert distill.item() == close(0.9291880983)


def test_the_hinge_is_averaged_over_all_slots_not_over_existing_ones():
    x = set_b()
    loss, _ = f.cross_modal_rank(x.v, x.t, x.n, x.s, MARGINS, x.m)
    assert loss.item() * 24 / 13 == close(0.3144913462)


def test_reference_thresholds_with_missing_negatives():
    x = set_b()
    for cap, values in (
        (10.0, [1.8457646324, 0.8774163766, 1.5, 1.5801262531]),
        (1.5, [1.5, 0.8774163766, 1.5, 1.5]),
    ):
        _, new = f.cross_modal_rank(x.v, x.t, x.n, x.s, MARGINS, x.m, cap=cap)
        assert new.tolist() == close(values)
    _, new = f.cross_modal_rank(x.v, x.t, x.n, x.s, MARGINS, x.m)
    second, _ = f.cross_modal_rank(x.v, x.t, x.n, x.s, new, x.m)
    assert second.item() == close(0.1623026075)


def test_reference_values_of_eight_random_samples():
    x = set_c()
    assert f.hard_negative_clip(x.v, x.t, x.n, x.s).item() == close(9.3098877662)
    assert f.image_grounded(x.v, x.t, x.n, x.s).item() == close(7.2864844894)
    assert f.text_grounded(x.t, x.tt, x.n).item() == close(3.2718398434)
    assert f.text_grounded(x.t, x.tt, f.tiled(x.n)).item() == close(2.8448352052)
    distill = f.self_distillation(x.v, x.tv, x.t, x.tt, x.n, x.tn)
    assert distill.item() == close(94.2588955989)
    loss, new = f.cross_modal_rank(x.v, x.t, x.n, x.s, 0 * MARGINS, x.m)
    assert loss.item() == close(3.4442284693)
    assert new.tolist() == close([0.0, 0.0, 0.0, 0.4494244493])
    assert f.intra_modal(x.v, x.t, x.n, x.s).item() == close(9.3570382377)
    assert f.intra_modal(x.v, x.t, x.n, x.s, form="head").item() == close(11.2498799447)


def test_published_temperature_makes_the_released_text_contrast_nearly_blind():
    """Unrelated negatives at similarity 0.5 against own ones at 0.9, teacher in full agreement."""
    t = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    for similarity, value in ((0.5, 0.0265949853), (0.9, 0.9048324416)):
        n = torch.tensor([similarity, (1 - similarity**2) ** 0.5], dtype=torch.float64)
        assert f.text_grounded(t, t, n.expand(1, 4, 2)).item() == close(value)


def test_gradient_norms_of_random_features():
    x = set_a()
    v, t, n = leaves(x)
    total = (
        f.hard_negative_clip(v, t, n, x.s)
        + 0.1 * f.image_grounded(v, t, n, x.s)
        + 0.1 * f.text_grounded(t, x.tt, n)
        + 0.005 * f.self_distillation(v, x.tv, t, x.tt, n, x.tn)
    )
    assert gradient_norms(total, v, t, n) == close([10.8722238690, 9.5552108767, 2.5076238000])
