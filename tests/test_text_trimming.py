"""Texts at their real length: the same features and gradients, for less."""

from __future__ import annotations

import copy
import random

import open_clip
import pytest
import support
import torch
from support import Photo, photos, train, train_here

from open_clip_ext.losses import DeGLALoss
from open_clip_ext.model import text_towers, text_trimming
from open_clip_ext.model.forward import extend_forward
from open_clip_ext.teacher import EMATeacher
from open_clip_ext.training.config import Settings
from open_clip_ext.training.run import Run

L, END = 40, 49407
# Plain SGD shows the scale of a gradient, which Adam hides, as it blows up the rounding of one that is zero.
SGD = ("--opt", "timm/momentum", "--momentum", 0, "--wd", 0, "--lr", 0.1)
TEXT = {**support.MODEL["model_cfg"]["text_cfg"], "context_length": L}


@pytest.fixture(scope="module")
def long_model(tmp_path_factory):
    """The tests' tiny model, with a context long enough for several widths."""
    return support.write_model(tmp_path_factory.mktemp("long"), text_cfg=TEXT)


@pytest.fixture(params=["CLIP", "CustomTextCLIP"])
def custom(request):
    return request.param == "CustomTextCLIP"


def create(tmp_path, custom=False, **text):
    torch.manual_seed(0)
    model = support.write_model(tmp_path / "model", text_cfg={**TEXT, **text})
    return open_clip.create_model(model, output_dict=True, force_custom_text=custom)


