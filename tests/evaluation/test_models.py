"""Loading: what was trained is what is scored, and what cannot be known stops with the flag to give."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest
import support
import torch
from support import train_here

from open_clip_ext.errors import InputError
from open_clip_ext.evaluation import models
from open_clip_ext.evaluation import weights as weight_files
from open_clip_ext.evaluation.encode import Encoder, weights_digest
from open_clip_ext.evaluation.items import Picture

TEXTS = ["a red square", "a blue circle left of a green triangle"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, model, csv_data) -> Path:
    """The run of a model that was trained with QuickGELU, which its own config does not say."""
    flags = ["--model", model, "--force-quick-gelu", "--train-data", csv_data, "--csv-separator", ","]
    more = ["--image-mean", 0.5, 0.5, 0.5, "--image-interpolation", "bilinear"]
    return train_here(tmp_path_factory.mktemp("trained"), *flags, *more, "--loss", "negclip").folder


@pytest.fixture
def weights(tmp_path, model) -> Path:
    """A checkpoint with nothing beside it."""
    torch.manual_seed(0)
    path = tmp_path / "weights.pt"
    torch.save({"state_dict": open_clip.create_model(model).state_dict()}, path)
    return path


def texts(loaded: models.Loaded) -> torch.Tensor:
    return Encoder(loaded.model, loaded.preprocess, loaded.tokenizer).texts(TEXTS)


def test_a_trainer_s_checkpoint_needs_no_other_flag(trained):
    checkpoint = trained / "checkpoints" / "epoch_1.pt"
    loaded = models.load(None, str(checkpoint))
    assert loaded.record["activation"] == "QuickGELU"
    assert loaded.record["preprocess"]["mean"] == [0.5, 0.5, 0.5]
    assert loaded.record["preprocess"]["interpolation"] == "bilinear"
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    stock = open_clip.CLIP(**support.MODEL["model_cfg"], quick_gelu=True).eval()
    stock.load_state_dict(state)
    tokens = open_clip.tokenize(TEXTS, context_length=16)
    with torch.inference_mode():
        torch.testing.assert_close(texts(loaded), stock.encode_text(tokens, normalize=True))


def test_a_bias_that_the_flag_siglip_added_is_loaded(tmp_path, model, csv_data):
    flags = ["--model", model, "--train-data", csv_data, "--csv-separator", ",", "--loss", "negclip"]
    checkpoint = train_here(tmp_path, *flags, "--siglip").folder / "checkpoints" / "epoch_1.pt"
    bias = torch.load(checkpoint, weights_only=True)["state_dict"]["logit_bias"]
    loaded = models.load(None, str(checkpoint), device="cpu")
    assert torch.equal(loaded.model.logit_bias, bias)
    mixed = tmp_path / "mixed.pt"
    weight_files.save(mixed, loaded.model.state_dict(), models.origin(loaded))
    assert torch.equal(models.load(None, str(mixed), device="cpu").model.logit_bias, bias)


def test_another_activation_gives_other_features(trained):
    checkpoint = str(trained / "checkpoints" / "epoch_1.pt")
    as_trained, other = models.load(None, checkpoint), models.load(None, checkpoint, activation="gelu")
    assert other.record["activation"] == "GELU"
    assert not torch.allclose(texts(as_trained), texts(other), atol=1e-5)


def test_a_checkpoint_in_a_folder_model_is_loaded_where_upstream_would_pass_over_it(tmp_path, model, weights):
    """open_clip ignores `pretrained` beside local-dir: and would score the folder's own weights."""
    folder = tmp_path / "folder"
    support.write_model(folder)
    torch.manual_seed(1)
    own = open_clip.create_model(f"local-dir:{folder}").state_dict()
    torch.save(own, folder / "open_clip_pytorch_model.bin")
    alone = models.load(f"local-dir:{folder}")
    loaded = models.load(f"local-dir:{folder}", str(weights))
    expected = torch.load(weights, weights_only=True)["state_dict"]
    for record, state in ((alone, own), (loaded, expected)):
        assert all(torch.equal(v, state[k]) for k, v in record.model.state_dict().items())


