"""A --loss run starts from the weights it was given, or stops with a sentence; status 2, nothing written."""

from __future__ import annotations

import argparse
import json
import types

import open_clip
import open_clip_train.zero_shot
import pytest
import support
import torch
from safetensors.torch import save_file
from support import assert_same, train, train_here

from open_clip_ext import _startup, cli


@pytest.fixture
def flags(csv_data):
    return ["--train-data", csv_data, "--csv-separator", ",", "--loss", "degla"]


@pytest.fixture
def weights(tmp_path, model):
    """Other weights than those that the seed of a run would draw."""
    torch.manual_seed(7)
    path = tmp_path / "weights.pt"
    torch.save({"epoch": 3, "state_dict": open_clip.create_model(model).state_dict()}, path)
    return path


@pytest.fixture
def named(tmp_path, monkeypatch):
    """A tiny model that open_clip knows by name."""
    for known in ("_MODEL_CONFIGS", "_MODEL_CONFIG_PATHS"):
        monkeypatch.setattr(open_clip.factory, known, getattr(open_clip.factory, known).copy())
    (tmp_path / "tiny.json").write_text(json.dumps({**support.MODEL["model_cfg"], "embed_dim": 48}))
    open_clip.add_model_config(tmp_path / "tiny.json")
    return "tiny"


@pytest.fixture
def stop(tmp_path, model, capsys):
    """Run a call that must stop at start, in the trainer and in the doctor; its sentence."""

    def run(*flags) -> str:
        flags = ["--model", model, *flags]
        with pytest.raises(SystemExit) as stopped:
            train_here(tmp_path, *flags)
        assert stopped.value.code == 2
        assert not (tmp_path / "logs").exists()
        (sentence,) = capsys.readouterr().err.strip().splitlines()
        _startup.arm()
        assert cli.main(["doctor", "--quiet", "--", *map(str, flags), "--device", "cpu"]) == 1
        assert capsys.readouterr().err.strip().partition(": run: ")[2] == sentence.removeprefix(
            "open_clip_ext: "
        )
        return sentence.removeprefix("open_clip_ext: ")

    return run


def same_but_for_the_name(one, other):
    assert_same(
        *({key: value for key, value in run.checkpoint().items() if key != "name"} for run in (one, other))
    )


@pytest.mark.parametrize("own", [True, False], ids=["over its own weights", "alone"])
def test_a_file_next_to_a_folder_model_is_trained_as_if_it_lay_in_the_folder(tmp_path, flags, weights, own):
    state = torch.load(weights, weights_only=True)["state_dict"]
    folder, holder = tmp_path / "folder", tmp_path / "holder" / "folder"
    model, expected = support.write_model(folder), support.write_model(holder)
    torch.save(state, holder / "open_clip_model.pth")
    if own:
        torch.save(open_clip.create_model(model).state_dict(), folder / "open_clip_model.pth")
    given = train_here(tmp_path, *flags, "--model", model, "--pretrained", weights, name="given")
    there = train_here(tmp_path, *flags, "--model", expected, name="there")
    assert given.values("loss") == there.values("loss")
    same_but_for_the_name(given, there)
    assert f"open_clip_ext: loaded --pretrained {weights} into {model}" in given.output
    assert "Ignoring `pretrained" not in given.output


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module._orig_mod.", "model."])
def test_other_layouts_are_trained_from(tmp_path, flags, model, weights, prefix):
    state = torch.load(weights, weights_only=True)["state_dict"]
    other = tmp_path / "other.pt"
    torch.save({"model_state_dict": {prefix + key: value for key, value in state.items()}}, other)
    run = train_here(tmp_path, *flags, "--model", model, "--pretrained", other, "--lr", 0)
    assert_same(dict(run.checkpoint()["state_dict"]), dict(state))


def test_a_named_model_reads_them_too(tmp_path, flags, named):
    """Upstream itself loads the file there."""
    state = open_clip.create_model(named).state_dict()
    torch.save({f"_orig_mod.{key}": value for key, value in state.items()}, tmp_path / "weights.pt")
    run = train_here(tmp_path, *flags, "--model", named, "--pretrained", tmp_path / "weights.pt", "--lr", 0)
    assert_same(dict(run.checkpoint()["state_dict"]), dict(state))


def test_the_advice_to_start_anew_works(tmp_path, flags, model, capsys):
    """The sentence about another loss names flags that do what it says."""
    clip = train_here(tmp_path, *flags, "--model", model, "--loss", "clip", name="clip")
    path = clip.folder / "checkpoints" / "epoch_1.pt"
    with pytest.raises(SystemExit, match="2"):
        train_here(tmp_path, *flags, "--model", model, "--resume", path, name="new")
    sentence = capsys.readouterr().err.strip().splitlines()[-1]
    assert sentence.endswith(
        f"a checkpoint of --loss clip, resumed with --loss degla; a new run needs another --name, and "
        f"--pretrained {path} to start from its weights"
    )
    anew = train_here(tmp_path, *flags, "--model", model, "--pretrained", path, "--lr", 0, name="anew")
    assert_same(dict(anew.checkpoint()["state_dict"]), dict(clip.checkpoint()["state_dict"]))


