"""Dense tokens of both towers: those that upstream pools, at the real length of each text."""

from __future__ import annotations

import copy

import open_clip
import pytest
import support
import torch
import torch.nn.functional as F
from support import train_here

from open_clip_ext.errors import InputError
from open_clip_ext.model.dense import DenseTokens
from open_clip_ext.model.forward import extend_forward
from open_clip_ext.model.text_trimming import trim

K, L, END = 2, 40, 49407
VISION, TEXT = (support.MODEL["model_cfg"][tower] for tower in ("vision_cfg", "text_cfg"))
TEXT = {**TEXT, "context_length": L}


@pytest.fixture(params=["CLIP", "CustomTextCLIP"])
def custom(request):
    return request.param == "CustomTextCLIP"


def create(folder, custom=False, vision=None, text=None):
    torch.manual_seed(0)
    cfg = {"vision_cfg": {**VISION, **(vision or {})}, "text_cfg": {**TEXT, **(text or {})}}
    name = support.write_model(folder / "model", **cfg)
    return open_clip.create_model(name, output_dict=True, force_custom_text=custom).double().train()


def batch(lengths=((5, 11, 3), (7, 0, 9), (12, 4, 6))):
    """Images, and texts of these numbers of tokens: a caption and its companions."""
    draw = torch.Generator().manual_seed(0)
    texts = torch.randint(1, END, (3, 1 + K, L), generator=draw)
    for row, length in zip(texts.flatten(0, 1), torch.tensor(lengths).flatten(), strict=True):
        row[length:] = 0
        row[length - 1 : length] = END
    return torch.rand(3, 3, 32, 32, generator=draw, dtype=torch.float64), texts


def extended(clip, trimmed=True, **dense):
    if trimmed:
        assert trim(clip) is None
    extend_forward(clip, {"neg": K}, dense=DenseTokens(clip, **dense))
    return clip


def tower_outputs(clip, image, text):
    """What the last layers before pooling give for one image or text, by hooks, projected."""
    seen, tower = [], clip.visual if image is not None else getattr(clip, "text", clip)
    norm = tower.ln_post if image is not None else tower.ln_final
    hook = norm.register_forward_hook(lambda *args: seen.append(args[-1]))
    clip.encode_text(text) if image is None else clip.encode_image(image)
    hook.remove()
    projection = tower.proj if image is not None else tower.text_projection
    if isinstance(projection, torch.nn.Linear):
        return projection(seen[0])[0]
    return seen[0][0] if projection is None else (seen[0] @ projection)[0]


@pytest.mark.parametrize("trimmed", [True, False])
@pytest.mark.parametrize(
    ("vision", "text"),
    [
        ({}, {}),
        ({"pool_type": "avg"}, {"pool_type": "eos", "eos_id": END}),
        ({}, {"proj_bias": True}),
        ({}, {"proj_type": "none"}),
    ],
    ids=str,
)
def test_tokens_are_what_the_towers_pool(tmp_path, custom, trimmed, vision, text):
    clip = create(tmp_path, custom, vision, text)
    stock = copy.deepcopy(clip)
    image, texts = batch()
    output = extended(clip, trimmed)(image, texts)
    assert output["image_tokens"].shape == (3, 16, 32)
    for i in range(3):
        expected = tower_outputs(stock, image[i : i + 1], None)[1:]
        torch.testing.assert_close(output["image_tokens"][i], expected)
        for k in range(1 + K):
            name, at = ("text", (i,)) if k == 0 else ("neg_text", (i, k - 1))
            mask = output[f"{name}_token_mask"][at]
            assert mask.sum() == (texts[i, k] > 0).sum()
            if mask.any():
                expected = tower_outputs(stock, None, texts[i, k][None])[: mask.sum()]
                torch.testing.assert_close(output[f"{name}_tokens"][at][mask], expected)
                pooled = output[f"{name}_features"][at]
                torch.testing.assert_close(pooled, F.normalize(expected[-1], dim=-1))
    assert output["text_tokens"].shape[1] == (12 if trimmed else L)


