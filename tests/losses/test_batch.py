"""What terms are given: companions of every kind, each tensor upcast and gathered once, when asked for."""

from __future__ import annotations

import pytest
import torch
from our_losses import CLASSES
from reference import arguments, features

from open_clip_ext.losses import CLIPLoss, NegCLIPLoss
from open_clip_ext.losses.base import Loss, term
from open_clip_ext.losses.batch import Batch


class Kinds(Loss):
    """Positives, and phrases that are asked for by nobody."""

    companions = {"pos": 2, "phrase": 1}

    @term()
    def pos_loss(self, x: Batch) -> torch.Tensor:
        return (x.rows.features("pos") * x.rows.exists("pos")[..., None]).sum()


def given(b=3, d=4):
    return {
        "image_features": torch.ones(b, d),
        "text_features": torch.ones(b, d),
        "logit_scale": torch.ones(()),
        "pos_text_features": torch.ones(b, 2, d),
        "pos_valid": torch.tensor([[True, False]] * b),
        "phrase_text_features": torch.ones(b, 1, d),
        "phrase_valid": torch.ones(b, 1, dtype=torch.bool),
    }


def test_companions_come_by_place_in_the_order_of_their_kinds_or_by_name():
    args = given()
    assert Kinds()(**args) == Kinds()(*args.values()) == 3 * 4
    assert Kinds()(*list(args.values())[:4]) == 3 * 2 * 4  # without a mask, all exist


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("pos_text_features", (3, 4), "(3, K, 4), K >= 1"),
        ("phrase_text_features", (3, 1, 5), "(3, K, 4), K >= 1"),
        ("phrase_valid", (3, 2), "(3, 1)"),
        ("teacher_image_features", (2, 4), "(3, 4)"),
        ("teacher_phrase_text_features", (3, 2, 4), "(3, 1, 4)"),
    ],
)
def test_shapes_are_checked_for_every_kind(name, shape, expected):
    with pytest.raises(ValueError, match=f"^{name}") as error:
        Kinds()(**given() | {name: torch.ones(shape)})
    assert str(error.value) == f"{name} has shape {shape}, expected {expected}"


class Pictured(Loss):
    """Companion images of two kinds, one of them beside texts; `hard` may be absent."""

    companions = {"neg": 1}
    companion_images = {"neg": 1, "hard": 0}

    @term()
    def pull_loss(self, x: Batch) -> torch.Tensor:
        hard = x.rows.images("hard").sum() if x.has_images("hard") else 0.0
        shown = x.rows.images("neg") * x.rows.images_exist("neg")[..., None]
        return shown.sum() + (10 if x.has("neg") else 0) + 100 * hard


def pictured(b=3, d=4):
    return {
        "image_features": torch.ones(b, d),
        "text_features": torch.ones(b, d),
        "logit_scale": torch.ones(()),
        "neg_text_features": torch.ones(b, 2, d),
        "neg_valid": None,
        "neg_image_features": torch.ones(b, 2, d),
        "neg_image_valid": torch.tensor([[True, False]] * b),
    }


def test_companion_images_come_after_texts_and_some_may_be_absent():
    args = pictured()
    assert Pictured()(**args) == Pictured()(*args.values()) == 12 + 10
    assert Pictured()(**args | {"neg_image_valid": None}) == 24 + 10
    assert Pictured()(**args, hard_image_features=torch.ones(3, 1, 4)) == 12 + 10 + 1200
    with pytest.raises(ValueError, match=r"^neg_image_features is missing"):
        Pictured()(**args | {"neg_image_features": None})


def test_a_teacher_s_companion_images_get_no_gradient():
    taught = torch.ones(2, 1, 3, requires_grad=True)
    x = Batch({"teacher_neg_image_features": taught}, torch.ones(()), gather=torch.Tensor.clone)
    assert not x.teacher.rows.images("neg").requires_grad


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("neg_image_features", (3, 4), "(3, M, 4), M >= 1"),
        ("hard_image_features", (3, 1, 5), "(3, M, 4), M >= 1"),
        ("neg_image_valid", (3, 1), "(3, 2)"),
        ("teacher_neg_image_features", (3, 1, 4), "(3, 2, 4)"),
    ],
)
def test_shapes_of_companion_images_are_checked(name, shape, expected):
    with pytest.raises(ValueError, match=f"^{name}") as error:
        Pictured()(**pictured() | {name: torch.ones(shape)})
    assert str(error.value) == f"{name} has shape {shape}, expected {expected}"


def test_an_argument_that_no_loss_has_is_refused():
    args = given()
    every = list(args.values())
    taken = "teacher_image_features, teacher_text_features, image_id, text_id"
    with pytest.raises(TypeError, match=rf"^CLIPLoss takes {taken}, got neg_text_features$"):
        CLIPLoss()(*every[:3], neg_text_features=every[3])
    with pytest.raises(TypeError, match=rf"^CLIPLoss takes {taken}, got 5 by place, 0 by name$"):
        CLIPLoss()(*every[:3], *[every[0]] * 5)
    with pytest.raises(TypeError, match=r"^Kinds takes .*, got 1 by place, 1 by name$"):
        Kinds()(*every[:4], pos_text_features=every[3])


def test_a_missing_tensor_is_named():
    with pytest.raises(ValueError, match=r"^neg_text_features is missing"):
        NegCLIPLoss()(*list(given().values())[:3])


def seen(monkeypatch, loss, args):
    """The tensors that a loss gathers, by the names of its arguments; what its terms made has none."""
    gathered = []

    def watch(x):
        gathered.extend(name for name, y in args.items() if y.data_ptr() == x.data_ptr())
        return x

    monkeypatch.setattr(loss, "gather", watch)
    loss(**args)
    return gathered


def test_a_tensor_that_no_term_asks_for_is_not_gathered(monkeypatch):
    assert seen(monkeypatch, Kinds(), given()) == ["pos_text_features", "pos_valid"]


@pytest.mark.parametrize("name", CLASSES)
def test_no_tensor_is_gathered_twice(monkeypatch, name):
    loss = CLASSES[name]()
    gathered = seen(monkeypatch, loss, arguments(loss, features()))
    assert len(gathered) == len(set(gathered))
    assert {"image_features", "text_features"} <= set(gathered)
    assert not any("token" in name for name in gathered)


def test_a_tensor_is_upcast_once_and_the_teacher_s_gets_no_gradient():
    tensors = {
        "image_features": torch.ones(2, 3, dtype=torch.bfloat16, requires_grad=True),
        "teacher_image_features": torch.ones(2, 3, dtype=torch.bfloat16, requires_grad=True),
    }
    x = Batch(tensors, torch.ones((), dtype=torch.float16), gather=torch.Tensor.clone, first=4)
    assert x.own.image is x.rows.image
    assert x.columns.image is x.columns.image
    assert (x.own.image.dtype, x.scale.dtype) == (torch.float32, torch.float32)
    assert (x.rows.first, x.columns.first, x.teacher.columns.first) == (0, 4, 4)
    assert x.columns.image.requires_grad
    assert not x.teacher.rows.image.requires_grad
    assert x.of_rows(x.own.image) is x.own.image


def test_without_local_loss_the_rows_are_those_of_all_ranks():
    x = Batch({"text_features": torch.ones(2, 3)}, torch.ones(()), gather=lambda y: torch.cat([y, y]))
    assert (len(x.own.text), len(x.rows.text)) == (2, 4)
    assert x.rows.text is x.columns.text
    assert len(x.of_rows(x.own.text)) == 4
