"""Exported folders: stock transformers and open_clip give the features of the checkpoint, or none is left."""

from __future__ import annotations

import json
import os
import re
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import hugging_face
import open_clip
import pytest
import results
import support
import tiny
import torch
import transformers
from huggingface_hub import ModelCard
from PIL import Image
from support import train_here

from open_clip_ext import cli
from open_clip_ext.evaluation import models
from open_clip_ext.export import architectures, card, compare, processors

CAPTIONS = ["a dog", "A man's best friend isn't 12!", "the dog and the other dog " * 20]
FILES = {
    *("config.json", "model.safetensors", "preprocessor_config.json", "processor_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "open_clip_config.json", "open_clip_model.safetensors"),
    "README.md",
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, model, csv_data) -> Path:
    """The checkpoint of a run that changed activation and preprocessing, which its model does not say."""
    flags = ["--model", model, "--train-data", csv_data, "--csv-separator", ",", "--force-quick-gelu"]
    flags += ["--image-mean", 0.1, 0.2, 0.3, "--image-interpolation", "bilinear"]
    flags += ["--loss", "negclip", "--epochs", 1]
    return train_here(tmp_path_factory.mktemp("trained"), *flags).folder / "checkpoints" / "epoch_1.pt"


@pytest.fixture(scope="module")
def exported(tmp_path_factory, trained) -> Path:
    out = tmp_path_factory.mktemp("exported") / "tuned"
    assert cli.main(["export", str(trained), "--out", str(out)]) == 0
    return out


@pytest.fixture
def refused(tmp_path, capsys):
    """An export that must end with a sentence, and leave nothing; the sentence."""

    def run(*words: object, status: int = 2, out: Path = tmp_path / "out") -> str:
        before = sorted(out.parent.iterdir()) if out.parent.exists() else None
        with pytest.raises(SystemExit) as stopped:
            cli.main(["export", *map(str, words), "--out", str(out)])
        assert stopped.value.code == status
        assert before == (sorted(out.parent.iterdir()) if out.parent.exists() else None)
        (sentence,) = capsys.readouterr().err.strip().splitlines()
        return sentence.removeprefix("open_clip_ext: ")

    return run


def pictures() -> list[Image.Image]:
    sizes = [(150, 50), (40, 120), (60, 60)]
    return [photo.image.resize(size) for photo, size in zip(support.photos(3), sizes, strict=True)]


def by_transformers(folder: Path):
    """What stock transformers makes of pictures and captions; the class is the one in config.json."""
    with compare.silent():
        made = getattr(transformers, json.loads((folder / "config.json").read_text())["architectures"][0])
        model = made.from_pretrained(folder)
        processor = transformers.AutoProcessor.from_pretrained(folder, backend="pil")
    inputs = processor(
        text=CAPTIONS, images=pictures(), padding="max_length", truncation=True, return_tensors="pt"
    )
    with torch.inference_mode():
        return model(**inputs)


def assert_equal_in_both(folder: Path, model, preprocess, tokenizer) -> None:
    """Both libraries give the features and logits of an open_clip model."""
    pixels = torch.stack([preprocess(picture) for picture in pictures()])
    with torch.inference_mode():
        image, text = (
            model.encode_image(pixels, normalize=True),
            model.encode_text(tokenizer(CAPTIONS), normalize=True),
        )
        logits, _ = model.get_logits(pixels, tokenizer(CAPTIONS))
    outputs = by_transformers(folder)
    torch.testing.assert_close(outputs.image_embeds, image, atol=1e-5, rtol=0)
    torch.testing.assert_close(outputs.text_embeds, text, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        outputs.logits_per_image, logits, atol=1e-4, rtol=1e-5
    )  # up to 100 times as large
    stock, stock_preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    stock_tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    pixels = torch.stack([stock_preprocess(picture) for picture in pictures()])
    with torch.inference_mode():
        stock_logits, _ = stock.eval().get_logits(pixels, stock_tokenizer(CAPTIONS))
    torch.testing.assert_close(stock_logits, logits, atol=1e-4, rtol=1e-5)


# What is exported is what was trained


def test_a_run_s_checkpoint_gives_the_same_features_in_both_libraries(trained, exported):
    state = torch.load(trained, weights_only=True)["state_dict"]
    stock = open_clip.CLIP(**support.MODEL["model_cfg"], quick_gelu=True).eval()
    stock.load_state_dict(state)
    preprocess = open_clip.transform.image_transform_v2(
        open_clip.transform.PreprocessCfg(size=32, mean=(0.1, 0.2, 0.3), interpolation="bilinear"),
        is_train=False,
    )
    assert_equal_in_both(exported, stock, preprocess, open_clip.SimpleTokenizer(context_length=16))
    assert set(os.listdir(exported)) == FILES | {"vocab.json", "merges.txt"}
    assert os.listdir(exported.parent) == ["tuned"]


def test_it_says_what_was_compared_and_how_to_upload(tmp_path, trained, capsys):
    (tmp_path / "my run").mkdir()  # an empty folder is taken
    assert cli.main(["export", str(trained), "--out", str(tmp_path / "my run")]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    first, second, _, command = printed.out.splitlines()
    assert first.startswith("transformers: image features to ")
    assert "text features to " in first
    assert second.startswith(
        "open_clip: image features to 0e+00, text features to 0e+00, logit scale to 0e+00"
    )
    assert command == f"  hf upload YOUR_NAME/'my run' '{tmp_path / 'my run'}'"


def vision(**changes):
    return {"vision_cfg": {**support.MODEL["model_cfg"]["vision_cfg"], **changes}}


def text(**changes):
    return {"text_cfg": {**support.MODEL["model_cfg"]["text_cfg"], **changes}}


CLIPS = {
    "GELU": {},
    "QuickGELU": {"quick_gelu": True},
    "a text tower of its own": {"custom_text": True},
    "pooled at the end of text": text(pool_type="eos", eos_id=49407),
    "other sizes": {"embed_dim": 24}
    | vision(width=48, mlp_ratio=3.0, layers=1)
    | text(context_length=20, heads=4),
    "other epsilons": vision(norm_kwargs={"eps": 1e-3}) | text(norm_kwargs={"eps": 1e-6}),
    "activations of the towers": text(act_kwargs={"approximate": "tanh"}),
}


@pytest.mark.parametrize("changes", CLIPS.values(), ids=CLIPS)
def test_every_clip_with_a_vit(tmp_path, changes):
    model = support.write_model(tmp_path / "model", **changes)
    weights = tiny.write_weights(model, tmp_path / "weights.pt")
    quick = "quickgelu" if changes.get("quick_gelu") else "gelu"
    words = ["export", weights, "--model", model, "--activation", quick, "--out", tmp_path / "out"]
    assert cli.main([str(word) for word in words]) == 0
    stock, _, preprocess = open_clip.create_model_and_transforms(model)
    stock.load_state_dict(tiny.draw(model))
    assert_equal_in_both(tmp_path / "out", stock.eval(), preprocess, open_clip.get_tokenizer(model))


@pytest.mark.parametrize(
    "changes", [{}, {"act_kwargs": None}, {"proj_type": "none"}], ids=["SigLIP 2", "SigLIP", "multilingual"]
)
def test_siglip_with_its_bias_and_tokenizer(tmp_path, changes):
    model = tiny.write_siglip(tmp_path / "model", **changes)
    torch.save(tiny.draw(model), tmp_path / "model" / "open_clip_pytorch_model.bin")
    assert cli.main(["export", model, "--out", str(tmp_path / "out")]) == 0
    stock, preprocess = open_clip.create_model_from_pretrained(model)
    assert_equal_in_both(tmp_path / "out", stock.eval(), preprocess, open_clip.get_tokenizer(model))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == ["SiglipModel"]
    assert set(os.listdir(tmp_path / "out")) == FILES


def test_a_run_of_siglip_whose_bias_the_flag_added(tmp_path, csv_data):
    model = tiny.write_siglip(tmp_path / "model")
    tiny.change_config(model, init_logit_bias=None)
    flags = ["--model", model, "--train-data", csv_data, "--csv-separator", ",", "--loss", "negclip"]
    checkpoint = train_here(tmp_path, *flags, "--siglip").folder / "checkpoints" / "epoch_1.pt"
    out = tmp_path / "out"
    assert cli.main(["export", str(checkpoint), "--out", str(out)]) == 0
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert state["logit_bias"] not in (0, -10)  # it was trained
    stock, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{out}")
    assert torch.equal(stock.logit_bias, state["logit_bias"])
    assert_equal_in_both(out, stock.eval(), preprocess, open_clip.get_tokenizer(model))
    assert "| siglip | True |" in (out / "README.md").read_text()


def test_a_mixture_is_exported_as_what_it_was_mixed_from(tmp_path, trained):
    mixed = tmp_path / "mixed.safetensors"
    words = ["merge", trained, trained, "--alpha", "0.5", "--out", mixed]
    assert cli.main([str(word) for word in words]) == 0
    assert cli.main(["export", str(mixed), "--out", str(tmp_path / "out")]) == 0
    assert "interpolated: 0.5 of " in (tmp_path / "out" / "README.md").read_text()


# What cannot be exported


RESNET = vision(layers=[1, 1, 1, 1], image_size=64)
UNFIT = {
    "ResNet": (RESNET, "its image tower is a ModifiedResNet"),
    "layer scale": (
        vision(ls_init_value=0.1),
        "it has vision_model.encoder.layers.0.ls_1.gamma and 3 more, for which CLIPModel",
    ),
    "no first norm": (
        vision(no_ln_pre=True),
        "it lacks vision_model.pre_layrnorm.bias and 1 more of CLIPModel",
    ),
    "average": (vision(pool_type="avg"), "its image tower pools by avg"),
    "both directions": (text(no_causal_mask=True), "its text tower reads in both directions"),
    "token 2": (text(pool_type="eos", eos_id=2), "its text tower pools at token 2, and CLIPModel would"),
    "last token": (text(pool_type="last"), "its text tower pools by last"),
    "bias": ({"init_logit_bias": -10}, "it has a logit bias, which CLIPModel has not"),
    "not square": (vision(image_size=[32, 64]), r"its images or patches are not square \(\[32, 64\]\)"),
    "another timm tower": (
        vision(timm_model_name="test_vit", timm_pool="", timm_proj="linear", image_size=160),
        "its image tower has no attention pooling, which SiglipModel's has",
    ),
    "CoCa": (
        {"multimodal_cfg": {"width": 32, "heads": 2, "layers": 1, "context_length": 16}, "custom_text": True}
        | text(embed_cls=True, output_tokens=True)
        | vision(attentional_pool=True, attn_pooler_heads=2, output_tokens=True),
        "it is a CoCa",
    ),
}


@pytest.mark.parametrize(("changes", "reason"), UNFIT.values(), ids=UNFIT)
def test_what_neither_class_holds_is_refused(tmp_path, refused, changes, reason):
    model = support.write_model(tmp_path / "model", **changes)
    weights = tiny.write_weights(model, tmp_path / "weights.pt")
    said = refused(weights, "--model", model, "--activation", "gelu")

    assert re.search(rf"^{weights}: cannot be exported, because {reason}", said), said
    assert said.endswith("hold CLIP with a ViT, and SigLIP; use the checkpoint with open_clip")


@pytest.mark.parametrize("unfit", ["CoCa", "CLIP"])
def test_a_tokenizer_without_an_end_of_text(tmp_path, refused, unfit):
    """BERT's; of a model that is refused anyway, the reason is the model."""
    changes, reason = UNFIT.get(unfit, ({}, "its tokenizer has no token that ends a text"))
    changes = changes | text(**changes.get("text_cfg", {}), hf_tokenizer_name="beside the model")
    model = support.write_model(tmp_path / "model", **changes)
    hugging_face.bert({})[1].save_pretrained(tmp_path / "model")
    weights = tiny.write_weights(model, tmp_path / "weights.pt")
    assert f"because {reason}" in refused(weights, "--model", model, "--activation", "gelu")


def test_siglip_s_towers_with_clip_s_tokenizer_are_refused(tmp_path, refused):
    """A text tower that attends to padding needs open_clip's zeros, and transformers pads otherwise."""
    model = tiny.write_siglip(tmp_path / "model", hf_tokenizer_name="", vocab_size=49408, tokenizer_kwargs={})
    weights = tiny.write_weights(model, tmp_path / "weights.pt")
    said = refused(weights, "--model", model, "--activation", "gelu")
    assert "because its text tower reads the padding, and its tokenizer is CLIP's" in said


def test_siglip_without_a_bias_is_refused(tmp_path, refused):
    model = tiny.write_siglip(tmp_path / "model")
    tiny.change_config(model, init_logit_bias=None)
    weights = tiny.write_weights(model, tmp_path / "weights.pt")
    said = refused(weights, "--model", model, "--activation", "gelu")
    assert "because it has no logit bias, which SiglipModel has" in said


def test_a_preprocessing_that_transformers_does_not_have_is_refused(tmp_path, refused):
    model = support.write_model(tmp_path / "model")
    path = tmp_path / "model" / "open_clip_config.json"
    config = {**json.loads(path.read_text()), "preprocess_cfg": {"resize_mode": "longest"}}
    path.write_text(json.dumps(config))
    weights = tiny.write_weights(model, tmp_path / "weights.pt")
    said = refused(weights, "--model", model, "--activation", "gelu")
    assert "because its images are resized in the mode longest by bicubic interpolation" in said


# What transformers does otherwise


@pytest.mark.parametrize("margin", range(8))
def test_a_crop_that_leaves_three_pixels_begins_one_pixel_earlier(margin):
    config = {"size": 32, "mean": (0.0,) * 3, "std": (1.0,) * 3, "interpolation": "bicubic"}
    config |= {"resize_mode": "shortest"}
    preprocess = open_clip.transform.image_transform_v2(
        open_clip.transform.PreprocessCfg(**config), is_train=False
    )
    images = processors.convert_preprocessing(config, 32, siglip=False)
    picture = compare.pictures()[2].resize((32 + margin, 32))
    here = preprocess(picture)
    there = transformers.CLIPImageProcessorPil(**images.to_dict())(picture, return_tensors="pt").pixel_values[
        0
    ]
    if margin % 4 == 3:
        torch.testing.assert_close(there[:, :, 1:], here[:, :, :-1])
    else:
        torch.testing.assert_close(there, here)


def test_html_entities_and_broken_unicode_stay_as_they_are():
    tokenizer = open_clip.SimpleTokenizer(context_length=16)
    made = processors.convert_tokenizer(tokenizer, 16, reads_padding=False)
    for broken, repaired in (("salt &amp; pepper", "salt & pepper"), ("a cafÃ©", "a café")):
        assert torch.equal(tokenizer(broken), tokenizer(repaired))
        assert made(broken).input_ids != made(repaired).input_ids
        assert made(repaired).input_ids == [token for token in tokenizer(repaired)[0].tolist() if token]


# What is not equal is noticed


def test_a_conversion_that_is_wrong_leaves_no_folder(refused, trained, monkeypatch):
    monkeypatch.setattr(architectures, "_activation", lambda module: "gelu")
    said = refused(trained, status=1)
    assert said.startswith(f"{trained}: in transformers its image features differ by ")
    assert said.endswith(", more than 1e-05; nothing was kept")


def test_weights_that_are_not_finite_leave_no_folder(tmp_path, refused, model):
    weights = tmp_path / "weights.pt"
    torch.save({key: value * torch.nan for key, value in tiny.draw(model).items()}, weights)
    said = refused(weights, "--model", model, "--activation", "gelu", status=1)
    assert "in transformers its image features differ by nan" in said


def test_a_tokenizer_that_is_wrong_leaves_no_folder(refused, trained, monkeypatch):
    convert = processors.convert_tokenizer

    def shorter(tokenizer, length, **options):
        return convert(tokenizer, length - 4, **options)

    monkeypatch.setattr(processors, "convert_tokenizer", shorter)
    assert "in transformers its text features differ by " in refused(trained, status=1)


def test_a_library_that_cannot_load_the_folder_is_named(refused, trained, monkeypatch):
    def broken(folder):
        raise KeyError("no such thing")

    monkeypatch.setattr(compare, "of_open_clip_folder", broken)
    said = refused(trained, status=1)
    assert said == f"{trained}: open_clip cannot use what was written ('no such thing'); nothing was kept"


def test_a_full_disk_leaves_no_folder(refused, trained, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert "cannot be written ([Errno 28] No space left on device)" in refused(trained)


# Wrong calls


def test_a_place_that_is_taken_or_missing(tmp_path, refused, trained):
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "kept").write_text("kept")
    said = f"--out {taken}: exists already, and is not an empty folder; name another"
    assert refused(trained, out=taken) == said
    assert (taken / "kept").read_text() == "kept"
    file = taken / "kept"
    assert (
        refused(trained, out=file)
        == f"--out {file}: exists already, and is not an empty folder; name another"
    )
    away = tmp_path / "no" / "out"
    assert refused(trained, out=away) == f"--out {away}: there is no folder {tmp_path / 'no'}; make it first"


def test_a_checkpoint_or_model_that_is_not_there(tmp_path, refused, model):
    assert refused("none.pt", "--model", model).startswith(
        "--pretrained none.pt: no such tag and no such file"
    )
    weights = tiny.write_weights(model, tmp_path / "weights.pt")
    assert "there is no params.txt of open_clip's trainer next to the checkpoint" in refused(weights)
    said = refused(weights, "--model", "ViT-B-23")
    assert said.startswith("--model ViT-B-23: open_clip has no such model (nearest: ")
    assert "it is unknown with which activation it was trained" in refused(weights, "--model", "ViT-B-32")


@pytest.mark.parametrize("found", ["5.3.0", None])
def test_transformers_is_missing_or_too_old(refused, trained, monkeypatch, found):
    def version(name):
        if found is None:
            raise PackageNotFoundError(name)
        return found

    monkeypatch.setattr("open_clip_ext.export.run.version", version)
    said = "export needs transformers 5.4 or later; pip install 'open_clip_ext[export]'"
    assert refused(trained) == said


# The model card


def test_the_card_of_a_run(exported, trained):
    text = (exported / "README.md").read_text()
    for line in (
        "| activation | QuickGELU |",
        "| data | photos.csv |",
        "| loss | negclip |",
        "| companion texts of a caption | neg=4 |",
        "| optimizer steps | 4 |",
        "| lr | 0.001 |",
        "no scores were given",
    ):
        assert line in text
    assert str(trained.parents[3]) not in text  # no folder of this machine
    data = ModelCard(text).data
    assert data.tags == ["clip", "transformers", "open_clip_ext", "negclip"]
    assert (data.library_name, data.license, data.base_model) == ("open_clip", None, None)


def test_the_card_of_weights_without_a_record(tmp_path, model):
    weights = tiny.write_weights(model, tmp_path / "weights.pt")
    words = ["export", weights, "--model", model, "--activation", "gelu", "--out", tmp_path / "out"]
    assert cli.main([str(word) for word in words]) == 0
    text = (tmp_path / "out" / "README.md").read_text()
    assert "| activation | GELU |" in text
    assert "| loss |" not in text


def test_the_base_model_is_named_as_the_hub_names_it():
    parameters = {"pretrained": "openai"}
    assert card.base_model("ViT-B-32-quickgelu", parameters) == "timm/vit_base_patch32_clip_224.openai"
    assert card.base_model("ViT-B-32", {"pretrained": "weights.pt"}) is None
    assert card.base_model("hf-hub:laion/some-model", {}) == "laion/some-model"


def test_scores_of_this_checkpoint_are_in_its_card(tmp_path, trained, refused):
    record = models.load(None, str(trained), device="cpu").record
    made = results.benchmarks(results.photo_folder(tmp_path / "photos"))
    scored = tmp_path / "scored"
    results.result_folder.write(scored, record, made)
    assert cli.main(["export", str(trained), "--scores", str(scored), "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "README.md").read_text()
    score = made["sugarcrepe"]["scores"]["micro"]
    low, high = score["interval"]
    assert f"{100 * score['value']:.2f}  {100 * low:.2f} to {100 * high:.2f}" in text
    assert "By `open-clip-ext eval run` of open_clip_ext" in text

    for what, value in (("sha256", "0" * 64), ("activation", "GELU")):
        other = tmp_path / what
        results.result_folder.write(other, {**record, what: value}, made)
        said = refused(trained, "--scores", other, out=tmp_path / "no")
        assert said.startswith(f"--scores {other}: is of {trained} with {what} {value}, and {trained} has ")
    assert refused(trained, "--scores", tmp_path, out=tmp_path / "no").startswith(
        f"{tmp_path}: no result of `open-clip-ext eval run`"
    )
