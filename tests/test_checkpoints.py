"""Weights are read in whatever layout they were saved; a file that holds none is called what it is."""

from __future__ import annotations

import argparse
import gzip
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import open_clip
import pytest
import support
import torch
from safetensors.torch import save_file
from support import assert_same

from open_clip_ext.errors import InputError
from open_clip_ext.model import checkpoints
from open_clip_ext.teacher import EMATeacher


@pytest.fixture(scope="module")
def clip(model):
    torch.manual_seed(0)
    return open_clip.create_model(model)


@pytest.fixture(scope="module")
def state(clip) -> dict[str, torch.Tensor]:
    return dict(clip.state_dict())


def prefixed(state, prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + key: value for key, value in state.items()}


def inside(state) -> dict[str, torch.Tensor]:
    """As of a model of which only the image tower was compiled."""
    return {key.replace("visual.", "visual._orig_mod."): value for key, value in state.items()}


LAYOUTS = {
    "bare": lambda state: state,
    "the trainer's": lambda state: {"epoch": 1, "state_dict": state, "optimizer": {"state": {}}},
    "DDP": lambda state: {"state_dict": prefixed(state, "module.")},
    "compiled": lambda state: prefixed(state, "_orig_mod."),
    "compiled in DDP": lambda state: {"state_dict": prefixed(state, "module._orig_mod.")},
    "DDP, compiled": lambda state: prefixed(state, "_orig_mod.module."),
    "one tower compiled": inside,
    "FSDP": lambda state: prefixed(state, "_fsdp_wrapped_module."),
    "model_state_dict": lambda state: {
        "epoch": 3,
        "model_state_dict": state,
        "optimizer_state_dict": {"state": {0: {"step": torch.ones(())}}, "param_groups": []},
        "loss": torch.ones(()),
    },
    "model": lambda state: {"model": prefixed(state, "module."), "optimizer": {"state": {}}},
    "Lightning": lambda state: {
        "epoch": 1,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": prefixed(state, "model."),
        "optimizer_states": [{"state": {}}],
    },
    "Lightning, compiled, under another name": lambda state: {
        "state_dict": prefixed(state, "net.clip._orig_mod."),
    },
    "with OpenAI's numbers": lambda state: {**state, "context_length": torch.tensor(16)},
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_a_layout_that_tells_its_model_is_read(tmp_path, state, layout, model):
    path = tmp_path / "weights.pt"
    torch.save(layout(state), path)
    assert_same(checkpoints.read(path), state)
    other = open_clip.create_model(model)
    checkpoints.load(other, path)
    assert_same(dict(other.state_dict()), state)


@pytest.mark.parametrize("prefix", ["", "module._orig_mod."])
@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt"])
def test_safetensors_are_told_by_their_content(tmp_path, state, prefix, name):
    save_file(prefixed(state, prefix), tmp_path / name)
    assert_same(checkpoints.read(tmp_path / name), state)


def test_torch_s_older_format_is_read(tmp_path, state):
    torch.save(prefixed(state, "_orig_mod."), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert_same(checkpoints.read(tmp_path / "old.pt"), state)


@pytest.mark.parametrize("module", ["numpy._core", "numpy.core"], ids=["numpy 2", "numpy 1"])
def test_a_learning_rate_of_numpy_is_read(tmp_path, state, module):
    """Upstream before 2.30 wrote one."""
    content = {"state_dict": state, "optimizer": {"param_groups": [{"lr": np.float64(0.1)}]}}
    path = tmp_path / "old.pt"
    torch.save(content, path, _use_new_zipfile_serialization=False)  # so that names can be exchanged
    written = path.read_bytes()
    assert b"cnumpy._core.multiarray\nscalar\n" in written
    path.write_bytes(written.replace(b"cnumpy._core.", f"c{module}.".encode()))
    assert_same(checkpoints.read(path), state)


def test_what_upstream_makes_of_weights_is_kept(tmp_path, state):
    """An older CLIP's text tower moves to where a custom text model has it, and positions are stretched."""
    path = tmp_path / "weights.pt"
    torch.save(prefixed(state, "_orig_mod."), path)
    text = support.MODEL["model_cfg"]["text_cfg"]
    longer = support.write_model(tmp_path / "longer", text_cfg={**text, "context_length": 20})
    model = open_clip.create_model(longer, force_custom_text=True)
    checkpoints.load(model, path)
    assert torch.equal(model.text.ln_final.weight, state["ln_final.weight"])
    assert model.text.positional_embedding.shape == (20, 32)


def test_upstream_s_own_functions_are_back_afterwards(tmp_path, clip, state):
    from open_clip import factory

    path = tmp_path / "weights.pt"
    torch.save(state, path)
    before = factory.load_state_dict, factory.load_checkpoint
    checkpoints.load(clip, path)
    with checkpoints.loading("it"), pytest.raises(InputError):
        factory.load_checkpoint(clip, str(tmp_path / "none.pt"))
    assert (factory.load_state_dict, factory.load_checkpoint) == before


@pytest.mark.parametrize("layout", ["compiled in DDP", "Lightning"])
def test_a_teacher_reads_them_too(tmp_path, model, state, layout):
    path = tmp_path / "weights.pt"
    torch.save(LAYOUTS[layout](state), path)
    torch.manual_seed(1)
    teacher = EMATeacher(open_clip.create_model(model), checkpoint=str(path))
    assert_same(dict(teacher.module.state_dict()), state)


# --- what cannot be read --------------------------------------------------------------------------------


def stops(path: Path) -> str:
    with pytest.raises(InputError) as error:
        checkpoints.read(path)
    sentence = str(error.value)
    assert "\n" not in sentence
    assert sentence.startswith(f"{path}: ")
    return sentence.removeprefix(f"{path}: ")


NOT_READ = "not read because that can run code; if you trust the file, save only its state dict"
REFUSED = {
    "an adapter": (
        lambda state: {
            "base_model.model.visual.proj.lora_A.weight": torch.ones(2, 2),
            "base_model.model.visual.proj.lora_B.weight": torch.ones(2, 2),
        },
        "holds a LoRA adapter, which only changes a model's weights; merge it into that model "
        "(merge_and_unload() of peft) and save the state dict of the result",
    ),
    "transformers": (
        lambda state: {
            "logit_scale": torch.ones(()),
            "text_model.embeddings.token_embedding.weight": torch.ones(2, 2),
            "vision_model.embeddings.class_embedding": torch.ones(2),
        },
        "is a transformers model, whose weights have other names and shapes than open_clip's; use the "
        "open_clip_* file of the same model, or a tag of --model",
    ),
    "two models": (
        lambda state: {"state_dict": prefixed(state, "model.") | prefixed(state, "ema.")},
        "holds several models (model.*, ema.*), so it is unclear which one is meant; save only the state "
        "dict of that one",
    ),
    "two sets": (
        lambda state: {"model": state, "model_ema": state},
        "holds several sets of weights (model, model_ema), so it is unclear which one is meant; save only "
        "that one",
    ),
    "Lightning with a head": (
        lambda state: {
            "pytorch-lightning_version": "2.5.0",
            "state_dict": prefixed(state, "model.")
            | {"head.weight": torch.ones(2), "head.bias": torch.ones(2)},
        },
        "holds other weights next to the model model.* (head.weight and 1 more); save only the state dict of "
        "that model",
    ),
    "a tower": (
        lambda state: {key: value for key, value in state.items() if key.startswith("visual.")},
        "holds no complete CLIP: there is no logit_scale among its weights (visual.*); save the state dict "
        "of the whole model",
    ),
    "an optimizer": (
        lambda state: {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]},
        "holds the state of an optimizer, but no model weights (state, param_groups); name the file with "
        "the weights",
    ),
    "numbers": (
        lambda state: {"epoch": 3, "accuracy": 0.5},
        "holds no model weights (epoch, accuracy); name the file with the weights",
    ),
    "a list": (lambda state: [1, 2], "holds a list, not the state dict of a model"),
    "a model": (lambda state: torch.nn.Linear(2, 2), f"holds a whole pickled model, {NOT_READ}"),
    "arguments": (
        lambda state: {"state_dict": state, "args": argparse.Namespace(lr=1)},
        f"holds objects besides weights (argparse.Namespace), {NOT_READ}",
    ),
}


@pytest.mark.parametrize(("content", "sentence"), REFUSED.values(), ids=REFUSED)
def test_what_holds_no_certain_model_is_called_what_it_is(tmp_path, state, content, sentence):
    torch.save(content(state), tmp_path / "weights.pt")
    assert stops(tmp_path / "weights.pt") == sentence


FILES = {
    "nothing": (b"", "is empty; copy or download it again"),
    "git-lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 605000000\n",
        "is a git-lfs pointer, not the file itself; get the file with `git lfs pull`",
    ),
    "a page": (
        b"\n<!DOCTYPE html><html><body>Sign in</body></html>",
        "is a web page, not the file itself; download it again",
    ),
    "an index": (b'{"weight_map": {}}', "is JSON text, not weights; name the file with the weights"),
    "gzip": (gzip.compress(b"weights"), "is compressed with gzip; unpack it, and name the checkpoint in it"),
    "text": (b"hello, world", "is neither a torch nor a safetensors file; name the file with the weights"),
    "a pickle": (
        pickle.dumps(print),
        "is not a checkpoint, or one that cannot be read without running its code",
    ),
}


