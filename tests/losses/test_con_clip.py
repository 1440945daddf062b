"""CoN-CLIP: NegCLIP's equation on one negated caption, and with an image for each of those."""

from __future__ import annotations

import pytest
import torch
from oracles import by_slot, find, slots
from our_losses import WITH_IMAGES
from reference import SCALE, arguments, close, features, stream, unit
from set_d import places, set_d

from open_clip_ext.losses import CoNCLIPLoss, NegCLIPLoss


def oracle(x):
    v, t, n, u = map(by_slot, (x.v, x.t, x.n, x.neg_v))
    texts = [*t.values(), *(n[slot] for slot in slots(x.m))]
    images = [*v.values(), *(u[slot] for slot in slots(x.neg_v_m))]
    own, pairs = [(i, i) for i in v], [(slot, slot) for slot in slots(x.m & x.neg_v_m)]
    terms = find(v, t, own, x.s, texts), find(t, v, own, x.s, images), find(u, n, pairs, x.s, texts)
    return sum(terms) / 3


def test_reference_values():
    x = set_d()
    n, u = x.n[:, :1], places(x.v_neg)
    assert CoNCLIPLoss()(x.v, x.t, x.s, n).item() == close(0.0146786769)
    assert CoNCLIPLoss()(x.v, x.t, x.s, n, neg_image_features=u).item() == close(2.2310478161)
    draw = stream(0)
    v, t, *_ = (draw(rows, 16) for rows in (6, 6, 24, 6, 6, 24))
    u, n = (unit(draw(6, 16))[:, None] for _ in range(2))
    assert CoNCLIPLoss()(unit(v), unit(t), SCALE, n).item() == close(7.8099345733)
    assert CoNCLIPLoss()(unit(v), unit(t), SCALE, n, neg_image_features=u).item() == close(8.8640963894)


def test_without_images_it_is_negclip():
    args = arguments(CoNCLIPLoss, features())
    assert CoNCLIPLoss()(**args).item() == NegCLIPLoss()(**args).item()


@pytest.mark.parametrize("k", [1, 3])
def test_with_images_it_equals_its_loop_oracle(k):
    x = features(k=k)
    assert not torch.equal(x.m, x.neg_v_m)
    loss = WITH_IMAGES["con-clip with images"]
    assert CoNCLIPLoss()(**arguments(loss, x)).item() == close(oracle(x).item())


@pytest.mark.parametrize("missing", ["images", "texts", "pairs"])
def test_without_any_pair_the_third_term_is_0(missing):
    x = features()
    x.m[:], x.neg_v_m[:] = missing != "texts", missing != "images"
    if missing == "pairs":
        x.m[:, 0] = x.neg_v_m[:, 1:] = False
    assert CoNCLIPLoss()(**arguments(WITH_IMAGES["con-clip with images"], x)).item() == close(
        oracle(x).item()
    )
