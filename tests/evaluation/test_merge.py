"""Merged weights: exact ends, one architecture and activation, files that stock open_clip loads."""

from __future__ import annotations

import os
import time
from pathlib import Path

import open_clip
import pytest
import support
import torch
from support import python, train_here

import open_clip_ext.cli
from open_clip_ext.errors import InputError
from open_clip_ext.evaluation import models, weights
from open_clip_ext.evaluation.weights import interpolate


@pytest.fixture(scope="session")
def trained(tmp_path_factory, model, csv_data) -> Path:
    """The checkpoints of a run of two epochs."""
    flags = ["--model", model, "--train-data", csv_data, "--csv-separator", ",", "--loss", "negclip"]
    return train_here(tmp_path_factory.mktemp("trained"), *flags, "--epochs", 2).folder / "checkpoints"


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).contiguous().view(torch.uint8)


# The arithmetic


def state(seed: int, dtype=torch.float32) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    drawn = torch.randn(5, 7, generator=draw).to(dtype)
    drawn[0, 0], drawn[0, 1] = -0.0, 1e-40 if dtype == torch.float32 else 0.0
    return {"w": drawn, "logit_scale": drawn[1, 1].clone(), "batches": torch.tensor(seed)}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_ends_are_the_checkpoints_to_the_bit(dtype):
    a, b = state(1, dtype), state(2, dtype)
    for alpha, end in ((0, a), (0.0, a), (1, b), (1.0, b)):
        mixed = interpolate(a, b, alpha)
        assert mixed.keys() == end.keys()
        for key in end:
            assert mixed[key].dtype == end[key].dtype
            assert torch.equal(bits(mixed[key]), bits(end[key]))


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.9])
def test_between_them_it_is_the_weighted_mean_in_fp32(alpha):
    a, b = state(1), state(2)
    mixed = interpolate(a, b, alpha)
    for key in ("w", "logit_scale"):
        exact = (1 - alpha) * a[key].double() + alpha * b[key].double()
        torch.testing.assert_close(mixed[key].double(), exact, rtol=1e-6, atol=1e-7)
    assert int(mixed["batches"]) == (1 if alpha < 0.5 else 2)


def test_half_precision_is_rounded_once():
    a, b = state(1, torch.bfloat16), state(2, torch.bfloat16)
    expected = torch.lerp(a["w"].float(), b["w"].float(), 0.3).bfloat16()
    assert torch.equal(interpolate(a, b, 0.3)["w"], expected)


@pytest.mark.parametrize(
    ("change", "alpha", "message"),
    [
        (lambda b: b.pop("w"), 0.5, "A has w, B does not: only checkpoints of one architecture"),
        (lambda b: b.update(x=b["w"], y=b["w"]), 0.5, r"B has x \(and 1 more\), A does not"),
        (lambda b: b.update(w=b["w"][:3]), 0.5, r"w has shape \[5, 7\] in A and \[3, 7\] in B"),
        (lambda b: b["w"].fill_(torch.nan), 0.5, "B: w is not finite"),
        (lambda b: None, 1.5, r"alpha 1.5: it must lie between 0 \(A\) and 1 \(B\)"),
        (lambda b: None, torch.nan, "alpha nan"),
    ],
)
def test_what_cannot_be_merged(change, alpha, message):
    b = state(2)
    change(b)
    with pytest.raises(InputError, match=message):
        interpolate(state(1), b, alpha)


# The command


def merge(*arguments: object) -> None:
    """The command, in this process."""
    assert open_clip_ext.cli.main(["merge", *map(str, arguments)]) == 0


def test_the_command(tmp_path, trained):
    ends = [trained / "epoch_1.pt", trained / "epoch_2.pt"]
    command = ["merge", *ends, "--alpha", 0.25, "--out", tmp_path / "merged.pt"]
    done = python("-m", "open_clip_ext.cli", *command)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{tmp_path / 'merged.pt'}: 0.75 of {ends[0]} and 0.25 of {ends[1]}, ")
    assert done.stderr == ""
    assert os.listdir(tmp_path) == ["merged.pt"]


def test_ends_in_other_layouts(tmp_path, trained, model):
    ends = [trained / "epoch_1.pt", trained / "epoch_2.pt"]
    states = [torch.load(end, weights_only=True)["state_dict"] for end in ends]
    others = [tmp_path / "a.pt", tmp_path / "b.pt"]
    torch.save({f"_orig_mod.{key}": value for key, value in states[0].items()}, others[0])
    torch.save({"state_dict": {f"model.{key}": value for key, value in states[1].items()}}, others[1])
    merge(*others, "--alpha", 0.25, "--model", model, "--out", tmp_path / "merged.pt")
    merged = torch.load(tmp_path / "merged.pt", weights_only=True)["state_dict"]
    exact = interpolate(*states, 0.25)
    assert all(torch.equal(bits(value), bits(exact[key])) for key, value in merged.items())


@pytest.mark.parametrize(("suffix", "alpha"), [("pt", 0), ("safetensors", 0.25), ("pt", 1)])
def test_stock_open_clip_loads_what_comes_of_trainer_checkpoints(tmp_path, trained, model, suffix, alpha):
    out = tmp_path / f"merged.{suffix}"
    ends = [trained / "epoch_1.pt", trained / "epoch_2.pt"]
    merge(*ends, "--alpha", alpha, "--out", out)
    loaded = open_clip.create_model(model)
    open_clip.load_checkpoint(loaded, str(out), strict=True)
    a, b = (torch.load(end, weights_only=True)["state_dict"] for end in ends)
    exact = interpolate(a, b, alpha)
    assert all(torch.equal(bits(value), bits(exact[key])) for key, value in loaded.state_dict().items())
    assert not torch.equal(a["logit_scale"], b["logit_scale"])
    assert out.stat().st_size < ends[0].stat().st_size / 2.5  # no optimizer state