def test_random_weights_are_not_taken_for_a_model(tmp_path, flags, model, weights):
    warning = (
        f"open_clip_ext: no weights were found for --model {model}, so it starts from random ones; to "
        "fine-tune a model, give --pretrained TAG|FILE"
    )
    random = train_here(tmp_path, *flags, "--model", model, "--pretrained", "", name="random")
    assert f"WARNING | {warning}" in random.output
    for start in (["--pretrained", weights], ["--resume", random.folder / "checkpoints" / "epoch_1.pt"]):
        run = train_here(tmp_path, *flags, "--model", model, *start, "--epochs", 2, name=start[0].strip("-"))
        assert "random ones" not in run.output


# --- what stops at start --------------------------------------------------------------------------------


def test_a_file_that_is_not_there(stop, flags, model):
    assert stop(*flags, "--pretrained", "none.pt") == (
        f"--pretrained none.pt: no such tag and no such file; --model {model} has no tags"
    )


def test_a_tag_for_a_folder_model(stop, flags, model):
    assert stop(*flags, "--pretrained", "openai") == (
        f"--pretrained openai: no such tag and no such file; --model {model} has no tags"
    )


def test_a_tag_that_a_named_model_has_not(stop, flags):
    sentence = stop(*flags, "--model", "ViT-B-32", "--pretrained", "laion2b")
    assert sentence.startswith(
        "--pretrained laion2b: no such tag and no such file; the tags of ViT-B-32: openai, "
    )


def test_a_model_with_a_typo(stop, flags):
    assert stop(*flags, "--model", "ViT-B-23").startswith(
        "--model ViT-B-23: open_clip has no such model (nearest: ViT-B-32"
    )


def test_a_folder_model_that_is_none(stop, flags, tmp_path):
    path = tmp_path / "folder" / "open_clip_config.json"
    name = f"local-dir:{path.parent}"
    assert stop(*flags, "--model", name) == (
        f"--model {name}: there is no {path}; name the folder of an open_clip model"
    )
    path.parent.mkdir()
    path.write_text("{")
    assert stop(*flags, "--model", name).startswith(f"--model {name}: {path} is not valid JSON (")
    path.write_text("{}")
    assert stop(*flags, "--model", name) == (
        f"--model {name}: {path} has no model_cfg; name the folder of an open_clip model"
    )


def test_a_file_that_holds_no_weights(stop, flags, tmp_path):
    path = tmp_path / "weights.pt"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert stop(*flags, "--pretrained", path) == (
        f"{path}: is a git-lfs pointer, not the file itself; get the file with `git lfs pull`"
    )
    torch.save({"param_groups": []}, path)
    assert stop(*flags, "--pretrained", path).startswith(f"{path}: holds the state of an optimizer")
    assert stop(*flags, "--pretrained", tmp_path) == (
        f"--pretrained {tmp_path}: is a folder; name the checkpoint file in it"
    )


def test_a_run_to_resume_that_is_not_there(stop, flags):
    assert stop(*flags, "--resume", "none.pt") == "--resume none.pt: there is no such file on this node"


@pytest.mark.parametrize("kind", ["folder", "named"])
def test_weights_of_another_architecture_stop_when_they_are_loaded(
    tmp_path, flags, weights, kind, named, capsys
):
    model = support.write_model(tmp_path / "wider", embed_dim=48) if kind == "folder" else named
    with pytest.raises(SystemExit, match="2"):
        train_here(tmp_path, *flags, "--model", model, "--pretrained", weights)
    sentence = capsys.readouterr().err.strip().splitlines()[-1]
    assert sentence.startswith(f"open_clip_ext: {weights}: is not of the architecture of --model {model} (")


# --- resuming -------------------------------------------------------------------------------------------


@pytest.mark.trainer
def test_a_run_of_one_process_goes_on_in_two(tmp_path, flags, model):
    """Upstream saves the names of DDP in a run of several, and asks for them there."""
    one = train_here(tmp_path, *flags, "--model", model, name="one")
    path = one.folder / "checkpoints" / "epoch_1.pt"
    more = ["--model", model, "--resume", path, "--epochs", 2]
    two = train(tmp_path, *flags, *more, name="two", processes=2)
    assert two.status == 0, two.output
    assert len(two.values("loss")) == 2
    assert next(iter(two.checkpoint("epoch_2.pt")["state_dict"])).startswith("module.")


