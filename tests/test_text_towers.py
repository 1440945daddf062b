"""Text towers other than CLIP's own: run at the length of their texts, and trained with every loss."""

from __future__ import annotations

import copy
import json
import math
import random
from pathlib import Path

import hugging_face
import open_clip
import pytest
import support
import torch
from hugging_face import CONTEXT, NO_DROPOUT
from our_losses import RUNS
from support import train, train_here

from open_clip_ext.errors import InputError
from open_clip_ext.evaluation import models
from open_clip_ext.model import text_towers, text_trimming
from open_clip_ext.model.forward import extend_forward
from open_clip_ext.teacher import EMATeacher

pytest.importorskip("transformers")

SGD = ("--opt", "timm/momentum", "--momentum", 0, "--wd", 0, "--lr", 0.1, "--aug-cfg", "scale=(1.0,1.0)")
PADDING = {"bert": 0, "roberta": 1, "mt5": 0, "m2m_100": 1}
POOLERS = ["mean_pooler", "cls_pooler", "cls_last_hidden_state_pooler"]
# Upstream's max_pooler takes no mask of numbers, up to release 3.3.
POOLERS += ["max_pooler"] * support.TASKS


def create(tmp_path, kind="roberta", pooler="mean_pooler", **tower):
    model = hugging_face.write_model(tmp_path / kind, kind, {"hf_pooler_type": pooler}, **tower)
    torch.manual_seed(0)
    return open_clip.create_model(model, output_dict=True)


def empty(kind="roberta", context=CONTEXT) -> torch.Tensor:
    """An empty text, as far as it matters here."""
    return torch.full((context,), PADDING[kind])


def texts(lengths, kind="roberta", context=CONTEXT) -> torch.Tensor:
    """Random token ids, of `lengths` tokens each."""
    draw = torch.Generator().manual_seed(sum(lengths))
    ids = torch.randint(2, 40, (len(lengths), context), generator=draw)
    for row, length in zip(ids, lengths, strict=True):
        row[length:] = PADDING[kind]
    return ids


def spread(count, seed):
    rng = random.Random(seed)
    return [
        rng.choice([rng.randint(1, 12), rng.randint(8, 20), rng.randint(1, CONTEXT)]) for _ in range(count)
    ]


def widths_run(monkeypatch):
    """The widths and numbers of rows that towers are run at from now on."""
    seen, run = [], text_towers.MaskedText.run

    def watched(self, text, normalize):
        seen.append((text.shape[1], text.shape[0]))
        return run(self, text, normalize)

    monkeypatch.setattr(text_towers.MaskedText, "run", watched)
    return seen


# ---- the same features and gradients


@pytest.mark.parametrize("pooler", POOLERS)
@pytest.mark.parametrize("kind", hugging_face.TOWERS)
def test_features_and_every_gradient_are_those_at_full_length(tmp_path, kind, pooler):
    clip = create(tmp_path, kind, pooler).double().eval()
    stock = copy.deepcopy(clip)
    assert text_trimming.trim(clip, empty(kind), evaluation=True) is None
    ids = texts(spread(50, 1), kind)
    weights = torch.randn(50, 32, dtype=torch.float64)
    features = [model.encode_text(ids, normalize=True) for model in (clip, stock)]
    torch.testing.assert_close(*features, rtol=0, atol=1e-12)
    for encoded in features:
        (encoded * weights).sum().backward()
    for (name, mine), theirs in zip(clip.named_parameters(), stock.parameters(), strict=True):
        if theirs.grad is None:
            assert mine.grad is None, name
        else:
            scale = max(theirs.grad.abs().max().item(), 1)
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=0, atol=1e-12 * scale, msg=name)


@pytest.mark.parametrize("kind", hugging_face.TOWERS)
def test_in_fp32_they_are_equal_within_rounding(tmp_path, kind):
    clip = create(tmp_path, kind).eval()
    stock = copy.deepcopy(clip)
    assert text_trimming.trim(clip, empty(kind), evaluation=True) is None
    ids = texts(spread(50, 2), kind)
    features = [model.encode_text(ids, normalize=True) for model in (clip, stock)]
    torch.testing.assert_close(*features, rtol=0, atol=1e-6)