def test_features_and_gradients_stay_those_of_the_model(tmp_path, custom):
    clip = create(tmp_path, custom)
    stock = copy.deepcopy(clip)
    extend_forward(stock, {"neg": K})
    expected, output = stock(*batch()), extended(clip)(*batch())
    for name, value in expected.items():
        torch.testing.assert_close(output[name], value)
    for found in (expected, output):
        sum(value.sum() for name, value in found.items() if name in expected).backward()
    for mine, theirs in zip(clip.parameters(), stock.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_evaluation_and_the_towers_stay_stock(tmp_path, custom):
    clip = create(tmp_path, custom)
    stock = copy.deepcopy(clip).eval()
    image, texts = batch()
    extended(clip)(image, texts)
    assert {name for name in clip.eval()(image, texts) if "token" in name} == set()
    expected, output = stock(image, texts[:, 0]), clip(image, texts[:, 0])
    assert expected.keys() == output.keys()
    assert all(torch.equal(output[name], value) for name, value in expected.items())


def test_the_towers_pool_again_after_an_error(tmp_path):
    clip = extended(create(tmp_path))
    with pytest.raises(RuntimeError):
        clip(torch.rand(3, 3, 16, 16, dtype=torch.float64), batch()[1])
    assert clip.encode_image(batch()[0]).shape == (3, 32)
    assert clip.encode_text(batch()[1][:, 0]).shape == (3, 32)


def test_batches_that_are_put_together_have_texts_of_one_width(tmp_path):
    clip = create(tmp_path)
    image, texts = batch()
    free = extended(copy.deepcopy(clip))(image, texts)
    fixed = extended(clip, same_width=True)(image, texts)
    for name in ("text", "neg_text"):
        tokens, mask = fixed[f"{name}_tokens"], fixed[f"{name}_token_mask"]
        assert tokens.shape[-2] == mask.shape[-1] == L
        assert not mask[..., 12:].any()
        assert torch.equal(tokens[..., :12, :], free[f"{name}_tokens"])
    with torch.no_grad():
        assert all(x.shape[0] == 3 for name, x in clip(image, texts).items() if name != "logit_scale")


def test_dropped_patches_give_no_tokens_and_checkpointed_blocks_the_same(tmp_path):
    clip = extended(create(tmp_path, vision={"patch_dropout": 0.5}))
    assert clip(*batch())["image_tokens"].shape == (3, 8, 32)
    clip = create(tmp_path)
    again = copy.deepcopy(clip)
    again.set_grad_checkpointing()
    gradients = []
    for model in (clip, again):
        tokens = extended(model)(*batch())
        (tokens["image_tokens"].sum() + tokens["neg_text_tokens"].sum()).backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(*gradients)


def test_compiled_they_are_the_same(tmp_path):
    clip = extended(create(tmp_path))
    torch._dynamo.reset()
    compiled = torch.compile(clip, backend="eager")
    for lengths in (((5, 11, 3), (7, 0, 9), (12, 4, 6)), ((2, 40, 3), (1, 0, 0), (30, 9, 6))):
        torch.testing.assert_close(compiled(*batch(lengths)), clip(*batch(lengths)))


@pytest.mark.trainer
@pytest.mark.parametrize(
    ("extra", "stated"),
    [
        (("--precision", "amp_bf16"), "images [8, 16, 32] 0.0 MiB, texts [8, 4, 16, 32] at most 0.0 MiB"),
        (
            ("--grad-checkpointing", "--accum-freq", 2, "--force-patch-dropout", 0.5),
            "images [16, 8, 32] 0.0 MiB, texts [16, 4, 16, 32] 0.1 MiB",
        ),
        (("--pad-text", "--precision", "bf16", "--lock-image"), "texts [8, 4, 16, 32] 0.0 MiB"),
        (("--lock-text", "--lock-text-freeze-layer-norm", "--force-custom-text"), "at most 0.1 MiB"),
    ],
    ids=lambda x: "" if isinstance(x, str) else " ".join(map(str, x)).replace("--", ""),
)
def test_upstreams_options_work_and_the_memory_is_stated(tmp_path, model, csv_data, extra, stated):
    flags = ["--model", model, "--train-data", csv_data, "--csv-separator", ",", "--val-data", csv_data]
    run = train_here(tmp_path, *flags, "--loss", "fsc-clip", *extra)
    assert run.output.count("open_clip_ext: dense tokens of a batch: ") == 1
    assert stated in run.output
    assert all(0 < value < 10 for value in run.values("local_scr_loss"))
    assert "image_to_text_R@1:" in run.output


@pytest.mark.trainer
def test_nothing_is_said_where_no_loss_asks(tmp_path, model, csv_data):
    flags = ["--model", model, "--train-data", csv_data, "--csv-separator", ",", "--loss", "fsc-clip"]
    assert "dense" not in train_here(tmp_path, *flags, "--loss-cfg", "local_weight=0").output


def test_captions_alone_have_tokens_too(tmp_path):
    clip = create(tmp_path)
    extend_forward(clip, {}, dense=DenseTokens(clip))
    image, texts = batch()
    assert clip(image, texts[:, 0])["text_tokens"].shape == (3, L, 32)


@pytest.mark.parametrize(
    ("vision", "text", "reason"),
    [
        (
            {"layers": [1, 1, 1, 1], "patch_size": None, "head_width": 8},
            {},
            "its image tower ModifiedResNet has none, or not in the space of its features",
        ),
        (
            {"attentional_pool": True, "attn_pooler_heads": 2},
            {},
            "its image tower pools by attention, so its patches are not in the space of its features",
        ),
        (
            {"final_ln_after_pool": True},
            {},
            "its image tower normalizes after it has pooled, or does not pool",
        ),
        ({}, {"embed_cls": True}, "its text tower has a class token"),
        (
            {},
            {"pool_type": "last"},
            "its text tower pools the token 'last', which does not tell how long a text is",
        ),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_a_tower_without_such_tokens_is_told(tmp_path, vision, text, reason):
    clip = create(tmp_path, custom=bool(text), vision=vision, text=text)
    with pytest.raises(InputError) as refused:
        DenseTokens(clip)
    assert str(refused.value) == f"this model gives no dense tokens: {reason}"


def test_other_text_towers_are_told(tmp_path):
    clip = create(tmp_path, custom=True)
    clip.text = torch.nn.Linear(1, 1)
    with pytest.raises(InputError, match="its text tower Linear has none in the space of its features"):
        DenseTokens(clip)
    with pytest.raises(InputError, match="Linear is not known to"):
        DenseTokens(clip.text)


def test_siglip_s_own_towers_are_told():
    config = open_clip.get_model_config("ViT-B-16-SigLIP2")
    del config["custom_text"]
    with torch.device("meta"):  # its parameters take no memory
        siglip = open_clip.CustomTextCLIP(**config)
    with pytest.raises(InputError, match="its image tower pools by attention, so its patches are not in"):
        DenseTokens(siglip)
    assert trim(siglip) == "it has no causal mask"