@pytest.mark.parametrize(("content", "sentence"), FILES.values(), ids=FILES)
def test_a_file_that_is_something_else(tmp_path, content, sentence):
    (tmp_path / "weights.pt").write_bytes(content)
    assert stops(tmp_path / "weights.pt") == sentence


def test_a_file_that_was_cut_off(tmp_path, state):
    path = tmp_path / "weights.pt"
    torch.save(state, path)
    path.write_bytes(path.read_bytes()[:-100])
    assert stops(path) == "is cut off: the end of its archive is missing; copy it again"
    path = tmp_path / "weights.safetensors"
    save_file(state, path)
    path.write_bytes(path.read_bytes()[:-100])
    assert stops(path).startswith("is cut off or broken (")


def test_an_archive_of_other_files(tmp_path):
    with zipfile.ZipFile(tmp_path / "weights.zip", "w") as archive:
        archive.writestr("weights.pt", b"")
    sentence = "is an archive of other files; unpack it, and name the checkpoint in it"
    assert stops(tmp_path / "weights.zip") == sentence


def test_a_torchscript_archive(tmp_path):
    """Scripted in another process: the warning that torch.jit is deprecated would be an error of ours."""
    path = tmp_path / "ViT-B-32.pt"
    script = f"import torch; torch.jit.script(torch.nn.Linear(2, 2)).save({str(path)!r})"
    subprocess.run([sys.executable, "-c", script], check=True, stderr=subprocess.DEVNULL)
    assert stops(path) == (
        f"is a TorchScript archive, like OpenAI's published weights (the tag openai), {NOT_READ}"
    )


