"""CoCa: a loss of this package in place of its contrastive term, beside upstream's captioning loss."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import hugging_face
import open_clip
import pytest
import support
import torch
from open_clip.loss import CoCaLoss
from our_losses import RUNS
from support import train, train_here

from open_clip_ext.anchoring.anchor import Anchor
from open_clip_ext.losses import CLIPLoss
from open_clip_ext.model.forward import extend_forward
from open_clip_ext.training.captioning import add_captioning

pytest.importorskip("transformers")
pytestmark = pytest.mark.skipif(support.TASKS, reason="refused on the task API")

L = 16
ANCHORS = ("text_anchor=1", "image_anchor=1", "similarity_anchor=1")
SGD = ("--opt", "timm/momentum", "--momentum", 0, "--wd", 0, "--lr", 0.1, "--aug-cfg", "scale=(1.0,1.0)")


def write_coca(folder: Path) -> str:
    """A tiny one, whose words are few; upstream knows it by its name."""
    tokenizer = hugging_face.bert({})[1]
    vision = support.MODEL["model_cfg"]["vision_cfg"] | {"attentional_pool": True, "attn_pooler_heads": 2}
    text = {"context_length": L, "vocab_size": len(tokenizer), "width": 32, "heads": 2, "layers": 1}
    named = {"hf_tokenizer_name": "beside the model", "embed_cls": True, "output_tokens": True}
    model = support.write_model(
        folder / "coca",
        custom_text=True,
        vision_cfg=vision | {"output_tokens": True},
        text_cfg=text | named,
        multimodal_cfg=text | {"attn_pooler_heads": 2},
    )
    tokenizer.save_pretrained(folder / "coca")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = open_clip.create_model(model)
        # Upstream leaves it as the memory was.
        torch.nn.init.normal_(made.text_decoder.text_projection, std=0.1)
        torch.save(made.state_dict(), folder / "coca" / "open_clip_pytorch_model.bin")
    return model


@pytest.fixture(scope="module")
def coca(tmp_path_factory) -> str:
    return write_coca(tmp_path_factory.mktemp("model"))


def create(tmp_path):
    return open_clip.create_model(write_coca(tmp_path), output_dict=True).double()


def batch(companions=0):
    draw = torch.Generator().manual_seed(0)
    image = torch.rand(4, 3, 32, 32, generator=draw, dtype=torch.float64)
    texts = torch.randint(1, 49, (4, 1 + companions, L), generator=draw)
    texts[:, :, 9], texts[:, :, 10:] = 49, 0
    return image, texts


def test_without_negatives_it_is_upstream_s_loss_and_every_gradient(tmp_path):
    ours = create(tmp_path)
    stock = copy.deepcopy(ours)
    image, texts = batch()
    loss = CLIPLoss()
    add_captioning(loss, 2.0, 0.5)
    extend_forward(ours, {})
    terms = loss(**ours(image, texts[:, 0]), output_dict=True)
    expected = CoCaLoss(2.0, 0.5)(**stock(image, texts[:, 0]), output_dict=True)
    torch.testing.assert_close(terms["contrastive_loss"], expected["contrastive_loss"])
    torch.testing.assert_close(terms["captioning_loss"], expected["caption_loss"])
    for of in (terms, expected):
        sum(of.values()).backward()
    for (name, mine), theirs in zip(ours.named_parameters(), stock.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, msg=name)


def test_captions_are_decoded_and_companions_are_not(tmp_path):
    clip = create(tmp_path)
    stock = copy.deepcopy(clip)
    image, texts = batch(companions=3)
    texts[1, 2] = 0
    images = torch.stack([image, image.flip(-1)], 1)
    images[2, 1] = math.nan
    extend_forward(clip, {"neg": 2, "pos": 1}, images={"neg": 1})
    found = clip(images, texts)
    expected = stock(image, texts[:, 0])
    assert found["logits"].shape[:2] == (4, L - 1)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor)
    assert found["neg_valid"].tolist() == [[True, True], [True, False], [True, True], [True, True]]
    features = stock.encode_text(texts[:, 1:].flatten(0, 1), normalize=True).view(4, 3, -1)
    features[1, 1] = 0
    torch.testing.assert_close(found["neg_text_features"], features[:, :2])
    torch.testing.assert_close(found["pos_text_features"], features[:, 2:])
    seen = stock.encode_image(image.flip(-1), normalize=True)
    seen[2] = 0
    torch.testing.assert_close(found["neg_image_features"][:, 0], seen)


@pytest.mark.parametrize("companions", [0, 2])
def test_an_anchor_holds_its_encoders(tmp_path, companions):
    """Mixed pictures and reference texts are not decoded."""
    clip = create(tmp_path)
    held = Anchor(clip, 2, batch(companions=3)[1].flatten(0, 1), 1)
    extend_forward(clip, {"neg": companions} if companions else {}, anchor=held)
    image, texts = batch(companions)
    found = clip(image, texts if companions else texts[:, 0])
    assert found["logits"].shape[:2] == (4, L - 1)
    for name, shape in (("image_features", (4, 32)), ("text_features", (4, 1, 32))):
        mine, base = found[f"anchor_{name}"], found[f"anchor_base_{name}"]
        torch.testing.assert_close(mine.float(), base.float(), rtol=1e-4, atol=1e-5)  # the base is fp32
        assert mine.shape == shape
        assert (mine.requires_grad, base.requires_grad) == (True, False)


def test_anchors_train_beside_the_captioning_loss(tmp_path, coca, csv_data, reference_texts):
    run = train_here(tmp_path, *flags(coca, csv_data, RUNS["clip"]), "--loss-cfg", *reference_texts, *ANCHORS)
    assert run.values("image_anchor_loss")[-1] > 0
    assert run.values("similarity_anchor_loss")[-1] > 0
    assert all(math.isfinite(value) for value in run.values("captioning_loss"))


def flags(model, data, loss) -> list[object]:
    return ["--model", model, "--train-data", data, "--csv-separator", ",", *loss]


def test_training_with_clip_is_upstream_s(tmp_path, coca):
    data = support.write_csv(tmp_path / "data", support.photos(16, seed=1))
    common = [*flags(coca, data, ()), *SGD, "--batch-size", 16, "--epochs", 3]
    common += ["--coca-caption-loss-weight", 0.5, "--coca-contrastive-loss-weight", 2]
    ours, stock = train_here(tmp_path, *common, "--loss", "clip", name="ours"), train_here(tmp_path, *common)
    for mine, theirs in (("contrastive_loss", "contrastive_loss"), ("captioning_loss", "caption_loss")):
        assert ours.values(mine) == pytest.approx(stock.values(theirs), rel=1e-4)
    weights = stock.checkpoint("epoch_3.pt")["state_dict"]
    for name, tensor in ours.checkpoint("epoch_3.pt")["state_dict"].items():
        torch.testing.assert_close(tensor, weights[name], rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("name", ["degla", "omni-neg", "negclip with images", "clic", "dac"])
def test_losses_with_all_kinds_of_companions_train_it(tmp_path, coca, every_kind, name):
    run = train_here(tmp_path, *flags(coca, every_kind, RUNS[name]))
    for term in ("loss", "captioning_loss"):
        assert len(run.values(term)) == 4
        assert all(math.isfinite(value) for value in run.values(term))
    assert "texts stay at full length" in run.output


def test_dense_tokens_are_refused(tmp_path, coca, every_kind, capsys):
    with pytest.raises(SystemExit) as stopped:
        train_here(tmp_path, *flags(coca, every_kind, RUNS["fsc-clip"]))
    assert stopped.value.code == 2
    assert "this model gives no dense tokens: CoCa is not known to" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--lock-image", "--lock-text"])
def test_a_locked_tower_is_refused(tmp_path, coca, csv_data, capsys, option):
    with pytest.raises(SystemExit) as stopped:
        train_here(tmp_path, *flags(coca, csv_data, RUNS["negclip"]), option)
    assert stopped.value.code == 2
    assert f"{option}: upstream's CoCa cannot lock a tower; leave it out" in capsys.readouterr().err


@pytest.mark.trainer
def test_two_processes_and_parts_of_a_batch_equal_one(tmp_path, coca):
    data = support.write_csv(tmp_path / "data", support.photos(16, seed=1))
    common = [*flags(coca, data, RUNS["degla"]), *SGD]
    one = train_here(tmp_path, *common, "--batch-size", 16, "--epochs", 2, name="one")
    distributed = ("--local-loss", "--gather-with-grad", "--epochs", 2)
    two = train(tmp_path, *common, *distributed, name="two", processes=2)
    assert two.status == 0, two.output
    theirs = {k.removeprefix("module."): v for k, v in two.checkpoint("epoch_2.pt")["state_dict"].items()}
    for name, tensor in one.checkpoint("epoch_2.pt")["state_dict"].items():
        torch.testing.assert_close(theirs[name], tensor, rtol=1e-4, atol=2e-6)
    parts = train_here(tmp_path, *common, "--accum-freq", 2, name="parts")
    assert parts.values("loss") == pytest.approx(one.values("loss")[:1], rel=1e-3, abs=2e-4)


def test_a_resumed_run_is_the_unstopped_one(tmp_path, coca, csv_data):
    common = [*flags(coca, csv_data, RUNS["degla"]), "--epochs", 2, "--save-frequency", 1]
    whole = train_here(tmp_path, *common, name="whole")
    first = whole.folder / "checkpoints" / "epoch_1.pt"
    again = train_here(tmp_path, *common, "--resume", first, name="again")
    states = [run.checkpoint("epoch_2.pt") for run in (again, whole)]
    support.assert_same(*[state["state_dict"] for state in states])
    support.assert_same(*[state["optimizer"] for state in states])
