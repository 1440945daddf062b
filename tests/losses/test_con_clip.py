"""CoN-CLIP's text part: NegCLIP's equation on one negated caption."""

from __future__ import annotations

from reference import arguments, close, features
from set_d import set_d

from open_clip_ext.losses import CoNCLIPLoss, NegCLIPLoss


def test_reference_value():
    x = set_d()
    assert CoNCLIPLoss()(x.v, x.t, x.s, x.n[:, :1]).item() == close(0.0146786769)


def test_it_is_negclip():
    args = arguments(CoNCLIPLoss, features())
    assert CoNCLIPLoss()(**args).item() == NegCLIPLoss()(**args).item()