def texts(lengths, seed=0, context=L) -> torch.Tensor:
    """Random token ids, of `lengths` tokens each."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, END, (len(lengths), context), generator=draw)
    for row, length in zip(ids, lengths, strict=True):
        row[length - 1], row[length:] = END, 0
    return ids


def spread(count, seed):
    rng = random.Random(seed)
    return [rng.choice([rng.randint(2, 12), rng.randint(8, 20), rng.randint(1, L)]) for _ in range(count)]


def widths_run(monkeypatch):
    """The widths and numbers of rows that towers are run at from now on."""
    seen, run = [], text_towers.CausalText.run

    def watched(self, text, normalize):
        seen.append((text.shape[1], text.shape[0]))
        return run(self, text, normalize)

    monkeypatch.setattr(text_towers.CausalText, "run", watched)
    return seen


# ---- the same features and gradients


@pytest.mark.parametrize(
    "text",
    [
        {},
        {"pool_type": "eos", "eos_id": END},
        {"proj_bias": True},
        {"proj_type": "none", "width": 32},
        {"ls_init_value": 0.1},
        {"qk_norm": True},
        {"context_length": 77},
        {"context_length": 13},
    ],
    ids=str,
)
def test_features_and_every_gradient_are_those_at_full_length(tmp_path, custom, text):
    clip = create(tmp_path, custom, **text).double()
    stock = copy.deepcopy(clip)
    assert text_trimming.trim(clip) is None
    context = clip.context_length
    for seed in range(4):
        lengths = [min(length, context) for length in spread(50, seed)]
        ids = texts(lengths, seed, context)
        weights = torch.randn(50, 32, dtype=torch.float64)
        features = [model.encode_text(ids, normalize=True) for model in (clip, stock)]
        torch.testing.assert_close(*features, rtol=0, atol=1e-12)
        for model, encoded in zip((clip, stock), features, strict=True):
            model.zero_grad()
            (encoded * weights).sum().backward()
        for (name, mine), theirs in zip(clip.named_parameters(), stock.parameters(), strict=True):
            if theirs.grad is None:
                assert mine.grad is None, name
            else:
                scale = max(theirs.grad.abs().max().item(), 1)
                torch.testing.assert_close(mine.grad, theirs.grad, rtol=0, atol=1e-12 * scale, msg=name)


def test_in_fp32_they_are_equal_within_rounding(tmp_path, custom):
    clip = create(tmp_path, custom)
    stock = copy.deepcopy(clip)
    text_trimming.trim(clip)
    ids = texts(spread(50, 1))
    for model in (clip, stock):
        model.encode_text(ids, normalize=True)[:, 0].sum().backward()
    for mine, theirs in zip(clip.parameters(), stock.parameters(), strict=True):
        if theirs.grad is not None:
            assert (mine.grad - theirs.grad).norm() <= 1e-5 * theirs.grad.norm()


def test_checkpointed_blocks_are_recomputed_at_the_same_width(tmp_path, custom):
    clip = create(tmp_path, custom).double()
    stock = copy.deepcopy(clip)
    text_trimming.trim(clip)
    clip.set_grad_checkpointing()
    ids = texts(spread(50, 2))
    for model in (clip, stock):
        model.encode_text(ids)[:, 0].sum().backward()
    for mine, theirs in zip(clip.parameters(), stock.parameters(), strict=True):
        if theirs.grad is not None:
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=0, atol=1e-11)


def test_a_text_longer_than_the_context_is_what_the_tokenizer_made_of_it(tmp_path):
    clip = create(tmp_path).double()
    stock = copy.deepcopy(clip)
    text_trimming.trim(clip)
    ids = open_clip.get_tokenizer("ViT-B-32", context_length=L)(["word " * 100, "a dog", ""])
    torch.testing.assert_close(clip.encode_text(ids), stock.encode_text(ids), rtol=0, atol=1e-12)


def test_a_text_without_an_end_pools_where_upstream_does(tmp_path):
    clip = create(tmp_path, pool_type="eos", eos_id=END).double()
    stock = copy.deepcopy(clip)
    text_trimming.trim(clip)
    ids = torch.randint(1, END, (9, L))
    torch.testing.assert_close(clip.encode_text(ids), stock.encode_text(ids), rtol=0, atol=1e-12)


def test_the_model_stays_what_it_was(tmp_path, custom):
    clip = create(tmp_path, custom)
    before = copy.deepcopy(clip)
    assert text_trimming.trim(clip) is None
    assert isinstance(clip, type(before))
    assert type(clip).__qualname__ == type(before).__qualname__
    assert clip.state_dict().keys() == before.state_dict().keys()
    assert [n for n, _ in clip.named_modules()] == [n for n, _ in before.named_modules()]
    ids = texts(spread(9, 0))
    assert torch.equal(clip.eval().encode_text(ids), before.eval().encode_text(ids))  # the stock way


# ---- groups


@pytest.mark.parametrize("context", [5, 8, 16, 40, 64, 77, 256])
@pytest.mark.parametrize("cost", [0, 40, 4096])
def test_every_row_is_in_one_group_that_it_fits(context, cost):
    rng = random.Random(context + cost)
    for _ in range(100):
        lengths = [rng.randint(1, context) for _ in range(rng.randint(1, 60))]
        groups = text_trimming.plan(lengths, context, cost)
        assert sorted(row for _, rows in groups for row in rows) == list(range(len(lengths)))
        assert all(lengths[row] <= width for width, rows in groups for row in rows)
        assert {width for width, _ in groups} <= {*text_trimming.WIDTHS, context}
        assert all(width <= context for width, _ in groups)
        used = [width for width, _ in groups]
        assert used == sorted(set(used))
        for (width, rows), wider in zip(groups, used[1:], strict=False):
            assert len(rows) * (wider - width) > cost


def test_a_handful_of_rows_joins_the_next_width():
    lengths = [10] * 20 + [18] * 5 + [30]
    assert [(w, len(rows)) for w, rows in text_trimming.plan(lengths, 77, 40)] == [(12, 20), (20, 5), (32, 1)]
    lengths = [10] * 20 + [14] * 5 + [18] * 9
    assert [(w, len(rows)) for w, rows in text_trimming.plan(lengths, 77, 40)] == [(12, 20), (20, 14)]
    assert [(w, len(rows)) for w, rows in text_trimming.plan(lengths, 77, 4096)] == [(20, 34)]


# ---- texts that do not exist


def test_missing_texts_are_not_computed(tmp_path, monkeypatch, custom):
    clip = create(tmp_path, custom)
    ids = texts([10] * 15).view(3, 5, L)
    ids[0, 2:], ids[1, 1:] = 0, 0
    text_trimming.trim(clip)
    extend_forward(clip, {"neg": 4})
    seen = widths_run(monkeypatch)
    output = clip(torch.rand(3, 3, 32, 32), ids)
    assert seen == [(12, 8)]
    assert output["neg_valid"].sum(1).tolist() == [1, 0, 4]
    assert output["neg_text_features"].norm(dim=-1).allclose(output["neg_valid"].float())
    output["neg_text_features"][~output["neg_valid"]].sum().backward()
    assert all(p.grad is None or p.grad.eq(0).all() for p in clip.parameters())


def test_a_batch_without_any_companion(tmp_path):
    clip = create(tmp_path)
    text_trimming.trim(clip)
    extend_forward(clip, {"neg": 2})
    ids = torch.zeros(3, 3, L, dtype=torch.long)
    ids[:, 0] = texts([5, 9, 40])
    output = clip(torch.rand(3, 3, 32, 32), ids)
    assert output["neg_text_features"].eq(0).all()
    output["text_features"].sum().backward()
    assert clip.positional_embedding.grad.isfinite().all()


# ---- where it must stay off


REASONS = {
    "no causal mask": {"no_causal_mask": True},
    "a class token": {"embed_cls": True},
    "the token 'last'": {"pool_type": "last"},
    "the token 'first'": {"pool_type": "first"},
}


@pytest.mark.parametrize("reason", REASONS)
def test_a_tower_that_depends_on_the_padding_keeps_its_length(tmp_path, reason):
    clip = create(tmp_path, custom=True, **REASONS[reason])
    kind = type(clip)
    assert reason in text_trimming.trim(clip)
    assert type(clip) is kind


def test_what_is_not_known_keeps_its_length(tmp_path):
    class Mine(open_clip.CLIP):
        pass

    clip = create(tmp_path)
    clip.__class__ = Mine
    assert "Mine is not known" in text_trimming.trim(clip)

    clip = create(tmp_path, custom=True)
    clip.text = torch.nn.Sequential(clip.text)  # as an HFTextEncoder, of another type
    assert "Sequential is not known" in text_trimming.trim(clip)

    clip = create(tmp_path)
    setattr(clip, text_towers.entry(clip), lambda text, normalize=False: None)
    assert "not upstream's" in text_trimming.trim(clip)

    clip = create(tmp_path)
    clip.attn_mask = torch.zeros_like(clip.attn_mask)
    assert "not causal" in text_trimming.trim(clip)


@pytest.mark.parametrize("share", [1, 0.01])
def test_the_self_test_finds_what_nobody_thought_of(tmp_path, custom, share):
    class Mean(torch.nn.Module):
        """A last norm that mixes tokens."""

        def forward(self, x):
            return x + share * x.mean(1, keepdim=True)

    clip = create(tmp_path, custom)
    (clip.text if custom else clip).ln_final = Mean()
    state = torch.random.get_rng_state()
    assert "change its features by" in text_trimming.trim(clip)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert clip.training


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_self_test_passes_in_low_precision(tmp_path, custom, dtype):
    assert text_trimming.trim(create(tmp_path, custom).to(dtype)) is None


def test_one_line_says_why(tmp_path, csv_data):
    model = support.write_model(
        tmp_path / "m", text_cfg={**TEXT, "no_causal_mask": True, "pool_type": "last"}, custom_text=True
    )
    flags = ["--model", model, "--train-data", csv_data, "--csv-separator", ",", "--loss", "degla"]
    run = train_here(tmp_path, *flags)
    assert run.output.count("open_clip_ext: texts stay at full length, 40 tokens: it has no causal mask") == 1
    assert len(run.values("loss")) == 4


def test_the_self_test_is_made_without_tf32(tmp_path, monkeypatch):
    """Upstream allows it; its rounding alone would move a tower of twelve layers by more than is allowed."""
    allowed, run = [], text_towers.CausalText.run

    def watched(self, text, normalize):
        allowed.append(torch.backends.cuda.matmul.allow_tf32)
        return run(self, text, normalize)

    monkeypatch.setattr(text_towers.CausalText, "run", watched)
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        assert text_trimming.trim(create(tmp_path)) is None
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False
    assert allowed
    assert not any(allowed)


# ---- the teacher, and the real trainer


def uneven(count=32) -> list[Photo]:
    """Photos whose captions and negatives differ in length, and are not all there."""
    rng = random.Random(3)
    made = photos(count, seed=2)
    for photo in made:
        photo.caption += " and more" * rng.choice([0, 0, 0, 1, 4, 12])
        photo.negatives = [
            negative + " and more" * rng.choice([0, 0, 0, 1, 4, 12]) if rng.random() < 0.8 else ""
            for negative in photo.negatives
        ]
    return made


@pytest.fixture(scope="module")
def flags(tmp_path_factory, long_model):
    data = support.write_csv(tmp_path_factory.mktemp("uneven"), uneven())
    return ["--model", long_model, "--train-data", data, "--csv-separator", ",", "--loss", "degla"]


def armed_run(clip, pad_text):
    run = Run(Settings("degla", DeGLALoss, {}, {"neg": 4}, {"neg": "negatives"}, {}, pad_text))
    run.build_loss(torch.device("cpu"))
    run.begin(clip, torch.optim.SGD(clip.parameters(), 0.1), scaled=False, calls_per_step=1)
    return run


def test_the_teacher_s_texts_are_trimmed_too(tmp_path, monkeypatch, custom):
    ids = texts(spread(30, 5)).view(6, 5, L)
    image = torch.rand(6, 3, 32, 32, dtype=torch.float64)
    outputs = []
    for pad_text in (True, False):
        clip = create(tmp_path, custom).double()
        run = armed_run(clip, pad_text)
        run.teacher.double()  # EMATeacher keeps fp32
        monkeypatch.setattr(EMATeacher, "forward", lambda self, image, text: self.module(image, text))
        seen = widths_run(monkeypatch)
        outputs.append(clip.train()(image, ids))
        assert bool(seen) is not pad_text
        assert len(seen) % 2 == 0
        assert seen[: len(seen) // 2] == seen[len(seen) // 2 :]  # student, then teacher
        run.teacher.update(clip)
    for name in outputs[0]:
        torch.testing.assert_close(outputs[0][name], outputs[1][name], rtol=0, atol=1e-12)


def test_pad_text_needs_a_loss(tmp_path, capsys):
    with pytest.raises(SystemExit):
        train_here(tmp_path, "--model", "ViT-B-32", "--pad-text")
    assert "--pad-text has no effect without --loss" in capsys.readouterr().err


@pytest.mark.parametrize("extra", [(), ("--accum-freq", 2), ("--force-custom-text",)], ids=str)
def test_training_is_that_at_full_length(tmp_path, flags, monkeypatch, extra):
    seen = widths_run(monkeypatch)
    flags = [*flags, *SGD, *extra, "--epochs", 2]
    trimmed = train_here(tmp_path, *flags, name="trimmed")
    assert len(set(seen)) > 4
    seen.clear()
    padded = train_here(tmp_path, *flags, "--pad-text", name="padded")
    assert not seen
    assert trimmed.values("loss") == pytest.approx(padded.values("loss"), rel=1e-4)
    state = padded.checkpoint("epoch_2.pt")["state_dict"]
    for name, tensor in trimmed.checkpoint("epoch_2.pt")["state_dict"].items():
        torch.testing.assert_close(tensor, state[name], rtol=1e-4, atol=2e-6)


@pytest.mark.trainer
@pytest.mark.parametrize(
    "extra",
    [("--ddp-static-graph",), ("--accum-freq", 2), ("--ddp-static-graph", "--grad-checkpointing")],
    ids=lambda extra: " ".join(map(str, extra)).replace("--", ""),
)
def test_two_processes_with_different_lengths(tmp_path, flags, extra):
    """Each rank and each step has groups of its own; gradients are still those at full length."""
    common = [*flags, "--local-loss", "--gather-with-grad", "--epochs", 3, "--batch-size", 4, *SGD, *extra]
    states = []
    for name in ("trimmed", "padded"):
        run = train(tmp_path, *common, *(["--pad-text"] * (name == "padded")), name=name, processes=2)
        assert run.status == 0, run.output
        assert len(run.values("loss")) == 12 / (2 if "--accum-freq" in extra else 1)
        states.append(run.checkpoint("epoch_3.pt")["state_dict"])
    for name, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][name], rtol=1e-4, atol=2e-6)


def test_compiled_code_is_not_made_anew_for_every_mixture_of_lengths(tmp_path):
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    clip = create(tmp_path)
    stock = copy.deepcopy(clip)
    compiled = torch.compile(clip, backend="eager")
    armed_run(compiled, pad_text=False)
    graphs = []
    for step in range(20):
        ids = texts(spread(40, step), step).view(8, 5, L)
        ids[: step % 4, 1 + step % 3 :] = 0
        output = compiled.train()(torch.rand(8, 3, 32, 32), ids)
        output["text_features"].sum().backward()
        torch.testing.assert_close(
            output["text_features"], stock.encode_text(ids[:, 0], normalize=True), rtol=1e-4, atol=1e-5
        )
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[-1] <= 20
    assert graphs[-1] - graphs[5] <= 2  # a group of a single row is a case of its own
    torch._dynamo.reset()
