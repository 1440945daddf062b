"""Set D: features from sines, on which the losses of the field have reference values."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from reference import close, unit

B, K, D = 4, 2, 5
SCALE = torch.tensor(10.0, dtype=torch.float64)
PHASES = {"v": 0.0, "t": 0.5, "p": 1.5, "v_neg": 2.0, "u": 2.5, "f": 3.0, "t_m": 3.5, "v_m": 4.0, "q": 4.5}


def waves(rows, phase):
    """`[rows, D]`: unit rows of sin(0.7 r d + phase), r and d from 1."""
    r, d = torch.meshgrid(torch.arange(1.0, rows + 1), torch.arange(1.0, D + 1), indexing="ij")
    return unit(torch.sin(0.7 * r.double() * d + phase))


def set_d():
    """`n` are two negatives of each sample; the other names are one row per sample."""
    x = SimpleNamespace(n=waves(B * K, 1.0).view(B, K, D), s=SCALE)
    for name, phase in PHASES.items():
        setattr(x, name, waves(B, phase))
    assert x.v[0, 0].item() == close(0.4187715727)
    assert x.t[3, 4].item() == close(0.7039567996)
    assert x.n[3, 1, 4].item() == close(-0.4291040975)
    assert x.q[3, 4].item() == close(-0.2960182121)
    return x


def places(*rows):
    """Rows `[B, D]` as the companions of one kind, `[B, J, D]`."""
    return torch.stack(rows, dim=1)


def with_kinds(k=1, **kinds):
    """The first k negatives of each sample, and companions of each kind: the waves of the phases given."""
    x = set_d()
    x.n, x.m, x.tv, x.tt, x.tn = x.n[:, :k], None, None, None, None
    for kind, phases in kinds.items():
        texts = places(*(waves(B, phase) for phase in phases))
        vars(x).update({kind: texts, f"{kind}_m": None, f"{kind}_t": None})
    return x