def test_texts_are_run_in_groups_of_similar_length(tmp_path, monkeypatch):
    clip = create(tmp_path)
    text_trimming.trim(clip, empty())
    seen = widths_run(monkeypatch)
    clip.train().encode_text(texts([10] * 20 + [18] * 8 + [60]))
    assert seen == [(12, 20), (20, 8), (CONTEXT, 1)]
    seen.clear()
    clip.eval().encode_text(texts([10] * 20))
    assert not seen  # upstream's way


def test_a_missing_text_is_told_from_padding_and_not_computed(tmp_path, monkeypatch):
    """To RoBERTa 0 begins a text, and padding is 1."""
    clip = create(tmp_path)
    text_trimming.trim(clip, empty())
    extend_forward(clip, {"neg": 2})
    seen = widths_run(monkeypatch)
    ids = texts([10] * 6).view(2, 3, CONTEXT)
    ids[:, :, 0] = 0
    ids[0, 1] = 0
    output = clip.train()(torch.rand(2, 3, 32, 32), ids)
    assert seen == [(12, 5)]
    assert output["neg_valid"].tolist() == [[False, True], [True, True]]
    assert output["neg_text_features"].norm(dim=-1).allclose(output["neg_valid"].float())


def test_in_training_mode_dropout_alone_makes_the_difference(tmp_path):
    ids = texts(spread(20, 3))
    for tower, same in (({}, False), (NO_DROPOUT, True)):
        clip = create(tmp_path / str(same), **tower).train()
        stock = copy.deepcopy(clip)
        text_trimming.trim(clip, empty())
        features = []
        for model in (clip, stock):
            torch.manual_seed(1)
            features.append(model.encode_text(ids, normalize=True))
        assert torch.allclose(*features, rtol=0, atol=1e-6) is same


# ---- where it must stay off


def test_a_tower_that_attends_to_its_padding_keeps_its_length(tmp_path):
    clip = create(tmp_path)
    reason = text_trimming.trim(clip, empty("bert"))
    assert reason == "the tokenizer fills texts with the id 0 at their end, and its tower masks the id 1"
    clip.text.config.pad_token_id = None
    assert text_trimming.trim(clip, empty()) == "its configuration names no padding"


def test_the_self_test_finds_what_nobody_thought_of(tmp_path):
    class Last(torch.nn.Module):
        def forward(self, x, attention_mask):
            return x.last_hidden_state[:, -1]

    clip = create(tmp_path)
    clip.text.pooler = Last()
    assert "change its features by" in text_trimming.trim(clip, empty())
    assert clip.training


@pytest.mark.parametrize(
    ("pooler", "context"), [("mean_pooler", 100), *[("max_pooler", CONTEXT)] * (not support.TASKS)]
)
def test_a_tower_that_fails_stops_with_a_sentence(tmp_path, pooler, context):
    """There are no more than 80 positions."""
    clip = create(tmp_path, pooler=pooler)
    with pytest.raises(InputError, match=f"fails on texts of {context} tokens .*hf_pooler_type") as error:
        text_trimming.trim(clip, empty(context=context))
    assert "\n" not in str(error.value)


# ---- training


