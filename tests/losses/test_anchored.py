"""Anchored: NegCLIP's contrast, one over own negatives, and the anchors; with weights that are given."""

from __future__ import annotations

import oracles
import pytest
import torch
from reference import anchors, arguments, close, features, live, student

from open_clip_ext.losses import AnchoredLoss, NegCLIPLoss

WEIGHTS = {"igc_weight": 0.7, "image_anchor": 3.0, "text_anchor": 0.5, "similarity_anchor": 11.0}
OFF = dict.fromkeys(WEIGHTS, 0.0)


def moved(x, base):
    return oracles.mean([sum((a - b) ** 2 for a, b in zip(*pair, strict=True)) for pair in rows(x, base)])


def moved_similarity(v, t, base_v, base_t):
    return oracles.mean(
        [
            (oracles.dot(image, text) - oracles.dot(image_0, text_0)) ** 2
            for image, image_0 in rows(v, base_v)
            for text, text_0 in rows(t, base_t)
        ]
    )


def rows(x, base):
    return list(zip(x.flatten(0, -2), base.flatten(0, -2), strict=True))


@pytest.mark.parametrize("k", [1, 2, 4])
def test_equals_its_loop_oracles(k):
    x = features(k=k)
    terms = AnchoredLoss(**WEIGHTS)(**arguments(AnchoredLoss, x), output_dict=True)
    expected = {
        "contrastive_loss": oracles.hard_negative_clip(x.v, x.t, x.n, x.s, x.m),
        "igc_loss": 0.7 * oracles.own_negatives(x.v, x.t, x.n, x.s, x.m),
        "image_anchor_loss": 3 * moved(x.mixed, x.mixed_0),
        "text_anchor_loss": 0.5 * moved(x.said, x.said_0),
        "similarity_anchor_loss": 11 * moved_similarity(x.mixed, x.said, x.mixed_0, x.said_0),
    }
    assert k == 1 or not x.m.all()
    torch.testing.assert_close(terms, expected)
    got, want = (
        torch.autograd.grad(sum(y.values()), list(live(x).values()), allow_unused=True)
        for y in (terms, expected)
    )
    torch.testing.assert_close(got, want)


def test_without_negatives_nothing_but_clip_and_the_anchors_is_left():
    x = features()
    x.m = torch.zeros_like(x.m)
    terms = AnchoredLoss(**WEIGHTS)(**arguments(AnchoredLoss, x), output_dict=True)
    assert terms["contrastive_loss"].item() == close(oracles.clip(x.v, x.t, x.s).item())
    assert terms["igc_loss"] == 0
    assert terms["image_anchor_loss"].item() == close(3 * moved(x.mixed, x.mixed_0).item())


def test_a_model_that_did_not_move_pays_nothing_for_its_anchors():
    x = features()
    x.mixed_0, x.said_0 = x.mixed.detach().clone(), x.said.detach().clone()
    terms = AnchoredLoss(**WEIGHTS)(**arguments(AnchoredLoss, x), output_dict=True)
    total = sum(value for name, value in terms.items() if "anchor" in name)
    assert total == 0
    assert not any(gradient.any() for gradient in torch.autograd.grad(total, (x.mixed, x.said)))


def test_features_that_turn_together_keep_their_similarities_and_nothing_else():
    x = features()
    turn = torch.linalg.qr(torch.randn(7, 7, dtype=torch.float64, generator=torch.manual_seed(0)))[0]
    x.mixed, x.said = x.mixed_0 @ turn, x.said_0 @ turn
    terms = AnchoredLoss(**WEIGHTS)(**arguments(AnchoredLoss, x), output_dict=True)
    assert terms["similarity_anchor_loss"].item() == close(0)
    assert terms["image_anchor_loss"] > 0.1
    assert terms["text_anchor_loss"] > 0.1


def test_without_its_weights_it_is_negclip():
    x = features()
    loss = AnchoredLoss(**OFF)
    assert loss(**student(x)).item() == close(NegCLIPLoss()(**student(x)).item())
    assert not loss.anchored
    assert loss.make_anchor(torch.nn.Linear(1, 1), None) is None


def test_it_holds_a_model_to_its_base_unless_told_otherwise():
    assert AnchoredLoss().anchored


@pytest.mark.parametrize("name", anchors(features()))
def test_a_missing_tensor_of_an_anchor_is_named(name):
    x = features()
    with pytest.raises(ValueError, match=f"^{name} is missing, and a term with a weight above 0 needs it$"):
        AnchoredLoss(**WEIGHTS)(**arguments(AnchoredLoss, x) | {name: None})


def test_options_without_effect_are_told():
    assert AnchoredLoss(**WEIGHTS).idle_options() == {}
    assert AnchoredLoss(**WEIGHTS | {"image_anchor": 0, "similarity_anchor": 0}).idle_options() == {
        "anchor_grid": "image_anchor and similarity_anchor are 0"
    }
    assert AnchoredLoss(**WEIGHTS | {"text_anchor": 0, "similarity_anchor": 0}).idle_options() == {
        "anchor_texts": "text_anchor and similarity_anchor are 0"
    }
