"""ParaCLIP: three contrasts along caption, paraphrases and image."""

from __future__ import annotations

import oracles
import pytest
import torch
from reference import arguments, close, features
from set_d import with_kinds

from open_clip_ext.losses import ParaCLIPLoss


def terms(x):
    return ParaCLIPLoss()(**arguments(ParaCLIPLoss, x), output_dict=True)


def pairs(y, z, s, rows):
    return oracles.clip([y[i] for i in rows], [z[i] for i in rows], s) if rows else 0 * s


def expected(x):
    p, q, rows = x.pos[:, 0], x.pos[:, 1], range(len(x.v))
    first, second = ([i for i in rows if x.pos_m[i, k]] for k in (0, 1))
    return {
        "image_loss": oracles.clip(x.v, [q[i] if i in second else x.t[i] for i in rows], x.s),
        "caption_loss": pairs(x.t, p, x.s, first),
        "paraphrase_loss": pairs(p, q, x.s, [i for i in first if i in second]),
    }


def test_reference_value():
    assert sum(terms(with_kinds(pos=(1.5, 4.5))).values()).item() == close(22.4182583819)


@pytest.mark.parametrize("b", [1, 5])
def test_equals_its_loop_oracle(b):
    x = features(b=b, k=2)
    x.pos_m[0] = True
    found, want = terms(x), expected(x)
    torch.testing.assert_close(found, want)
    leaves = (x.v, x.t, x.pos, x.s)
    torch.testing.assert_close(*(torch.autograd.grad(sum(y.values()), leaves) for y in (found, want)))


def test_without_any_paraphrase_it_is_clip():
    x = features(k=2)
    x.pos_m[:] = False
    found = terms(x)
    assert found["image_loss"].item() == close(oracles.clip(x.v, x.t, x.s).item())
    assert found["caption_loss"] == found["paraphrase_loss"] == 0


def test_the_content_of_missing_paraphrases_does_not_matter():
    x = features(k=2)
    value = sum(terms(x).values()).item()
    with torch.no_grad():
        x.pos[~x.pos_m] = torch.nan
    loss = sum(terms(x).values())
    assert loss.item() == close(value)
    assert all(g.isfinite().all() for g in torch.autograd.grad(loss, (x.v, x.t, x.pos, x.s)))


@pytest.mark.parametrize("companions", [{}, {"pos": 1}, {"pos": 3}])
def test_captions_get_two_paraphrases(companions):
    ParaCLIPLoss().configure({"pos": 2})
    with pytest.raises(ValueError, match="expected two pos"):
        ParaCLIPLoss().configure(companions)
