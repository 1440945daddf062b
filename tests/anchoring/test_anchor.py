"""The anchor: a frozen copy, and what a model and this copy make of mixed pictures and reference texts."""

from __future__ import annotations

import open_clip
import pytest
import support
import torch

from open_clip_ext.anchoring import anchor, mixing
from open_clip_ext.errors import InputError
from open_clip_ext.model.forward import extend_forward, extension_of
from open_clip_ext.teacher import EMATeacher

B, K, L, R = 3, 2, 16, 2


@pytest.fixture(params=["CLIP", "CustomTextCLIP"])
def clip(request, model):
    torch.manual_seed(0)
    custom = request.param == "CustomTextCLIP"
    return open_clip.create_model(model, output_dict=True, force_custom_text=custom).train()


@pytest.fixture
def tokenize():
    return open_clip.get_tokenizer("ViT-B-32", context_length=L)


@pytest.fixture
def held(clip, tokenize):
    return anchor.Anchor(clip, 2, tokenize([f"word {i}" for i in range(9)]), R)


@pytest.fixture
def batch(tokenize):
    texts = tokenize([f"text {i}" for i in range(B * (1 + K))]).view(B, 1 + K, L)
    return torch.rand(B, 3, 32, 32), texts


NAMES = ("anchor_image_features", "anchor_text_features")
BASE = ("anchor_base_image_features", "anchor_base_text_features")


def test_model_and_base_see_the_same_pictures_and_texts(clip, held, batch):
    extend_forward(clip, {"neg": K}, anchor=held)
    output = clip(*batch)
    assert [output[name].shape for name in NAMES] == [(B, clip_width(output)), (B, R, clip_width(output))]
    for name, base in zip(NAMES, BASE, strict=True):
        torch.testing.assert_close(output[name], output[base])
        assert output[name].requires_grad
        assert not output[base].requires_grad


def clip_width(output):
    return output["image_features"].shape[1]


def test_features_are_those_of_what_was_drawn(clip, held, batch):
    images, _ = batch
    drawn = held.draw(images)
    expected = clip.encode_image(mixing.mix(images, drawn.sources), normalize=True)
    found = held.features(clip, images, drawn)
    torch.testing.assert_close(found["anchor_image_features"], expected)
    alone = torch.stack([clip.encode_text(text[None], normalize=True)[0] for text in drawn.texts])
    torch.testing.assert_close(found["anchor_text_features"].flatten(0, 1), alone)
    assert all(row.tolist() in held.reference.tolist() for row in drawn.texts)


def test_the_base_stays_where_it_was_while_the_model_moves(clip, held, batch):
    before = {name: w.clone() for name, w in held.module.state_dict().items()}
    extend_forward(clip, {"neg": K}, anchor=held)
    with torch.no_grad():
        for weight in clip.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    output = clip(*batch)
    assert not torch.allclose(output[NAMES[0]], output[BASE[0]], atol=1e-3)
    assert not torch.allclose(output[NAMES[1]], output[BASE[1]], atol=1e-3)
    assert all(torch.equal(w, before[name]) for name, w in held.module.state_dict().items())
    assert not any(weight.requires_grad for weight in held.parameters())


def test_both_passes_of_an_accumulated_batch_meet_the_same_draw(clip, held):
    extend_forward(clip, {}, anchor=held)
    batches = [(torch.rand(B, 3, 32, 32), torch.ones(B, L, dtype=torch.int64)) for _ in range(3)]
    with torch.no_grad():
        first = [clip(*batch) for batch in batches]
    for batch, known in zip(batches, first, strict=True):
        again = clip(*batch)
        for name in (*NAMES, *BASE):
            torch.testing.assert_close(again[name], known[name])
    assert not extension_of(clip).kept
    assert not torch.equal(clip(*batches[0])[BASE[1]], first[0][BASE[1]])


@pytest.mark.parametrize(("grid", "texts", "names"), [(2, False, NAMES[:1]), (0, True, NAMES[1:])])
def test_one_anchor_may_come_without_the_other(clip, held, batch, grid, texts, names):
    extend_forward(clip, {"neg": K}, anchor=anchor.Anchor(clip, grid, held.reference if texts else None, R))
    output = clip(*batch)
    assert [name for name in output if name.startswith("anchor_") and "base" not in name] == list(names)


def test_only_the_captions_own_pictures_are_mixed(clip, held, batch):
    """Companion images are made for a purpose, and some do not exist."""
    images, texts = batch
    companions = torch.rand(B, 1, 3, 32, 32)
    companions[1] = torch.nan
    torch.manual_seed(1)
    expected = held.draw(images).features
    extend_forward(clip, {"neg": K}, images={"neg": 1}, anchor=held)
    torch.manual_seed(1)
    output = clip(torch.cat([images[:, None], companions], dim=1), texts)
    torch.testing.assert_close({name: output[name] for name in BASE}, expected)


def test_a_teacher_goes_beside(clip, held, batch):
    extend_forward(clip, {"neg": K}, EMATeacher(clip), anchor=held)
    output = clip(*batch)
    assert {"teacher_image_features", "teacher_neg_text_features", *NAMES, *BASE} <= output.keys()
    assert {t.shape[0] for name, t in output.items() if name.startswith(("anchor_", "teacher_"))} == {B}


def test_batch_norms_see_mixed_pictures_and_those_of_the_base_stay(tmp_path, batch):
    """So the anchor of pictures is not 0 at the start: only the base goes by its statistics."""
    tower = {"layers": [1, 1, 1, 1], "width": 8, "head_width": 32, "image_size": 32}
    resnet = open_clip.create_model(
        support.write_model(tmp_path / "resnet", vision_cfg=tower), output_dict=True
    ).train()
    held = anchor.Anchor(resnet, 2, None, 0)
    extend_forward(resnet, {"neg": K}, anchor=held)
    output = resnet(*batch)
    seen, kept = resnet.visual.bn1, held.module.visual.bn1
    assert (seen.num_batches_tracked, kept.num_batches_tracked) == (2, 0)  # own pictures, and mixed ones
    assert not kept.running_mean.any()
    assert not torch.allclose(output[NAMES[0]], output[BASE[0]], atol=1e-3)


def test_evaluation_draws_nothing(clip, held, batch):
    extend_forward(clip, {"neg": K}, anchor=held)
    state = torch.get_rng_state()
    with torch.no_grad():
        output = clip.eval()(batch[0], batch[1][:, 0])
    assert not any(name.startswith("anchor_") for name in output)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_picture_has_a_pixel_for_each_block(clip, tokenize):
    made = anchor.make(clip, grid=32, each=0, file="", tokenizer=tokenize)
    assert made.draw(torch.rand(B, 3, 32, 32)).sources.shape == (32, 32, B)
    with pytest.raises(
        InputError,
        match=r"^anchor_grid=33: a side of this model's pictures has 32 pixels; give at most as many$",
    ):
        anchor.make(clip, grid=33, each=0, file="", tokenizer=tokenize)


def test_the_log_says_how_many_texts_differ(clip, tokenize, tmp_path, caplog):
    """What the tokenizer cuts off may be all that sets two texts apart."""
    file = tmp_path / "texts.txt"
    file.write_text(f"a fox\nA Fox\n{'word ' * L} at dawn\n{'word ' * L} at dusk\n")
    with caplog.at_level("INFO"):
        anchor.make(clip, grid=0, each=1, file=str(file), tokenizer=tokenize)
    assert caplog.messages[-1] == (
        f"open_clip_ext: anchors hold 4 reference texts of {file}, 2 of them different to the tokenizer"
    )
