"""The text tower goes back to its start: when, by how much, and what else stays as it was."""

from __future__ import annotations

import sys

import open_clip
import pytest
import torch
import torch.distributed as dist
from support import MODEL, assert_same, together, train_here
from torch.nn.parallel import DistributedDataParallel

from open_clip_ext.errors import InputError
from open_clip_ext.losses import CLIPLoss, DeGLALoss
from open_clip_ext.training.config import Settings
from open_clip_ext.training.generations import Schedule, parse
from open_clip_ext.training.run import Run


def tiny():
    torch.manual_seed(0)
    return open_clip.CLIP(**MODEL["model_cfg"], output_dict=True)


def begun(student, optimizer, every, loss=CLIPLoss, scaled=False, options=(), **schedule):
    settings = Settings(
        "any", loss, dict(options), dict(loss.companions), {}, {}, generations=Schedule(every, **schedule)
    )
    run = Run(settings)
    run.build_loss(torch.device("cpu"))
    run.begin(student, optimizer, scaled=scaled, calls_per_step=1)
    return run


def is_text(name):
    return not name.startswith(("visual.", "logit_"))


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_weights_are_those_of_the_formula():
    """Text: back after each third step. Images: not in the two steps after that. The teacher: as ever."""
    student, lr, keep, a = tiny(), 0.5, 0.25, 0.9
    optimizer = torch.optim.SGD(student.parameters(), lr)
    run = begun(student, optimizer, 3, DeGLALoss, keep=keep, pause=2, options=[("ema_decay", a)])
    start, now, teacher = weights(student), weights(student), weights(student)
    for step in range(1, 9):
        for name, p in student.named_parameters():
            p.grad = torch.randn_like(p)
            paused = name.startswith("visual.") and step in (4, 5, 7, 8)
            now[name] = now[name] - (0 if paused else lr) * p.grad
            teacher[name] = a * teacher[name] + (1 - a) * now[name]
            if is_text(name) and step % 3 == 0:
                now[name] = (1 - keep) * start[name] + keep * now[name]
        optimizer.step()
        torch.testing.assert_close(weights(student), now)
        torch.testing.assert_close(weights(run.teacher.module), teacher)


OPTIMIZERS = {"plain": {}, "fused": {"fused": True}}


@pytest.fixture(params=OPTIMIZERS)
def adamw(request):
    return lambda model: torch.optim.AdamW(
        model.parameters(), 1e-2, weight_decay=0.1, **OPTIMIZERS[request.param]
    )


def step(student, optimizer, seed):
    torch.manual_seed(seed)
    for p in student.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()


def test_the_text_tower_trains_as_in_a_run_that_begins(adamw):
    """Its moments and the number of its steps are those of a new optimizer; those of others go on."""
    student = tiny()
    optimizer = adamw(student)
    begun(student, optimizer, 2)
    step(student, optimizer, 1)
    step(student, optimizer, 2)
    step(student, optimizer, 3)
    fresh = tiny()
    step(fresh, adamw(fresh), 3)
    ours, new = weights(student), weights(fresh)
    assert_same(*({name: p for name, p in w.items() if is_text(name)} for w in (ours, new)))
    assert optimizer.state[student.logit_scale]["step"] == 3
    assert optimizer.state[student.text_projection]["step"] == 1


def test_momentum_and_weight_decay_do_not_move_a_paused_image_tower(adamw):
    student = tiny()
    optimizer = adamw(student)
    begun(student, optimizer, 2, pause=1)
    step(student, optimizer, 1)
    step(student, optimizer, 2)
    before = weights(student)
    step(student, optimizer, 3)
    after = weights(student)
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert moved == {name for name in after if not name.startswith("visual.")}
    step(student, optimizer, 4)
    assert not torch.equal(after["visual.proj"], student.visual.proj)


def test_steps_that_a_scaler_skips_do_not_count(adamw):
    student = tiny()
    optimizer = adamw(student)
    scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    run = begun(student, optimizer, 2, scaled=True, pause=1)
    start = weights(student)

    def scaled(gradient):
        optimizer.zero_grad()
        scaler.scale(sum(p.sum() for p in student.parameters()) * gradient).backward()
        scaler.step(optimizer)
        scaler.update()
        return weights(student)

    moved = scaled(1.0)
    assert_same(scaled(torch.inf), moved)
    assert run.steps == 1
    back = scaled(1.0)  # the second that took place
    assert torch.equal(back["text_projection"], start["text_projection"])
    assert_same(scaled(torch.inf), back)
    paused = scaled(1.0)  # so this is the first of the generation
    assert torch.equal(paused["visual.proj"], back["visual.proj"])
    assert not torch.equal(paused["text_projection"], back["text_projection"])
    assert not torch.equal(scaled(1.0)["visual.proj"], back["visual.proj"])