@pytest.fixture(scope="module")
def towers(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("towers")
    custom = support.MODEL["model_cfg"]["text_cfg"]
    return {kind: hugging_face.write_model(folder / kind, kind) for kind in ("bert", "roberta", "mt5")} | {
        "custom": support.write_model(folder / "custom", custom_text=True, text_cfg=custom),
        "no dropout": hugging_face.write_model(folder / "exact", "roberta", **NO_DROPOUT),
    }


def uneven() -> list[support.Photo]:
    """Photos whose captions and negatives differ in length, and are not all there."""
    rng = random.Random(3)
    made = support.photos(16, seed=1)
    for photo in made:
        photo.caption = photo.caption[: rng.choice([12, 20, 40])]
        photo.negatives = [n[: rng.choice([8, 30])] if rng.random() < 0.8 else "" for n in photo.negatives]
    return made


@pytest.fixture(scope="module")
def one_batch(tmp_path_factory) -> Path:
    return support.write_csv(tmp_path_factory.mktemp("batch"), uneven())


def flags(model, data, loss="degla") -> list[object]:
    return ["--model", model, "--train-data", data, "--csv-separator", ",", "--loss", loss]


@pytest.mark.parametrize("tower", ["roberta", "custom"])
@pytest.mark.parametrize("name", RUNS)
def test_every_loss_trains_it(tmp_path, towers, every_kind, reference_texts, tower, name):
    words = RUNS[name]
    if (tower, name) == ("roberta", "anchored"):  # its tokenizer knows bytes alone
        words = (*words, "--loss-cfg", *reference_texts)
    if (tower, name) == ("roberta", "fsc-clip"):  # this tower's words are not in the space of its features
        words = (*words, "--loss-cfg", "local_weight=0")
    run = train_here(tmp_path, *flags(towers[tower], every_kind)[:-2], *words, "--batch-size", 16)
    assert len(run.values("loss")) == 2
    assert all(math.isfinite(value) for value in run.values("loss"))
    assert run.output.count("open_clip_ext: texts run at their real length, up to ") == 1


@pytest.mark.parametrize("tower", ["bert", "mt5"])
def test_other_towers_train(tmp_path, towers, every_kind, tower):
    run = train_here(tmp_path, *flags(towers[tower], every_kind), "--workers", 1)
    assert len(run.values("loss")) == 4
    line = f"texts run at their real length, up to {CONTEXT} tokens: its tower masks padding"
    assert run.output.count(f"open_clip_ext: {line}") == 1
    assert "so it starts, apart from its text tower, from random ones" in run.output


@pytest.mark.parametrize("tower", ["bert", "roberta", "mt5"])
def test_anchors_of_any_loss_train_there(tmp_path, towers, csv_data, reference_texts, tower):
    cfg = ("text_anchor=1", "image_anchor=1", "similarity_anchor=1", *reference_texts)
    run = train_here(tmp_path, *flags(towers[tower], csv_data, "clip"), "--loss-cfg", *cfg)
    for term in ("image_anchor_loss", "text_anchor_loss", "similarity_anchor_loss"):
        assert len(run.values(term)) == 4
        assert 0 < run.values(term)[-1] < 10


def test_a_tokenizer_of_bytes_has_no_words_to_make_reference_texts_of(tmp_path, towers, csv_data, capsys):
    with pytest.raises(SystemExit) as stopped:
        train_here(tmp_path, *flags(towers["roberta"], csv_data, "clip"), "--loss-cfg", "text_anchor=1")
    assert stopped.value.code == 2
    assert (
        "text_anchor: the words of the tokenizer HFTokenizer are not known; give texts, with --loss-cfg "
        "anchor_texts=FILE"
    ) in capsys.readouterr().err


def test_the_local_part_of_fsc_clip_says_what_to_do(tmp_path, towers, every_kind, capsys):
    with pytest.raises(SystemExit) as stopped:
        train_here(tmp_path, *flags(towers["bert"], every_kind, "fsc-clip"))
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert "its text tower HFTextEncoder has none in the space of its features; choose a --model" in error


def test_equal_texts_are_known_by_their_ids(tmp_path, towers, every_kind):
    run = train_here(tmp_path, *flags(towers["roberta"], every_kind), "--loss-cfg", "same=mask")
    assert all(math.isfinite(value) for value in run.values("loss"))


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        ("tower", "tower is not a folder on this node"),
        ("tokenizer", "has no tokenizer that can be read"),
    ],
)
def test_a_part_that_is_not_there_stops_with_a_sentence(tmp_path, csv_data, capsys, missing, sentence):
    model = hugging_face.write_model(tmp_path / "m")
    for path in (tmp_path / "m").glob(f"{missing}*"):
        path.rename(tmp_path / path.name)
    with pytest.raises(SystemExit) as stopped:
        train_here(tmp_path, *flags(model, csv_data))
    assert stopped.value.code == 2
    assert sentence in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("changed", "extra", "sentence"),
    [
        ("tower", (), "save its weights there with save_pretrained, or give those of the whole model"),
        ("length", (), "its context_length is no number of tokens; give one"),
        ("padding", (), "its tokenizer fails on an empty text"),
        (
            "nothing",
            ("--precision", "bf16"),
            "give --precision amp_bf16 or fp32, for it cannot be run in fp16",
        ),
    ],
)
def test_what_cannot_be_run_stops_with_a_sentence(tmp_path, csv_data, capsys, changed, extra, sentence):
    model = hugging_face.write_model(
        tmp_path / "m", text={"context_length": None} if changed == "length" else {}
    )
    if changed == "tower":
        (tmp_path / "m" / "tower" / "model.safetensors").unlink()
    if changed == "padding":
        path = tmp_path / "m" / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"pad_token": None}))
    with pytest.raises(SystemExit) as stopped:
        train_here(tmp_path, *flags(model, csv_data), *extra)
    assert stopped.value.code == 2
    assert sentence in capsys.readouterr().err.splitlines()[-1]


