"""TripletCLIP: NegCLIP's contrast in both directions of a pair of pairs."""

from __future__ import annotations

import pytest
import torch
from oracles import by_slot, find, hard_negative_clip, slots
from reference import SCALE, arguments, close, features, stream, unit
from set_d import places, set_d

from open_clip_ext.losses import NegCLIPLoss, TripletCLIPLoss


def oracle(x):
    t, n, u = map(by_slot, (x.t, x.n, x.neg_v))
    pairs = [(slot, slot) for slot in slots(x.m & x.neg_v_m)]
    texts = [*t.values(), *(n[slot] for slot in slots(x.m))]
    images = [u[slot] for slot in slots(x.neg_v_m)]
    second = (find(u, n, pairs, x.s, texts) + find(n, u, pairs, x.s, images)) / 2
    return {"contrastive_loss": hard_negative_clip(x.v, x.t, x.n, x.s, x.m), "negatives_loss": second}


def test_reference_value():
    draw = stream(0)
    v, t, *_ = (draw(rows, 16) for rows in (6, 6, 24, 6, 6, 24))
    u, n = (unit(draw(6, 16))[:, None] for _ in range(2))
    value = TripletCLIPLoss()(unit(v), unit(t), SCALE, n, neg_image_features=u)
    assert value.item() == close(15.2170307806)


def test_with_one_pair_each_it_is_negclip_twice():
    x = set_d()
    n, u = x.n[:, 0], x.v_neg
    first = NegCLIPLoss()(x.v, x.t, x.s, places(n))
    second = NegCLIPLoss()(u, n, x.s, places(x.t))
    value = TripletCLIPLoss()(x.v, x.t, x.s, places(n), neg_image_features=places(u))
    assert value.item() == close((first + second).item())


@pytest.mark.parametrize("k", [1, 3])
def test_equals_its_loop_oracle(k):
    x = features(k=k)
    assert not torch.equal(x.m, x.neg_v_m)
    terms = TripletCLIPLoss()(**arguments(TripletCLIPLoss, x), output_dict=True)
    assert {name: y.item() for name, y in terms.items()} == close({k: y.item() for k, y in oracle(x).items()})


@pytest.mark.parametrize("missing", ["images", "texts", "pairs"])
def test_without_any_pair_the_second_contrast_is_0(missing):
    x = features()
    x.m[:], x.neg_v_m[:] = missing != "texts", missing != "images"
    if missing == "pairs":
        x.m[:, 0] = x.neg_v_m[:, 1:] = False
    terms = TripletCLIPLoss()(**arguments(TripletCLIPLoss, x), output_dict=True)
    assert terms["negatives_loss"] == 0
    assert terms["contrastive_loss"].item() == close(oracle(x)["contrastive_loss"].item())
