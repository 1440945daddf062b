"""The encoder: each thing once, the same features as a plain loop, a cache that a kill leaves whole."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
import open_clip
import pytest
import support
import torch
from fakes import write_pictures
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from open_clip_ext.errors import InputError
from open_clip_ext.evaluation import encode
from open_clip_ext.evaluation.encode import Encoder
from open_clip_ext.evaluation.items import Picture

TEXTS = ["a dog", "a red square left of a blue circle", "two", "a dog", "a very long text " * 9]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A tiny model with weights, its preprocessing and tokenizer."""
    name = support.write_model(tmp_path_factory.mktemp("encoded"))
    torch.manual_seed(0)
    model = open_clip.create_model(name).eval()
    preprocess = image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)
    return model, preprocess, open_clip.get_tokenizer(name)


@torch.inference_mode()
def plain(parts, picture: Picture) -> torch.Tensor:
    """One picture, one forward pass."""
    model, preprocess, _ = parts
    image = Image.open(picture.path).convert("RGB")
    if picture.box:
        x, y, w, h = picture.box
        image = image.crop((x, y, x + w, y + h))
    return model.encode_image(preprocess(image)[None], normalize=True)[0]


def test_features_are_those_of_a_plain_loop(parts, pictures):
    shown = [
        *map(Picture, pictures),
        Picture(pictures[0], (4, 6, 20, 16)),
        Picture(pictures[1], (1, 1, 9, 9)),
    ]
    found = Encoder(*parts, batch=3).pictures(shown)
    torch.testing.assert_close(found, torch.stack([plain(parts, p) for p in shown]))
    model, _, tokenizer = parts
    with torch.inference_mode():
        expected = torch.cat([model.encode_text(tokenizer([text]), normalize=True) for text in TEXTS])
    torch.testing.assert_close(Encoder(*parts, batch=1).texts(TEXTS), expected)


def test_each_thing_is_encoded_once(parts, pictures, tmp_path):
    copy = tmp_path / "copy.png"
    copy.write_bytes(Path(pictures[0]).read_bytes())
    encoder = Encoder(*parts)
    shown = [Picture(p) for p in (*pictures[:3], pictures[0], str(copy))] + [
        Picture(pictures[0], (0, 0, 9, 9))
    ]
    found = encoder.pictures(shown)
    assert encoder.encoded["pictures"] == 4  # the copy has the same bytes; the box is another picture
    assert torch.equal(found[0], found[3])
    assert torch.equal(found[0], found[4])
    encoder.pictures(shown)
    assert encoder.encoded["pictures"] == 4
    found = encoder.texts([*TEXTS, "A  DOG "])
    assert encoder.encoded["texts"] == 4  # the tokenizer does not tell the last one from the first
    assert torch.equal(found[0], found[-1])


def test_features_are_found_again_by_another_object(parts, pictures, tmp_path):
    first = Encoder(*parts, cache=tmp_path)
    shown = list(map(Picture, pictures))
    made = first.pictures(shown), first.texts(TEXTS)
    second = Encoder(*parts, cache=tmp_path)
    again = second.pictures(shown), second.texts(TEXTS)
    assert second.encoded == {"pictures": 0, "texts": 0}
    assert all(torch.equal(a, b) for a, b in zip(made, again, strict=True))


@pytest.mark.parametrize("change", ["weights", "activation", "preprocessing", "precision"])
def test_features_of_another_model_are_not_found(parts, pictures, tmp_path, change):
    model, preprocess, tokenizer = parts
    shown = list(map(Picture, pictures))
    Encoder(*parts, cache=tmp_path).pictures(shown)
    precision = "fp32"
    if change == "weights":
        model = open_clip.CLIP(**support.MODEL["model_cfg"]).eval()
        model.load_state_dict(parts[0].state_dict())
        model.visual.proj.data[0, 0] += 1e-3
    elif change == "activation":
        model = open_clip.CLIP(**support.MODEL["model_cfg"], quick_gelu=True).eval()
        model.load_state_dict(parts[0].state_dict())
    elif change == "preprocessing":
        preprocess = image_transform_v2(PreprocessCfg(size=32, mean=(0.5,) * 3), is_train=False)
    else:
        precision = "amp_bf16"
    encoder = Encoder(model, preprocess, tokenizer, precision=precision, cache=tmp_path)
    encoder.pictures(shown)
    assert encoder.encoded["pictures"] == len(shown)


def test_a_picture_that_changed_is_encoded_anew(parts, pictures, tmp_path):
    Encoder(*parts, cache=tmp_path / "cache").pictures([Picture(pictures[0])])
    Path(pictures[0]).write_bytes(Path(pictures[1]).read_bytes())
    encoder = Encoder(*parts, cache=tmp_path / "cache")
    torch.testing.assert_close(
        encoder.pictures([Picture(pictures[0])])[0], plain(parts, Picture(pictures[1]))
    )
    assert encoder.encoded["pictures"] == 1


def test_a_broken_file_of_the_cache_is_as_if_it_were_not_there(parts, pictures, tmp_path):
    shown = list(map(Picture, pictures))
    made = Encoder(*parts, cache=tmp_path, batch=3).pictures(shown)
    files = sorted(tmp_path.rglob("pictures-*.safetensors"))
    assert len(files) == 3
    files[0].write_bytes(files[0].read_bytes()[:-50])
    files[1].write_bytes(b"nothing")
    encoder = Encoder(*parts, cache=tmp_path)
    torch.testing.assert_close(encoder.pictures(shown), made)
    assert 0 < encoder.encoded["pictures"] < len(shown)


