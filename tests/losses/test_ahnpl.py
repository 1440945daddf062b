"""AHNPL: disturbed images as negatives. (The hinge and its margins: test_ce_clip.)"""

from __future__ import annotations

import oracles
import pytest
import torch
from reference import close, features, student
from set_d import set_d

from open_clip_ext.losses import AHNPLLoss, CECLIPLoss
from open_clip_ext.losses import functional as f


@pytest.mark.parametrize("image", ["paper", "own"])
@pytest.mark.parametrize("k", [1, 3])
def test_equals_its_loop_oracles(k, image):
    x = features(k=k)
    loss = AHNPLLoss(cmr_weight=0.5, text_weight=0.7, image_weight=0.4, image=image, threshold=2.0)
    terms = loss(**student(x), output_dict=True)
    margins = torch.full((k,), 2.0, dtype=torch.float64)
    expected = {
        "contrastive_loss": oracles.hard_negative_clip(x.v, x.t, x.n, x.s, x.m),
        "cmr_loss": 0.5 * oracles.hinge(x.v, x.t, x.n, x.s, margins, x.m),
        "text_loss": 0.7 * oracles.intra_modal(x.v, x.t, x.n, x.s, x.m),
        "image_loss": 0.4 * oracles.disturbed_contrast(x.v, x.t, x.n, x.s, x.m, image),
    }
    torch.testing.assert_close(terms, expected)
    got, want = (torch.autograd.grad(sum(y.values()), (x.v, x.t, x.n, x.s)) for y in (terms, expected))
    torch.testing.assert_close(got, want)


def test_reference_values():
    x = set_d()
    terms = AHNPLLoss(text_weight=1, image_weight=1)(x.v, x.t, x.s, x.n, output_dict=True)
    assert (terms["text_loss"] + terms["image_loss"]).item() == close(0.7819121645)
    own = AHNPLLoss(image_weight=1, image="own")(x.v, x.t, x.s, x.n, output_dict=True)
    assert own["image_loss"].item() == close(0.3666832791)


def test_images_are_disturbed_as_captions_are_edited_and_the_text_learns_nothing_from_it():
    x = features()
    moved = f.disturbed_images(x.v, x.t, x.n)
    assert moved.norm(dim=-1).flatten().tolist() == close([1.0] * 15)
    assert torch.autograd.grad(moved.sum(), (x.t, x.n), allow_unused=True) == (None, None)
    alike = f.disturbed_images(x.v, x.t, x.t[:, None])
    torch.testing.assert_close(alike[:, 0], x.v)


def test_the_target_is_the_pair_and_not_a_negative_as_in_the_released_code():
    """A caption closer to its image lowers the loss."""
    x = features()
    x.m = torch.ones_like(x.m)
    for image in ("paper", "own"):
        loss = AHNPLLoss(cmr_weight=0, text_weight=0, image_weight=1, image=image)
        terms = loss(**student(x), output_dict=True)
        (pull,) = torch.autograd.grad(terms["image_loss"], x.t)
        assert ((pull * x.v).sum(-1) < 0).all()


def test_its_margins_are_those_of_ce_clip():
    x = features(k=4)
    found = []
    for cls in (AHNPLLoss, CECLIPLoss):
        loss = cls()
        loss(**student(x))
        loss.commit()
        found.append(loss.thresholds)
    assert torch.equal(*found)
