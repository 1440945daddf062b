"""Set D: four samples made of sines, without any random numbers, and with texts of every kind."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from reference import close, unit


def waves(count, phase):
    """`count` unit vectors of five dimensions."""
    row, place = torch.arange(1.0, count + 1, dtype=torch.float64), torch.arange(1.0, 6, dtype=torch.float64)
    return unit((0.7 * torch.outer(row, place) + phase).sin())


def set_d(k=1, **kinds):
    """The first k negatives of each sample, and of each kind the waves of the phases given."""
    x = SimpleNamespace(v=waves(4, 0.0), t=waves(4, 0.5), s=torch.tensor(10.0, dtype=torch.float64))
    every = waves(8, 1.0).view(4, 2, 5)
    assert (x.v[0, 0].item(), x.t[3, 4].item()) == close((0.4187715727, 0.7039567996))
    assert every[3, 1, 4].item() == close(-0.4291040975)
    x.n, x.m, x.tv, x.tt, x.tn = every[:, :k], None, None, None, None
    for kind, phases in kinds.items():
        texts = torch.stack([waves(4, phase) for phase in phases], 1)
        vars(x).update({kind: texts, f"{kind}_m": None, f"{kind}_t": None})
    return x