@pytest.mark.parametrize("where", ["a file", "the folder of the model"])
def test_a_checkpoint_in_another_layout_is_loaded(tmp_path, model, weights, where):
    state = torch.load(weights, weights_only=True)["state_dict"]
    other = {"model_state_dict": {f"module._orig_mod.{key}": value for key, value in state.items()}}
    if where == "a file":
        torch.save(other, tmp_path / "other.pt")
        loaded = models.load(model, str(tmp_path / "other.pt"))
    else:
        name = support.write_model(tmp_path / "folder")
        torch.save(other, tmp_path / "folder" / "model.pth")
        loaded = models.load(name)
    assert all(torch.equal(value, state[key]) for key, value in loaded.model.state_dict().items())


def test_the_record_says_what_numbers_depend_on(model, weights):
    record = models.load(model, str(weights), precision="amp_bf16").record
    assert json.loads(json.dumps(record))["preprocess"]["size"] == [32, 32]
    assert record["sha256"] == models.load(model, str(weights)).record["sha256"]
    assert record["precision"] == "amp_bf16"
    assert record["config"]["embed_dim"] == 32
    assert record["config"]["quick_gelu"] is False
    assert record["texts"] == "at their real length"


@pytest.mark.parametrize("precision", models.PRECISIONS)
def test_every_precision_gives_fp32_features_that_are_close(model, weights, pictures, precision):
    loaded = models.load(model, str(weights), precision=precision)
    encoder = Encoder(loaded.model, loaded.preprocess, loaded.tokenizer, precision=precision)
    exact = models.load(model, str(weights))
    for found, expected in (
        (encoder.texts(TEXTS), texts(exact)),
        (
            encoder.pictures([Picture(pictures[0])]),
            Encoder(exact.model, exact.preprocess, exact.tokenizer).pictures([Picture(pictures[0])]),
        ),
    ):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, atol=0.02, rtol=0)


def test_texts_of_a_hugging_face_tower_are_as_long_as_in_training(tmp_path):
    """Its `context_length` is the 512 tokens that it could take."""
    transformers = pytest.importorskip("transformers")
    bert = tmp_path / "bert"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "square"]
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.BertConfig(vocab_size=len(words), **small)
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(bert)
    (bert / "vocab.txt").write_text("\n".join(words))
    text = {"hf_model_name": str(bert), "hf_tokenizer_name": "beside it", "hf_pooler_type": "mean_pooler"}
    model = support.write_model(tmp_path / "m", text_cfg=text | {"hf_proj_type": "linear"})
    transformers.BertTokenizer(str(bert / "vocab.txt")).save_pretrained(tmp_path / "m")
    path = tmp_path / "weights.pt"
    torch.save({"state_dict": open_clip.create_model(model).state_dict()}, path)
    loaded = models.load(model, str(path), activation="gelu")
    assert loaded.model.context_length == 512
    assert loaded.tokenizer(TEXTS).shape == open_clip.get_tokenizer(model)(TEXTS).shape == (2, 77)


def test_a_context_length_that_training_forced_is_that_of_the_texts(tmp_path, model, csv_data):
    flags = ["--model", model, "--train-data", csv_data, "--csv-separator", ",", "--loss", "clip"]
    run = train_here(tmp_path, *flags, "--force-context-length", 12)
    loaded = models.load(None, str(run.folder / "checkpoints" / "epoch_1.pt"))
    assert loaded.tokenizer(TEXTS).shape == (2, 12)


def test_without_a_file_the_sha256_is_that_of_the_weights(tmp_path):
    folder = tmp_path / "folder"
    support.write_model(folder)
    torch.save(open_clip.create_model(f"local-dir:{folder}").state_dict(), folder / "model.pth")
    loaded = models.load(f"local-dir:{folder}")
    assert loaded.record["sha256"] == weights_digest(loaded.model)


