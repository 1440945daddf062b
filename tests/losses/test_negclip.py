"""NegCLIP: negatives are columns of image to text."""

from __future__ import annotations

import oracles
import pytest
import torch
from open_clip import ClipLoss
from our_losses import WITH_IMAGES
from reference import arguments, close, features, set_a, set_b, set_c, student

from open_clip_ext.losses import CLIPLoss, NegCLIPLoss


@pytest.mark.parametrize("k", [1, 2, 4])
def test_equals_its_loop_oracle(k):
    x = features(k=k)
    expected = oracles.hard_negative_clip(x.v, x.t, x.n, x.s, x.m)
    assert NegCLIPLoss()(**student(x)).item() == close(expected.item())


def test_reference_values():
    assert NegCLIPLoss()(**student(set_a(), mask=False)).item() == close(8.6059733283)
    assert NegCLIPLoss()(**student(set_b())).item() == close(0.2339137517)
    assert NegCLIPLoss()(**student(set_b(), mask=False)).item() == close(0.3621506517)
    assert NegCLIPLoss()(**student(set_c(), mask=False)).item() == close(9.3098877662)


def test_without_any_negative_it_is_clip():
    x = features()
    x.m = torch.zeros_like(x.m)
    torch.testing.assert_close(NegCLIPLoss()(**student(x)), CLIPLoss()(x.v, x.t, x.s))


def with_hard_images(x):
    v, t, n, hv, ht, hn = map(oracles.by_slot, (x.v, x.t, x.n, x.hard_v, x.hard, x.hard_neg))
    texts = [*t.values(), *(ht[slot] for slot in oracles.slots(x.hard_m))]
    texts += [n[slot] for slot in oracles.slots(x.m)] + [hn[slot] for slot in oracles.slots(x.hard_neg_m)]
    images = [*v.values(), *(hv[slot] for slot in oracles.slots(x.hard_v_m))]
    pairs = [(i, i) for i in v] + [(slot, slot) for slot in oracles.slots(x.hard_m & x.hard_v_m)]
    v, t = v | hv, t | ht
    return (oracles.find(v, t, pairs, x.s, texts) + oracles.find(t, v, pairs, x.s, images)) / 2


@pytest.mark.parametrize("k", [1, 3])
def test_with_hard_images_it_equals_its_loop_oracle(k):
    x = features(k=k)
    args = arguments(WITH_IMAGES["negclip with images"], x)
    assert NegCLIPLoss()(**args).item() == close(with_hard_images(x).item())
    x.hard_neg_m[:] = False
    expected = NegCLIPLoss()(**args | {"hard_neg_text_features": None, "hard_neg_valid": None})
    assert expected.item() == close(with_hard_images(x).item())


def test_a_hard_image_is_a_further_sample():
    """As the authors' batch has it: [V ; V'], [T ; T'], [N ; N']."""
    x = features(k=1)
    for mask in ("m", "hard_m", "hard_neg_m", "hard_v_m"):
        getattr(x, mask)[:] = True
    v, t = torch.cat([x.v, x.hard_v[:, 0]]), torch.cat([x.t, x.hard[:, 0]])
    expected = NegCLIPLoss()(v, t, x.s, torch.cat([x.n, x.hard_neg]))
    args = arguments(WITH_IMAGES["negclip with images"], x)
    assert NegCLIPLoss()(**args).item() == close(expected.item())


def test_the_host_own_loss_cannot_take_negatives():
    x = set_a()
    with pytest.raises(ValueError, match="30"):
        ClipLoss()(x.v, torch.cat([x.t, x.n.flatten(0, 1)]), x.s)


def test_the_mask_may_come_as_integers():
    x = features()
    value = NegCLIPLoss()(**student(x))
    x.m = x.m.long()
    assert torch.equal(NegCLIPLoss()(**student(x)), value)