def test_a_cache_that_cannot_be_written_is_named(parts, pictures, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        InputError, match=r"features cannot be kept there \(.*\); name another --cache, or none"
    ):
        Encoder(*parts, cache=tmp_path / "file")
    encoder = Encoder(*parts, cache=tmp_path / "cache")
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(InputError, match=r"features cannot be kept there \(No such file or directory\)"):
        encoder.pictures([Picture(pictures[0])])


SLOW = """
import sys, time
from pathlib import Path
import open_clip, torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from open_clip_ext.evaluation.encode import Encoder
from open_clip_ext.evaluation.items import Picture
name, folder, cache = sys.argv[1:]
torch.manual_seed(0)
model = open_clip.create_model(name).eval()
stock = model.encode_image
def slowly(*args, **kwargs):
    time.sleep(0.3)
    return stock(*args, **kwargs)
model.encode_image = slowly
preprocess = image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)
encoder = Encoder(model, preprocess, open_clip.get_tokenizer(name), cache=Path(cache), batch=4)
encoder.pictures([Picture(str(p)) for p in sorted(Path(folder).iterdir())])
print(encoder.encoded["pictures"])
"""


def test_a_kill_loses_only_the_batch_in_flight(tmp_path):
    name = support.write_model(tmp_path / "model")
    different = {Path(path).read_bytes() for path in write_pictures(tmp_path / "pictures", 40)}
    (tmp_path / "slow.py").write_text(SLOW)
    command = [tmp_path / "slow.py", name, tmp_path / "pictures", tmp_path / "cache"]
    with (tmp_path / "printed").open("w") as printed:
        process = support.start(*command, output=printed)
        deadline = time.monotonic() + 120
        while len(list((tmp_path / "cache").rglob("*.safetensors"))) < 3:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        support.end(process)
    kept = list((tmp_path / "cache").rglob("*.safetensors"))
    assert 4 * len(kept) < len(different)  # the kill came before the end
    again = support.python(*command)
    assert int(again.stdout) == len(different) - 4 * len(kept)


def test_mixed_precision_is_close_and_comes_back_as_fp32(parts, pictures):
    shown = list(map(Picture, pictures))
    exact = Encoder(*parts).pictures(shown)
    mixed = Encoder(*parts, precision="amp_bf16").pictures(shown)
    assert mixed.dtype == torch.float32
    assert not torch.equal(mixed, exact)
    torch.testing.assert_close(mixed, exact, atol=0.05, rtol=0)


# --- what must not become a score ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda m: m.visual.proj.data.fill_(torch.nan), "the model's features of it are not finite"),
        (lambda m: m.visual.proj.data.zero_(), "the model's features of it are not finite"),  # 0 / 0
    ],
)
def test_features_that_are_no_numbers_raise(parts, pictures, spoil, sentence):
    model = open_clip.CLIP(**support.MODEL["model_cfg"]).eval()
    spoil(model)
    with pytest.raises(InputError) as error:
        Encoder(model, *parts[1:]).pictures([Picture(pictures[0])])
    assert str(error.value) == f"{pictures[0]}: {sentence}; this checkpoint cannot be scored"
    model.text_projection.data.fill_(torch.inf)
    with pytest.raises(InputError, match="the text 'a dog': the model's features of it are not finite"):
        Encoder(model, *parts[1:]).texts(["a dog"])


def test_a_picture_that_does_not_decode_is_named(parts, pictures, tmp_path):
    cut = tmp_path / "cut.png"
    cut.write_bytes(Path(pictures[0]).read_bytes()[:60])
    for path in (cut, tmp_path / "text.jpg"):
        if not path.exists():
            path.write_text("no picture")
        with pytest.raises(InputError, match=f"^{path}: does not decode as a picture"):
            Encoder(*parts).pictures([Picture(pictures[0]), Picture(str(path))])


def test_a_picture_that_is_not_there_or_a_folder_is_named(parts, tmp_path):
    with pytest.raises(InputError, match=r"none\.png: cannot be read as a picture"):
        Encoder(*parts).pictures([Picture(str(tmp_path / "none.png"))])
    with pytest.raises(InputError, match=f"{tmp_path}: cannot be read as a picture"):
        Encoder(*parts).pictures([Picture(str(tmp_path))])


def test_a_box_outside_of_its_picture_is_refused(parts, pictures):
    with pytest.raises(InputError, match=r"the box \(40, 0, 5, 5\) is outside of it \(32 x 32\)"):
        Encoder(*parts).pictures([Picture(pictures[0], (40, 0, 5, 5))])


def test_the_digest_of_weights_is_that_of_their_values_alone(parts):
    model = parts[0]
    same = {key: value.clone() for key, value in reversed(list(model.state_dict().items()))}

    class Other:
        def state_dict(self):
            return same

    assert encode.weights_digest(Other()) == encode.weights_digest(model)
    same["logit_scale"] = same["logit_scale"] + np.float32(1e-6)
    assert encode.weights_digest(Other()) != encode.weights_digest(model)