def test_texts_at_their_real_length_have_the_same_features(model, weights, pictures):
    loaded = models.load(model, str(weights))
    torch.manual_seed(0)
    stock = open_clip.create_model(model).eval()
    tokens = open_clip.tokenize(TEXTS, context_length=16)
    with torch.inference_mode():
        torch.testing.assert_close(texts(loaded), stock.encode_text(tokens, normalize=True))
    encoder = Encoder(loaded.model, loaded.preprocess, loaded.tokenizer)
    assert encoder.pictures([Picture(pictures[0])]).shape == (1, 32)


# --- the activation -----------------------------------------------------------------------------------


def stops(*args, **options) -> str:
    with pytest.raises(InputError) as error:
        models.load(*args, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_an_unknown_activation_stops_with_the_flag_to_give(weights):
    assert stops("ViT-B-32", str(weights)) == (
        f"--pretrained {weights}: it is unknown with which activation it was trained; give --activation "
        "quickgelu (OpenAI's weights, and models fine-tuned from them with it) or --activation gelu "
        "(open_clip's default, and any model loaded from a path without --force-quick-gelu)"
    )


def test_a_tag_of_another_activation_stops():
    assert stops("ViT-B-32", "openai") == (
        "--model ViT-B-32 --pretrained openai: these weights were trained with QuickGELU, but this "
        "model has another activation; give --model ViT-B-32-quickgelu or --activation"
    )


def test_a_name_against_params_txt_stops(tmp_path, weights):
    (tmp_path / "params.txt").write_text("force_quick_gelu: False\nmodel: ViT-B-32\n")
    assert stops("ViT-B-32-quickgelu", str(weights)) == (
        f"--model ViT-B-32-quickgelu: has QuickGELU, but according to the params.txt next to {weights} "
        "that run had GELU; decide with --activation"
    )


# --- a checkpoint that moved with its params.txt --------------------------------------------------------


@pytest.fixture
def moved(weights) -> Path:
    """It was trained from a folder that is not on this machine."""
    text = "force_quick_gelu: {}\nimage_mean: [0.5, 0.5, 0.5]\nmodel: local-dir:/elsewhere/clip\n"
    (weights.parent / "params.txt").write_text(text.format(False))
    return weights


def test_a_moved_checkpoint_stops_with_the_flag_to_give(moved):
    assert stops(None, str(moved)) == (
        f"--model: missing, and local-dir:/elsewhere/clip, from which {moved} was made, is not on this "
        "machine; give --model local-dir:FOLDER with its present place"
    )


@pytest.mark.parametrize("quick", [True, False])
def test_a_moved_checkpoint_goes_by_an_explicit_model(tmp_path, moved, quick):
    copy = support.write_model(tmp_path / "copy", quick_gelu=quick)
    record = models.load(copy, str(moved)).record
    assert record["activation"] == ("QuickGELU" if quick else "GELU")
    assert record["preprocess"]["mean"] == [0.5, 0.5, 0.5]


def test_a_moved_checkpoint_s_own_flag_still_says_its_activation(tmp_path, moved, model):
    params = moved.parent / "params.txt"
    params.write_text(params.read_text().replace("gelu: False", "gelu: True"))
    assert models.load(model, str(moved)).record["activation"] == "QuickGELU"


def test_a_moved_checkpoint_whose_activation_nothing_says_names_the_flag(moved):
    sentence = stops("ViT-B-32", str(moved))
    assert sentence.startswith(
        f"--pretrained {moved}: it is unknown with which activation it was trained, and "
        "local-dir:/elsewhere/clip, from which it was made, is not on this machine; give --activation "
    )
    assert stops("ViT-B-32", str(moved), activation="gelu").startswith(f"{moved}: is not of the architecture")


# --- models and files that are not there or not that ----------------------------------------------------


def test_a_model_with_a_typo_gets_the_nearest_names(weights):
    assert stops("ViT-B-23", str(weights)).startswith(
        "--model ViT-B-23: open_clip has no such model (nearest: ViT-B-32"
    )


def test_flags_that_are_missing(weights):
    assert stops(None) == "--model and --pretrained: missing; give a model and a tag or checkpoint"
    assert stops("ViT-B-32") == (
        "--model ViT-B-32: without --pretrained TAG|FILE its weights would be random; give one"
    )
    assert stops(None, str(weights)) == (
        "--model: missing, and there is no params.txt of open_clip's trainer next to the checkpoint; "
        "give --model NAME"
    )


def test_a_folder_model_without_weights_or_config(tmp_path, model):
    assert "could not be loaded" in stops(model)
    assert stops(f"local-dir:{tmp_path}/none") == (
        f"--model local-dir:{tmp_path}/none: there is no {tmp_path}/none/open_clip_config.json; name the "
        "folder of an open_clip model"
    )


def test_an_empty_tag_is_none():
    assert stops("ViT-B-32", "") == (
        "--model ViT-B-32: without --pretrained TAG|FILE its weights would be random; give one"
    )
    assert stops(None, "") == "--model and --pretrained: missing; give a model and a tag or checkpoint"


def test_a_tag_without_a_model_that_has_it(model):
    sentence = "--pretrained openai: no such tag and no such file; "
    assert stops(model, "openai") == f"{sentence}--model {model} has no tags"
    assert stops(None, "openai") == f"{sentence}a tag needs --model NAME"


def test_a_tag_or_file_that_is_not_there(tmp_path):
    found = stops("ViT-B-32", "laion2b")
    assert found.startswith(
        "--pretrained laion2b: no such tag and no such file; the tags of ViT-B-32: openai, "
    )
    assert stops("ViT-B-32", str(tmp_path)) == (
        f"--pretrained {tmp_path}: is a folder; name the checkpoint file in it"
    )
    pointer = tmp_path / "weights.pt"
    pointer.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    # Before the question which model and activation it has.
    assert stops("ViT-B-32", str(pointer)).startswith(f"{pointer}: is a git-lfs pointer")
    assert stops(None, str(pointer)).startswith(f"{pointer}: is a git-lfs pointer")


def test_a_checkpoint_of_another_architecture(tmp_path, weights):
    wider = support.write_model(tmp_path / "wider", embed_dim=64)
    assert stops(wider, str(weights)).startswith(f"{weights}: is not of the architecture of {wider} (")
    text = support.MODEL["model_cfg"]["text_cfg"]
    longer = support.write_model(tmp_path / "longer", text_cfg={**text, "context_length": 20})
    # Upstream would stretch the positions and say nothing.
    assert stops(longer, str(weights)) == (
        f"{weights}: is not of the architecture of {longer} "
        "(positional_embedding is [16, 32] there and [20, 32] here)"
    )
    deeper = support.write_model(tmp_path / "deeper", text_cfg={**text, "layers": 3})
    assert "Missing key(s) in state_dict" in stops(deeper, str(weights))


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 cut off"])
def test_a_file_that_is_no_checkpoint(tmp_path, model, content):
    path = tmp_path / "epoch_1.pt"
    path.write_bytes(content)
    assert stops(model, str(path)).startswith(f"{path}: ")


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path, model):
    ran = tmp_path / "ran"

    class Code:
        def __reduce__(self):
            return Path.touch, (ran,)

    path = tmp_path / "evil.pt"
    torch.save({"state_dict": {"logit_scale": Code()}}, path)
    assert stops(model, str(path)) == (
        f"{path}: holds objects besides weights (pathlib.Path and 1 more), not read because that can run "
        "code; if you trust the file, save only its state dict"
    )
    assert not ran.exists()
