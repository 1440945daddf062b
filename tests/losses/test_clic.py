"""CLIC: a contrast of pictures of two with both orders of their captions, every second step."""

from __future__ import annotations

import oracles
import pytest
import torch
from reference import arguments, close, features
from set_d import places, set_d

from open_clip_ext.losses import CLICLoss, CLIPLoss


def test_reference_values():
    x = set_d()
    args = {
        "pair_text_features": places(x.t),
        "pair_pos_text_features": places(x.p, x.q, x.u),
        "pair_neg_text_features": x.n[:, :1],
        "pair_image_features": places(x.v),
    }
    terms = CLICLoss()(x.v.flip(0), x.t, x.s, **args, output_dict=True)
    assert terms["contrastive_loss"].item() / 0.5 == close(5.4969642395)
    assert terms["own_loss"].item() / 0.5 == close(2.9901773675)
    assert terms["same_loss"].item() == close(1.1943890212)
    assert sum(terms.values()).item() == close(5.4379598247)


def oracle(x):
    """A batch in which some texts are missing; one text of each kind."""
    texts, exist = torch.cat([x.pair, x.pair_pos], 1), torch.cat([x.pair_m, x.pair_pos_m], 1)
    b = range(len(x.v))
    u, own, same = x.pair_v[:, 0], [], []
    contrast = []
    for i in b:
        there = [j for j in range(2) if exist[i, j]]
        for j in there:
            columns = [r for r in b if exist[r, j]]
            row = [x.s * oracles.dot(u[i], texts[r, j]) for r in columns]
            image = oracles.cross_entropy(row, columns.index(i))
            text = oracles.cross_entropy([x.s * oracles.dot(texts[i, j], u[r]) for r in b], i)
            contrast.append((image + text) / 2 / len(there) / len(b))
            wrong = [x.s * oracles.dot(u[i], x.pair_neg[i, 0])] if x.pair_neg_m[i, 0] else []
            right = x.s * oracles.dot(u[i], texts[i, j])
            own.append(oracles.cross_entropy([right, *wrong], 0) / len(there) / len(b))
        if len(there) == 2:
            apart = texts[i, 0] - texts[i, 1]
            same.append(oracles.dot(apart, apart) / len(b))
    return {"contrastive_loss": sum(contrast) / 2, "own_loss": sum(own) / 2, "same_loss": sum(same)}


def with_pictures(**sizes):
    """Pairs always have their picture."""
    x = features(**sizes, k=1)
    x.pair_v_m[:] = True
    return x


def test_equals_its_loop_oracle():
    x = with_pictures(b=8)
    terms, expected = CLICLoss()(**arguments(CLICLoss, x), output_dict=True), oracle(x)
    assert all(y > 0 for y in expected.values())
    assert {k: y.item() for k, y in terms.items()} == close({k: y.item() for k, y in expected.items()})


@pytest.mark.parametrize("alternate", [True, False])
def test_every_second_step_is_clip_s(alternate):
    x = with_pictures(b=6)
    loss, args = CLICLoss(alternate=alternate), arguments(CLICLoss, x)
    pairs = loss(**args).item()
    assert loss(**args).item() == pairs  # the step is not over
    loss.commit()
    single = CLIPLoss()(x.v, x.t, x.s).item()
    terms = loss(**args, output_dict=True)
    assert terms["contrastive_loss"].item() == close(
        single if alternate else pairs - sum_of_others(oracle(x))
    )
    assert (terms["own_loss"].item() == terms["same_loss"].item() == 0) == alternate
    loss.commit()
    assert loss(**args).item() == pairs


def sum_of_others(terms):
    return (terms["own_loss"] + terms["same_loss"]).item()