def test_a_checkpoint_has_the_weights_of_a_tower_whose_folder_has_none(tmp_path, csv_data):
    model = hugging_face.write_model(tmp_path / "m")
    first = train_here(tmp_path, *flags(model, csv_data), name="first").folder / "checkpoints" / "epoch_1.pt"
    (tmp_path / "m" / "tower" / "model.safetensors").unlink()
    more = ("--pretrained", first, "--lr", 0, "--wd", 0)
    again = train_here(tmp_path, *flags(model, csv_data), *more, name="again")
    loaded = models.load(None, str(again.folder / "checkpoints" / "epoch_1.pt")).model.state_dict()
    for name, tensor in torch.load(first, weights_only=True)["state_dict"].items():
        torch.testing.assert_close(loaded[name], tensor, msg=name)


def test_the_teacher_makes_no_checkpoints_for_a_backward_pass(tmp_path):
    clip = create(tmp_path)
    clip.set_grad_checkpointing()
    for name, module in EMATeacher(clip).module.named_modules():
        assert not getattr(module, "grad_checkpointing", False), name
    for name, module in EMATeacher(create(tmp_path / "plain")).module.named_modules():
        assert not getattr(module, "gradient_checkpointing", False), name


@pytest.mark.parametrize("extra", [(), ("--accum-freq", 2), ("--grad-checkpointing",)], ids=str)
def test_training_is_that_at_full_length(tmp_path, towers, one_batch, monkeypatch, extra):
    seen = widths_run(monkeypatch)
    common = [*flags(towers["no dropout"], one_batch), *SGD, *extra, "--epochs", 2]
    real = train_here(tmp_path, *common, name="real")
    assert len({width for width, _ in seen}) > 2
    seen.clear()
    full = train_here(tmp_path, *common, "--pad-text", name="full")
    assert not seen
    assert f"texts stay at full length, {CONTEXT} tokens: --pad-text" in full.output
    assert real.values("loss") == pytest.approx(full.values("loss"), rel=1e-4)
    state = full.checkpoint("epoch_2.pt")["state_dict"]
    for name, tensor in real.checkpoint("epoch_2.pt")["state_dict"].items():
        torch.testing.assert_close(tensor, state[name], rtol=1e-4, atol=2e-6)


@pytest.mark.trainer
def test_parts_of_a_batch_and_two_processes_equal_one(tmp_path, towers, one_batch):
    """Each process runs its texts at widths of its own."""
    common = [*flags(towers["no dropout"], one_batch), *SGD]
    one = train_here(tmp_path, *common, "--batch-size", 16, "--epochs", 2, name="one")
    distributed = ("--local-loss", "--gather-with-grad", "--epochs", 2)
    two = train(tmp_path, *common, *distributed, name="two", processes=2)
    assert two.status == 0, two.output
    theirs = {k.removeprefix("module."): v for k, v in two.checkpoint("epoch_2.pt")["state_dict"].items()}
    for name, tensor in one.checkpoint("epoch_2.pt")["state_dict"].items():
        torch.testing.assert_close(theirs[name], tensor, rtol=1e-4, atol=2e-6)
    parts = train_here(tmp_path, *common, "--accum-freq", 2, name="parts")
    assert parts.values("loss") == pytest.approx(one.values("loss")[:1], rel=1e-3, abs=2e-4)


def test_a_resumed_run_is_the_unstopped_one_dropout_and_all(tmp_path, towers, csv_data):
    common = [*flags(towers["roberta"], csv_data), "--epochs", 2, "--save-frequency", 1]
    whole = train_here(tmp_path, *common, name="whole")
    first = whole.folder / "checkpoints" / "epoch_1.pt"
    again = train_here(tmp_path, *common, "--resume", first, name="again")
    states = [run.checkpoint("epoch_2.pt") for run in (again, whole)]
    support.assert_same(*[state["state_dict"] for state in states])
    support.assert_same(*[state["optimizer"] for state in states])