def test_bare_weights_are_resumed_from_in_any_layout(tmp_path, flags, model, weights):
    state = torch.load(weights, weights_only=True)["state_dict"]
    torch.save({f"_orig_mod.{key}": value for key, value in state.items()}, tmp_path / "bare.pt")
    run = train_here(tmp_path, *flags, "--model", model, "--resume", tmp_path / "bare.pt", "--lr", 0)
    assert_same(dict(run.checkpoint()["state_dict"]), dict(state))


@pytest.mark.parametrize(
    "keys", [("epoch", "state_dict", "optimizer_states"), ("epoch", "model"), ("model",)]
)
def test_a_checkpoint_of_another_trainer_is_not_resumed_from(tmp_path, flags, model, weights, capsys, keys):
    state = torch.load(weights, weights_only=True)["state_dict"]
    content = dict.fromkeys(keys, 1) | {key: state for key in keys if key in ("state_dict", "model")}
    path = tmp_path / "theirs.ckpt"
    torch.save(content, path)
    with pytest.raises(SystemExit, match="2"):
        train_here(tmp_path, *flags, "--model", model, "--resume", path)
    assert capsys.readouterr().err.strip().splitlines()[-1] == (
        f"open_clip_ext: {path}: holds no run of open_clip's trainer to resume; to start from its weights, "
        f"give --pretrained {path}, not --resume"
    )
    train_here(tmp_path, *flags, "--model", model, "--pretrained", path, name="anew")


def test_a_file_to_resume_that_cannot_be_read_is_not_to_be_deleted(tmp_path, flags, model, weights, capsys):
    """Only a run's own newest checkpoint has another one before it."""
    state = torch.load(weights, weights_only=True)["state_dict"]
    whole, cut, more = tmp_path / "whole.safetensors", tmp_path / "cut.pt", tmp_path / "more.ckpt"
    save_file(state, whole)
    cut.write_bytes(weights.read_bytes()[:-1000])
    torch.save({"epoch": 1, "state_dict": state, "hparams": argparse.Namespace()}, more)
    for path, sentence in {
        whole: "holds no run of open_clip's trainer to resume; to start from its weights, give --pretrained",
        cut: "is cut off: the end of its archive is missing; copy it again",
        more: "holds objects besides weights (argparse.Namespace), not read because that can run code",
    }.items():
        with pytest.raises(SystemExit, match="2"):
            train_here(tmp_path, *flags, "--model", model, "--resume", path, name=path.stem)
        last = capsys.readouterr().err.strip().splitlines()[-1]
        assert last.startswith(f"open_clip_ext: {path}: {sentence}")
    train_here(tmp_path, *flags, "--model", model, "--pretrained", whole, name="anew")


# --- upstream's ImageNet --------------------------------------------------------------------------------


def of_numpy_2_4(output, target, topk=(1,)):
    raise TypeError("only 0-dimensional arrays can be converted to Python scalars")


@pytest.mark.parametrize("flag", ["--imagenet-val", "--imagenet-v2"])
def test_imagenet_where_upstream_s_evaluation_of_it_would_end_the_run(
    stop, flags, tmp_path, monkeypatch, flag
):
    monkeypatch.setattr(open_clip_train.zero_shot, "accuracy", of_numpy_2_4)
    assert stop(*flags, flag, tmp_path) == (
        f"{flag} {tmp_path}: upstream's evaluation of it stops with the installed numpy (only 0-dimensional "
        "arrays can be converted to Python scalars); give --eval-benchmarks imagenet "
        f"images={tmp_path} in its place"
    )


def problems(**options) -> list[str]:
    from open_clip_ext.host import preflight

    args = types.SimpleNamespace(imagenet_val=None, imagenet_v2=None, zeroshot_frequency=2)
    vars(args).update(options)
    return list(preflight._imagenet(args))


def test_imagenet_where_it_works_or_is_never_evaluated(monkeypatch):
    monkeypatch.setattr(open_clip_train.zero_shot, "accuracy", lambda *_, **__: [1.0])
    assert problems(imagenet_val="val") == []
    monkeypatch.setattr(open_clip_train.zero_shot, "accuracy", of_numpy_2_4)
    assert len(problems(imagenet_val="val")) == 1
    assert problems(imagenet_val="val", zeroshot_frequency=0) == []
    assert problems() == []


def test_the_operation_that_is_tried_is_the_one_that_fails():
    """Whatever numpy is installed, the look at start and upstream agree."""
    logits, target = torch.eye(10), torch.arange(10)
    try:
        open_clip_train.zero_shot.accuracy(logits, target, topk=(1, 5))
    except TypeError:
        assert len(problems(imagenet_v2="v2")) == 1
    else:
        assert problems(imagenet_v2="v2") == []
