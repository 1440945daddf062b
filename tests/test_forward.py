"""The armed model and its teacher."""

from __future__ import annotations

import copy

import open_clip
import pytest
import torch

from open_clip_ext.errors import InputError
from open_clip_ext.model.dense import DenseTokens
from open_clip_ext.model.forward import extend_forward, extension_of, unwrap
from open_clip_ext.teacher import EMATeacher

B, K, L = 3, 2, 16


@pytest.fixture(params=["CLIP", "CustomTextCLIP"])
def clip(request, model):
    torch.manual_seed(0)
    return open_clip.create_model(
        model, output_dict=True, force_custom_text=request.param == "CustomTextCLIP"
    )


@pytest.fixture
def batch():
    tokenize = open_clip.get_tokenizer("ViT-B-32", context_length=L)
    texts = tokenize([f"text {i}" for i in range(B * (1 + K))]).view(B, 1 + K, L).clone()
    texts[1, 2] = 0
    return torch.rand(B, 3, 32, 32), texts


def test_features_are_those_of_each_text_by_itself(clip, batch):
    image, texts = batch
    stock = copy.deepcopy(clip)
    extend_forward(clip, {"neg": K})
    output = clip(image, texts)
    plain = stock(image, texts[:, 0])
    assert torch.equal(output["image_features"], plain["image_features"])
    torch.testing.assert_close(output["text_features"], plain["text_features"])
    for b in range(B):
        for k in range(K):
            alone = stock.encode_text(texts[b, 1 + k][None], normalize=True)[0]
            expected = torch.zeros_like(alone) if (b, k) == (1, 1) else alone
            torch.testing.assert_close(output["neg_text_features"][b, k], expected)
    assert output["neg_valid"].tolist() == [[True, True], [True, False], [True, True]]


def test_every_output_but_the_scale_has_the_batch_as_first_axis(clip, batch):
    extend_forward(clip, {"neg": K}, EMATeacher(clip))
    output = clip.train()(*batch)
    assert {n: v.shape[0] for n, v in output.items() if n != "logit_scale"} == dict.fromkeys(
        [
            "image_features",
            "text_features",
            "neg_text_features",
            "neg_valid",
            "teacher_image_features",
            "teacher_text_features",
            "teacher_neg_text_features",
        ],
        B,
    )


@pytest.mark.parametrize("shape", [(), (7,), (7, B)])
def test_under_accumulation_an_output_without_the_batch_as_first_axis_is_refused(clip, batch, shape):
    class Extra(type(clip)):
        def forward(self, image, text):
            return super().forward(image, text) | {"aux": torch.zeros(shape)}

    clip.__class__ = Extra
    extend_forward(clip, {"neg": K})
    clip.train()
    assert clip(*batch)["aux"].shape == shape  # nothing is put together
    with pytest.raises(InputError) as refused, torch.no_grad():
        clip(*batch)
    assert str(refused.value) == (
        f"the model's output aux has shape {shape}, and batches are put together along a first axis of {B} "
        "samples under --accum-freq; leave that out"
    )
    with torch.no_grad():
        clip.eval()(*batch)


def test_a_missing_text_gets_no_gradient_even_where_the_tower_would_fail(batch, model):
    """Masked mean pooling divides by the number of tokens: a row of zeros would be 0/0."""
    image, texts = batch
    clip = open_clip.create_model(model, output_dict=True)

    def mean_pooled(text, normalize=False):
        mask = (text != 0).float()[..., None]
        pooled = (clip.token_embedding(text) * mask).sum(1) / mask.sum(1)
        return torch.nn.functional.normalize(pooled @ clip.text_projection, dim=-1)

    clip.encode_text = mean_pooled
    extend_forward(clip, {"neg": K})
    clip(image, texts)["neg_text_features"].sum().backward()
    assert clip.token_embedding.weight.grad.isfinite().all()


@pytest.fixture
def pictures(batch):
    """An image with three companions each; some are missing, of the last sample all."""
    images = torch.rand(B, 4, 3, 32, 32)
    images[0, 2] = images[2, 1:] = torch.nan
    return images, [[True, False, True], [True, True, True], [False, False, False]]


@pytest.mark.parametrize("texts", ["companion texts", "captions alone"])
def test_image_features_are_those_of_each_image_by_itself(clip, batch, pictures, texts):
    images, exist = pictures
    _, text = batch
    text, companions = (text, {"neg": K}) if texts == "companion texts" else (text[:, 0], {})
    stock = copy.deepcopy(clip)
    seen = []
    clip.visual.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    extend_forward(clip, companions, images={"neg": 2, "hard": 1})
    output = clip(images, text)
    assert seen == [B + 5]  # what is missing costs nothing
    plain = stock.encode_image(images[:, 0], normalize=True)
    torch.testing.assert_close(output["image_features"], plain)
    features = torch.cat([output["neg_image_features"], output["hard_image_features"]], dim=1)
    valid = torch.cat([output["neg_image_valid"], output["hard_image_valid"]], dim=1)
    assert valid.tolist() == exist
    for b in range(B):
        for m in range(3):
            alone = stock.encode_image(images[b, 1 + m][None], normalize=True)[0]
            expected = alone if exist[b][m] else torch.zeros_like(alone)
            torch.testing.assert_close(features[b, m], expected)
    assert ("neg_text_features" in output) == bool(companions)


def test_dense_tokens_are_those_of_the_captions_images(clip, batch, pictures):
    images, _ = pictures
    dense = DenseTokens(clip)
    extend_forward(clip, {"neg": K}, dense=dense, images={"neg": 3})
    clip.train()
    tokens = clip(images, batch[1])["image_tokens"]
    torch.testing.assert_close(tokens, clip(images[:, 0], batch[1])["image_tokens"])


