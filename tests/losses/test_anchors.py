"""The anchors, terms that every loss has and none uses unless asked: features are held to those of a base."""

from __future__ import annotations

import pytest
import torch
from our_losses import CLASSES
from reference import anchors, arguments, close, features

from open_clip_ext.losses import CLIPLoss, DeGLALoss, chunked_cross_entropy
from open_clip_ext.losses.base import Loss, option

ON = {"image_anchor": 3.0, "text_anchor": 0.5, "similarity_anchor": 7.0}
OFF = dict.fromkeys(ON, 0.0)


@pytest.fixture
def x():
    return features()


def by_loops(moved, base):
    rows, others = moved.flatten(0, -2).tolist(), base.flatten(0, -2).tolist()
    distances = [
        sum((a - b) ** 2 for a, b in zip(one, other, strict=True))
        for one, other in zip(rows, others, strict=True)
    ]
    return sum(distances) / len(distances)


def test_an_anchor_is_the_mean_squared_distance_from_the_base(x):
    terms = CLIPLoss(**ON)(**arguments(CLIPLoss, x), **anchors(x), output_dict=True)
    assert terms["image_anchor_loss"].item() == close(3 * by_loops(x.mixed, x.mixed_0))
    assert terms["text_anchor_loss"].item() == close(0.5 * by_loops(x.said, x.said_0))


def test_the_anchor_of_similarities_compares_every_picture_with_every_text(x):
    terms = CLIPLoss(**ON)(**arguments(CLIPLoss, x), **anchors(x), output_dict=True)
    changes = [
        (v @ t - v0 @ t0).item() ** 2
        for v, v0 in zip(x.mixed, x.mixed_0, strict=True)
        for t, t0 in zip(x.said.flatten(0, 1), x.said_0.flatten(0, 1), strict=True)
    ]
    assert len(changes) == 5 * 10
    assert terms["similarity_anchor_loss"].item() == close(7 * sum(changes) / len(changes))


@pytest.mark.parametrize("block", [1, 20, 33])
def test_the_anchor_of_similarities_does_not_depend_on_the_blocks(monkeypatch, block, x):
    def evaluate():
        value = CLIPLoss(similarity_anchor=7.0)(**arguments(CLIPLoss, x), **anchors(x))
        return value, torch.autograd.grad(value, (x.mixed, x.said))

    expected = evaluate()
    monkeypatch.setattr(chunked_cross_entropy, "BLOCK", block)
    torch.testing.assert_close(evaluate(), expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("cls", [*CLASSES.values()])
def test_every_loss_takes_anchors_beside_its_own_terms(cls, x):
    args = arguments(cls, x)
    own = cls(**OFF)(**args_without(args), output_dict=True)
    both = cls(**ON)(**args_without(args), **anchors(x), output_dict=True)
    assert list(both) == [*own, "image_anchor_loss", "text_anchor_loss", "similarity_anchor_loss"]
    assert all(both[name] == value for name, value in own.items())


def args_without(args):
    return {name: value for name, value in args.items() if not name.startswith("anchor_")}


def test_the_base_gets_no_gradient(x):
    x.mixed_0.requires_grad_()
    x.said_0.requires_grad_()
    value = CLIPLoss(**ON)(**arguments(CLIPLoss, x), **anchors(x))
    got = torch.autograd.grad(value, (x.mixed, x.said, x.mixed_0, x.said_0), allow_unused=True)
    assert [g is not None for g in got] == [True, True, False, False]


@pytest.mark.parametrize("name", ["image", "text"])
def test_an_anchor_without_weight_takes_nothing(name, x):
    other = {"image": "text", "text": "image"}[name]
    loss = CLIPLoss(**{f"{other}_anchor": 1.0})
    with pytest.raises(TypeError, match=rf"got anchor_base_{name}_features, anchor_{name}_features$"):
        loss(**arguments(CLIPLoss, x), **anchors(x))


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("anchor_image_features", (4, 7), "(4, 7), expected (5, 7)"),
        ("anchor_base_image_features", (5, 6), "(5, 6), expected (5, 7)"),
        ("anchor_text_features", (5, 7), "(5, 7), expected (5, R, 7), R >= 1"),
        ("anchor_base_text_features", (5, 3, 7), "(5, 3, 7), expected (5, 2, 7)"),
    ],
)
def test_a_wrong_shape_is_named_with_the_one_expected(name, shape, message, x):
    args = {**arguments(CLIPLoss, x), **anchors(x), name: torch.ones(shape)}
    with pytest.raises(ValueError, match=name) as error:
        CLIPLoss(**ON)(**args)
    assert str(error.value) == f"{name} has shape {message}"


@pytest.mark.parametrize("name", ["image", "text"])
def test_what_an_anchor_needs_is_named(name, x):
    args = {**arguments(CLIPLoss, x), **anchors(x), f"anchor_base_{name}_features": None}
    with pytest.raises(ValueError, match=rf"^anchor_base_{name}_features is missing"):
        CLIPLoss(**ON)(**args)


def test_nothing_is_made_for_anchors_that_are_off():
    assert DeGLALoss().make_anchor(torch.nn.Linear(1, 1), None) is None


def test_a_loss_may_have_anchors_from_the_start(x):
    class Held(CLIPLoss):
        image_anchor: float = option(default=2.0, least=0)

    args = {n: y for n, y in anchors(x).items() if "image" in n}
    assert list(Held()(**arguments(CLIPLoss, x), **args, output_dict=True)) == [
        "contrastive_loss",
        "image_anchor_loss",
    ]


def test_anchors_alone_are_no_loss(x):
    class Nothing(Loss):
        pass

    with pytest.raises(TypeError, match=r"^Nothing has no term: mark a method with @term$"):
        Nothing(**ON)(**arguments(Nothing, x), **anchors(x))