def test_locked_layers_stay_as_they_are():
    student = tiny()
    student.lock_text_tower(unlocked_layers=1)
    student.token_embedding.weight.requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in student.parameters() if p.requires_grad], 0.1)
    run = begun(student, optimizer, 1, keep=0.3)
    assert "token_embedding.weight" not in run.generations.start
    before = student.token_embedding.weight.clone()
    step(student, optimizer, 1)
    assert torch.equal(student.token_embedding.weight, before)


@pytest.mark.parametrize(
    ("locked", "schedule", "sentence"),
    [
        ("text", {}, "--generations has no effect on a locked text tower; leave it out, or --lock-text"),
        (
            "image",
            {"pause": 1},
            "--generations pause=1 has no effect on a locked image tower; leave it out",
        ),
    ],
)
def test_a_locked_tower_is_refused(locked, schedule, sentence):
    student = tiny()
    for name, p in student.named_parameters():
        if name.startswith("visual.") if locked == "image" else is_text(name):
            p.requires_grad_(False)
    with pytest.raises(InputError) as refused:
        begun(student, torch.optim.SGD([student.logit_scale], 0.1), 2, **schedule)
    assert str(refused.value) == sentence


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("keep=0.5", "--generations keep=0.5: add every=STEPS, the length of a generation"),
        ("every=0", "--generations every=0: give a number of steps, at least 1"),
        ("every=2 keep=1", "--generations keep=1: give a share of at least 0 and below 1"),
        ("every=2 keep=nan", "--generations keep=nan: give a share of at least 0 and below 1"),
        (
            "every=2 pause=2",
            "--generations pause=2: give a number of steps from 0 to 1, as a generation has 2",
        ),
        ("every=2.5", "--generations every=2.5: every must be int, not '2.5'"),
        ("steps=2", "--generations steps: --generations has no such option; its options: every, keep, pause"),
        ("every=2 every=3", "--generations every: given twice"),
    ],
)
def test_a_wrong_schedule_is_refused(words, sentence):
    with pytest.raises(InputError) as refused:
        parse(words.split())
    assert str(refused.value) == sentence


@pytest.mark.trainer
def test_another_schedule_after_a_resume_is_refused(tmp_path, model, csv_data, capsys):
    flags = ["--model", model, "--train-data", csv_data, "--csv-separator", ",", "--loss", "clip"]
    first = train_here(tmp_path, *flags, "--generations", "every=3", name="first")
    assert "generations: every=3 keep=0.0 pause=0 steps: 0" in first.output
    assert first.output.count("generation 2 begins after step 3: the text tower keeps 0 of its weights") == 1
    path = first.folder / "checkpoints" / "epoch_1.pt"
    for again, now in ((("--generations", "every=2"), "every=2 keep=0.0 pause=0"), ((), "none")):
        with pytest.raises(SystemExit, match="2"):
            train_here(tmp_path, *flags, *again, "--resume", path, "--epochs", 2, name=now[:7])
        error = capsys.readouterr().err
        assert (
            f"a run with --generations every=3 keep=0.0 pause=0, resumed with {now}; give the same" in error
        )


def rank() -> None:
    """What each of two ranks does: the same weights everywhere, whatever data it has."""
    dist.init_process_group("gloo")
    student = tiny()
    wrapped = DistributedDataParallel(student)
    optimizer = torch.optim.AdamW(student.parameters(), 1e-3)
    run = begun(student, optimizer, 2, keep=0.5, pause=1)
    torch.manual_seed(dist.get_rank())
    for _ in range(5):
        optimizer.zero_grad()
        out = wrapped(torch.randn(3, 3, 32, 32), torch.randint(1, 9, (3, 16)))
        run.loss(**out, output_dict=True)["contrastive_loss"].backward()
        optimizer.step()
        for p in student.parameters():
            both = [torch.empty_like(p) for _ in range(2)]
            dist.all_gather(both, p.detach())
            assert torch.equal(*both)
    print(f"the same after {run.steps} steps")
    dist.destroy_process_group()


def test_two_ranks_go_back_together():
    status, output = together(__file__, processes=2)
    assert status == 0, output
    assert output.count("the same after 5 steps") == 2


if __name__ == "__main__":
    sys.exit(rank())