def test_a_merged_checkpoint_knows_its_model_and_activation(tmp_path, model, csv_data):
    flags = ["--model", model, "--train-data", csv_data, "--csv-separator", ",", "--force-quick-gelu"]
    flags += ["--image-mean", 0.1, 0.2, 0.3]
    run = train_here(tmp_path, *flags, "--epochs", 2).folder / "checkpoints"
    for name in ("m.pt", "m.safetensors"):
        out = tmp_path / name
        merge(run / "epoch_1.pt", run / "epoch_2.pt", "--alpha", 0.5, "--out", out)
        record = models.load(None, str(out), device="cpu").record
        assert (record["activation"], record["name"]) == ("QuickGELU", model)
        assert tuple(record["preprocess"]["mean"]) == (0.1, 0.2, 0.3)
        assert weights.read_note(out)["merge"].startswith("0.5 of ")


def test_model_folders_merge(tmp_path, trained, model):
    """`local-dir:FOLDER`, as the demo makes them."""
    from safetensors.torch import save_file

    folders = []
    for epoch in (1, 2):
        folder = tmp_path / str(epoch)
        support.write_model(folder)
        state_dict = torch.load(trained / f"epoch_{epoch}.pt", weights_only=True)["state_dict"]
        save_file(state_dict, folder / "open_clip_model.safetensors")
        folders.append(f"local-dir:{folder}")
    merge(*folders, "--alpha", 0.5, "--out", tmp_path / "m.pt")
    merged = torch.load(tmp_path / "m.pt", weights_only=True)["state_dict"]
    a, b = (torch.load(trained / f"epoch_{epoch}.pt", weights_only=True)["state_dict"] for epoch in (1, 2))
    assert torch.equal(merged["text_projection"], interpolate(a, b, 0.5)["text_projection"])


@pytest.fixture
def sentence(capsys):
    """The sentence that a merge in this process ends with."""

    def run(*arguments: object) -> str:
        with pytest.raises(SystemExit) as stopped:
            merge(*arguments)
        assert stopped.value.code == 2
        return capsys.readouterr().err.strip().splitlines()[-1].removeprefix("open_clip_ext: ")

    return run


def test_other_activations_do_not_merge(tmp_path, trained, model, csv_data, sentence):
    flags = ["--model", model, "--train-data", csv_data, "--csv-separator", ",", "--force-quick-gelu"]
    quick = train_here(tmp_path, *flags).folder / "checkpoints" / "epoch_1.pt"
    said = sentence(trained / "epoch_1.pt", quick, "--alpha", 0.5, "--out", tmp_path / "m.pt")
    assert "has activation GELU" in said
    assert "has QuickGELU: a model between them would be neither" in said
    assert not (tmp_path / "m.pt").exists()


def test_bad_calls(tmp_path, trained, sentence):
    a, b, out = trained / "epoch_1.pt", trained / "epoch_2.pt", tmp_path / "m.pt"
    assert sentence(a, b, "--alpha", 2, "--out", out).startswith("alpha 2: it must lie between 0")
    assert "no such tag and no such file" in sentence(a, "none.pt", "--alpha", 0.5, "--out", out)
    assert "name a file in a folder that exists" in sentence(a, b, "--alpha", 0.5, "--out", tmp_path)
    assert "name a file in a folder" in sentence(a, b, "--alpha", 0.5, "--out", tmp_path / "no" / "m.pt")
    (tmp_path / "broken.pt").write_bytes(b"not a checkpoint")
    said = sentence(a, tmp_path / "broken.pt", "--model", "ViT-B-32", "--alpha", 0.5, "--out", out)
    assert "is not of the architecture of ViT-B-32" in said or "broken.pt" in said
    bare = tmp_path / "bare.pt"
    torch.save(torch.load(a, weights_only=True)["state_dict"], bare)
    assert "give --model NAME" in sentence(bare, b, "--alpha", 0.5, "--out", out)
    assert os.listdir(tmp_path).count("m.pt") == 0


def test_a_full_disk_leaves_the_old_file(tmp_path, trained, monkeypatch):
    out = tmp_path / "m.pt"
    weights.save(out, state(1), {})
    before = out.read_bytes()

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="cannot be written"):
        weights.save(out, state(2), {})
    assert out.read_bytes() == before
    assert os.listdir(tmp_path) == ["m.pt"]


def test_a_kill_leaves_no_half_file(tmp_path):
    """Killed at any moment of writing, again and again, the file under the name is whole."""
    out = tmp_path / "m.safetensors"
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, torch; from pathlib import Path; from open_clip_ext.evaluation.weights import save\n"
        "a, b = ({'w': torch.full((500, 1000), x)} for x in (1.0, 2.0))\n"
        "while True: save(Path(sys.argv[1]), a, {}); save(Path(sys.argv[1]), b, {})"
    )
    with (tmp_path / "printed").open("w+") as printed:
        process = support.start(script, out, output=printed)
        while not out.exists():
            assert process.poll() is None, (tmp_path / "printed").read_text()
            time.sleep(0.01)
        time.sleep(0.1)
        assert process.poll() is None
        support.end(process)
    from safetensors.torch import load_file

    whole = load_file(out)["w"]
    assert whole.eq(whole[0, 0]).all()