def test_a_folder_and_nothing(tmp_path):
    assert stops(tmp_path) == "is a folder; name the checkpoint file in it"
    assert stops(tmp_path / "none.pt") == "no such file"
    (tmp_path / "__0_0.distcp").touch()
    assert stops(tmp_path) == (
        "is a folder with the weights split by rank; join them: "
        f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {tmp_path} FILE"
    )


def test_shards_of_tensors(tmp_path, monkeypatch, state):
    class DTensor(torch.Tensor):
        pass

    shards = {key: value.as_subclass(DTensor) for key, value in state.items()}
    with pytest.raises(InputError, match="holds one rank's shards of the weights; save the full state dict"):
        checkpoints.named(shards, "weights.pt")


@pytest.mark.parametrize(
    "changes",
    [
        {"text_cfg": {**support.MODEL["model_cfg"]["text_cfg"], "layers": 3}},
        {"text_cfg": {**support.MODEL["model_cfg"]["text_cfg"], "width": 64}},
        {"vision_cfg": {**support.MODEL["model_cfg"]["vision_cfg"], "width": 64}},
        {"embed_dim": 64},
    ],
    ids=["layers", "text width", "image width", "embedding"],
)
def test_weights_of_another_architecture(tmp_path, state, changes):
    """Upstream stops on some with an assertion."""
    path = tmp_path / "weights.pt"
    torch.save(state, path)
    other = open_clip.create_model(support.write_model(tmp_path / "other", **changes))
    with pytest.raises(InputError, match=f"^{path}: is not of the architecture of --model other \\("):
        checkpoints.load(other, path, "--model other")