def test_a_missing_image_gets_no_gradient(clip, batch, pictures):
    images, _ = pictures
    extend_forward(clip, {"neg": K}, images={"neg": 3})
    clip(images, batch[1])["neg_image_features"].square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in clip.parameters())
    assert clip.visual.proj.grad.abs().sum() > 0


def test_a_picture_of_zeros_exists(clip, batch):
    """After a transform with mean 0, black is."""
    extend_forward(clip, {"neg": K}, images={"neg": 1})
    assert clip(torch.zeros(B, 2, 3, 32, 32), batch[1])["neg_image_valid"].all()


def test_the_teacher_sees_companion_images(clip, batch, pictures):
    images, _ = pictures
    teacher = EMATeacher(clip)
    extend_forward(clip, {"neg": K}, teacher, images={"neg": 3})
    clip.train()
    output = clip(images, batch[1])
    for name in ("image_features", "neg_image_features", "text_features", "neg_text_features"):
        torch.testing.assert_close(output[f"teacher_{name}"], output[name].detach())
    with torch.no_grad():
        kept = clip(images, batch[1])["teacher_neg_image_features"]
    assert clip(images, batch[1])["teacher_neg_image_features"].data_ptr() != 0
    torch.testing.assert_close(kept, output["neg_image_features"].detach())
    assert not extension_of(clip).kept


def test_kinds_of_companions_are_named_by_the_loss_alone(clip, batch):
    extend_forward(clip, {"pos": 1, "phrase": 1})
    output = clip(*batch)
    assert output["pos_text_features"].shape[:2] == output["phrase_text_features"].shape[:2] == (B, 1)
    assert output["phrase_valid"].tolist() == [[True], [False], [True]]


def test_evaluation_takes_the_stock_way(clip, batch):
    image, texts = batch
    stock = copy.deepcopy(clip).eval()
    extend_forward(clip, {"neg": K}, EMATeacher(clip))
    expected, output = stock(image, texts[:, 0]), clip.eval()(image, texts[:, 0])
    assert expected.keys() == output.keys()
    assert all(torch.equal(expected[name], output[name]) for name in expected)


def test_the_model_stays_what_it_was(clip):
    before = copy.deepcopy(clip)
    extend_forward(clip, {"neg": K}, EMATeacher(clip))
    assert isinstance(clip, type(before))
    assert (type(clip).__name__, type(clip).__module__) == (
        type(before).__name__,
        type(before).__module__,
    )
    assert clip.state_dict().keys() == before.state_dict().keys()
    assert [n for n, _ in clip.named_modules()] == [n for n, _ in before.named_modules()]


def test_the_teacher_runs_once_per_micro_batch_under_accumulation(clip):
    teacher = EMATeacher(clip)
    calls = []
    teacher.register_forward_hook(lambda *_: calls.append(1))
    extend_forward(clip, {"neg": K}, teacher)
    clip.train()
    tokens = torch.randint(1, 100, (2, B, 1 + K, L))
    images = torch.rand(2, B, 3, 32, 32)
    micro = [(images[i], tokens[i]) for i in range(2)]
    with torch.no_grad():
        first = [clip(*m)["teacher_text_features"] for m in micro]
    second = [clip(*m)["teacher_text_features"] for m in micro]
    assert len(calls) == 2
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not extension_of(clip).kept


def test_what_a_cut_off_group_left_is_never_used_for_another_batch(clip):
    extend_forward(clip, {"neg": K}, EMATeacher(clip))
    clip.train()
    a, b = torch.rand(2, B, 3, 32, 32).unbind()
    tokens = torch.randint(1, 100, (B, 1 + K, L))
    with torch.no_grad():
        clip(a, tokens)
        expected = clip(b, tokens)["teacher_image_features"]
    assert torch.equal(clip(b, tokens)["teacher_image_features"], expected)


def loop_average(teacher, student, decay):
    return {n: decay * teacher[n] + (1 - decay) * student[n] for n in teacher}


def test_the_teacher_is_the_moving_average_of_the_student(clip):
    teacher = EMATeacher(clip, decay=0.9)
    expected = {n: p.clone() for n, p in teacher.module.named_parameters()}
    for _ in range(3):
        with torch.no_grad():
            for p in clip.parameters():
                p.add_(torch.randn_like(p))
        expected = loop_average(expected, dict(clip.named_parameters()), 0.9)
        places = [p.data_ptr() for p in teacher.module.parameters()]
        teacher.update(clip)
        assert places == [p.data_ptr() for p in teacher.module.parameters()]  # in place
    for name, p in teacher.module.named_parameters():
        torch.testing.assert_close(p, expected[name])
        assert not p.requires_grad


def test_buffers_are_copied():
    student = torch.nn.BatchNorm1d(2)
    teacher = EMATeacher(student)
    student(torch.randn(8, 2))
    teacher.update(student)
    assert torch.equal(teacher.module.running_mean, student.running_mean)
    assert teacher.module.num_batches_tracked == 1


def test_a_bf16_student_has_an_fp32_teacher_that_moves(model):
    clip = open_clip.create_model(model, output_dict=True, precision="pure_bf16")
    teacher = EMATeacher(clip, decay=0.9996)
    before = {n: p.clone() for n, p in teacher.module.named_parameters()}
    with torch.no_grad():
        for p in clip.parameters():
            p.add_(0.1)
    teacher.update(clip)
    for name, p in teacher.module.named_parameters():
        assert p.dtype == torch.float32
        assert (p != before[name]).all()


def test_the_teacher_stays_in_evaluation_mode(clip):
    teacher = EMATeacher(clip)
    teacher.train()
    assert not any(m.training for m in teacher.module.modules())


def test_unwrap_finds_the_model_under_a_compiler(clip):
    assert unwrap(torch.compile(clip)) is clip
