"""The second host, open_clip's task API: what it alone has, and that it agrees with the installed release.

They run on the source that OPEN_CLIP_EXT_UPSTREAM names (docs/compatibility.md), as all tests of training
then do, and are skipped without one. The release is the one that is installed beside it.
"""

from __future__ import annotations

import io
import json
import tarfile

import pytest
import support
import torch
from our_losses import CLASSES, TERMS
from support import add_file, assert_same, photos, together, train, train_here

from open_clip_ext import host
from open_clip_ext.host import released, task_api

pytestmark = pytest.mark.trainer
on_tasks = pytest.mark.skipif(not support.TASKS, reason="OPEN_CLIP_EXT_UPSTREAM names no such open_clip")


@pytest.mark.parametrize("adapter", [released.Released, task_api.TaskAPI])
def test_the_adapter_is_chosen_by_the_parameters_of_upstream_s_functions(adapter):
    known = {(seam.module, seam.name): seam.parameters for seam in adapter.seams}

    def parameters(module: str, name: str) -> tuple[str, ...]:
        if (module, name) not in known:
            raise AttributeError(name)
        return known[module, name]

    assert host.choose(parameters) == (adapter, {})


def test_batches_of_dictionaries_lose_nothing_but_the_number():
    layout = task_api.DictLayout()
    sample = layout.with_number({"image": 1, "text": "a"}, 7)
    batch, number = layout.split_numbers(layout.with_text(sample, "b"))
    assert (batch, number) == ({"image": 1, "text": "b"}, 7)
    assert layout.text(sample) == "a"


@pytest.fixture
def flags(model, every_kind):
    return ["--model", model, "--train-data", every_kind, "--csv-separator", ","]


@pytest.fixture
def stop(tmp_path, model, capsys):
    """Run a call that must stop; its sentence."""

    def run(*flags: object) -> str:
        with pytest.raises(SystemExit, match="2"):
            train_here(tmp_path, "--model", model, *flags)
        sentence = capsys.readouterr().err.strip().splitlines()[-1]
        return sentence.removeprefix("open_clip_ext: ")

    return run


# --- what is refused ---


REFUSED = {
    ("--fsdp",): "--fsdp cannot go with --loss: it gathers the optimizer's state without that of the loss",
    ("--use-naflex",): "--use-naflex cannot go with --loss: its batches, and those of GenLIP, GenLAP",
    ("--dataset-type", "synthetic-audio"): "--dataset-type synthetic-audio cannot go with --loss: it brings",
    ("--torchcompile", "--torchcompile-strategy", "step"): "--torchcompile-strategy step cannot go with",
    ("--model", "coca_ViT-B-32"): "--model coca_ViT-B-32 cannot go with --loss: CoCa has a task of its own",
}


@on_tasks
@pytest.mark.parametrize("extra", REFUSED, ids=" ".join)
def test_what_the_losses_cannot_go_with_is_refused(flags, stop, extra):
    assert stop(*flags, "--loss", "degla", *extra).startswith(REFUSED[extra])


class SoundTask:
    """Stands for those whose models are large."""

    def __init__(self, *_: object, **__: object) -> None:
        pass


@on_tasks
@pytest.mark.parametrize(
    ("task", "variable_text", "reason"),
    [
        (SoundTask, False, "open_clip trains it as a SoundTask, which has a loss of its own"),
        (None, True, "its texts have another length in each batch"),
    ],
)
def test_a_model_that_is_trained_in_another_way_is_refused(
    flags, stop, monkeypatch, task, variable_text, reason
):
    import open_clip_train.main

    create_task = open_clip_train.main.create_task

    def create(args, model, **options):
        args.variable_text = variable_text
        return create_task.func(task or create_task.__wrapped__, args, model, **options)

    monkeypatch.setattr(open_clip_train.main, "create_task", create)
    assert stop(*flags, "--loss", "degla").endswith(f"cannot go with --loss: {reason}")


@on_tasks
@pytest.mark.parametrize("loss", [(), ("--loss", "degla")], ids=["plain", "degla"])
def test_the_former_loop_trains_plain_runs_alone(tmp_path, flags, loss):
    common = [*support.COMMON, "--logs", tmp_path / "logs", "--name", "run"]
    status, output = together("-m", "open_clip_train.legacy_main", *common, *flags, *loss)
    assert status == (2 if loss else 0), output
    refused = "--loss cannot go with open_clip_train.legacy_main; start open_clip_train.main instead\n"
    assert output.endswith(refused) == bool(loss)


# --- captions where only this host finds them ---


def write_named(folder, made, fields) -> list[object]:
    """Flags of a run on a shard whose samples have the files that `fields` makes of a photo."""
    folder.mkdir(parents=True)
    with tarfile.open(folder / "0.tar", "w") as tar:
        for i, photo in enumerate(made):
            png = io.BytesIO()
            photo.image.save(png, "png")
            for name, content in {"png": png.getvalue(), **fields(photo)}.items():
                add_file(tar, f"{i:05d}.{name}", content)
    shard = ["--train-data", folder / "0.tar", "--dataset-type", "webdataset"]
    return [*shard, "--train-num-samples", len(made), "--loss", "negclip", "--seed", 1]


def stock(photo):
    return {"txt": photo.caption.encode(), "negatives.json": json.dumps(photo.negatives).encode()}


def inside_json(photo):
    texts = {"short": photo.caption, "long": f" {photo.caption}\n", "negatives": photo.negatives}
    return {"json": json.dumps(texts).encode()}


def renamed(photo):
    return {"caption": photo.caption.encode(), "negatives.json": json.dumps(photo.negatives).encode()}


ELSEWHERE = {
    "a key in json": (inside_json, ("--json-text-key", "short")),
    "the first key that is there": (inside_json, ("--json-text-key", "none;long")),
    "another field": (renamed, ("--text-key", "txt;caption", "--image-key", "jpg;png")),
}


@on_tasks
@pytest.mark.parametrize(("fields", "extra"), ELSEWHERE.values(), ids=ELSEWHERE)
def test_captions_bring_their_negatives_wherever_upstream_finds_them(tmp_path, model, fields, extra):
    expected = train_here(
        tmp_path, "--model", model, *write_named(tmp_path / "stock", photos(16), stock), name="stock"
    )
    found = train_here(
        tmp_path, "--model", model, *write_named(tmp_path / "own", photos(16), fields), *extra, name="own"
    )
    assert found.values("loss") == expected.values("loss") != []
    assert_same(found.checkpoint()["state_dict"], expected.checkpoint()["state_dict"])


@on_tasks
def test_captions_are_drawn_as_upstream_draws_them_and_without_one_passed_over(tmp_path, model):
    made = photos(20)
    for photo in made[:4]:
        photo.caption = "  "
    flags = write_named(tmp_path / "data", made, inside_json)
    flags += ["--json-text-key", "short;long", "--json-text-key-probs", 0.5, 0.5, "--train-num-samples", 16]
    one, two = (train_here(tmp_path, "--model", model, *flags, name=name) for name in ("one", "two"))
    assert "neg: 16 of 16 captions looked at have some" in one.output
    assert one.values("loss") == two.values("loss") != []


@on_tasks
def test_shards_without_the_key_say_what_was_looked_for(tmp_path, stop):
    flags = write_named(tmp_path / "data", photos(8), stock)
    assert stop(*flags, "--json-text-key", "short", "--image-key", "png") == (
        f"--train-data {tmp_path}/data/0.tar: in {tmp_path}/data/0.tar none of 8 samples has both a caption "
        "(json) and an image (png); their fields: negatives.json, png, txt; name others with --text-key, "
        "--json-text-key or --image-key"
    )


# --- the compiler ---


@on_tasks
@pytest.mark.parametrize("strategy", ["model", "task"])
def test_each_strategy_compiles_to_the_same_losses(tmp_path, flags, strategy):
    """With one layer in each tower: what costs is the compiler of C++, for every kernel."""
    parts = {part: {**support.MODEL["model_cfg"][part], "layers": 1} for part in ("vision_cfg", "text_cfg")}
    flags += ["--model", support.write_model(tmp_path / "small", **parts), "--loss", "degla"]
    eager = train_here(tmp_path, *flags, name="eager")
    compiled = train(tmp_path, *flags, "--torchcompile", "--torchcompile-strategy", strategy, name="compiled")
    assert compiled.status == 0, compiled.output
    for term in TERMS["degla"]:
        assert compiled.values(term) == pytest.approx(eager.values(term), rel=1e-3, abs=1e-6)
    saved = [run.checkpoint() for run in (eager, compiled)]
    assert saved[0]["state_dict"].keys() == saved[1]["state_dict"].keys()
    for key in ("steps", "loss", "options"):
        assert len({str(one["optimizer"]["open_clip_ext"][key]) for one in saved}) == 1
    teachers = [one["optimizer"]["open_clip_ext"]["teacher"] for one in saved]
    for name, tensor in teachers[0].items():
        torch.testing.assert_close(teachers[1][name], tensor, rtol=1e-3, atol=1e-5)


# --- both hosts ---


@pytest.fixture
def on(monkeypatch):
    """Train on the installed release, or on the task API, in forks of a server of its own."""
    upstreams = {"release": "", "tasks": support.UPSTREAM}

    def run(host: str, *arguments, status: int = 0, **options):
        with monkeypatch.context() as patch:
            patch.setattr(support, "UPSTREAM", upstreams[host])
            finished = train(*arguments, **options)
        assert finished.status == status, finished.output
        return finished

    return run


@on_tasks
@pytest.mark.parametrize("loss", CLASSES)
def test_both_hosts_train_to_the_same_losses(tmp_path, flags, on, loss):
    """Without weight decay, from which the task API spares positional embeddings."""
    flags += ["--loss", loss, "--epochs", 2, "--wd", 0]
    runs = [on(name, tmp_path, *flags, name=name) for name in ("release", "tasks")]
    for term in TERMS[loss]:
        assert len(runs[0].values(term)) == 8
        assert runs[1].values(term) == pytest.approx(runs[0].values(term), rel=2e-4, abs=1e-6)


@on_tasks
@pytest.mark.parametrize(("before", "after"), [("release", "tasks"), ("tasks", "release")])
@pytest.mark.parametrize(
    ("processes", "within"),
    [(1, False), (2, False), (2, True)],
    ids=["one process", "two processes", "two processes, within an epoch"],
)
def test_a_run_of_one_host_goes_on_on_the_other(tmp_path, flags, on, before, after, processes, within):
    """Ranks of the release have DDP's prefix before the names of their weights, those of tasks have not."""
    flags += ["--loss", "degla", "--epochs", 2, "--batch-size", 4]
    flags += ["--wd", 1e-4]  # a group for each, and next to no difference by which parameters are in which
    unstopped = on(before, tmp_path, *flags, name="unstopped", processes=processes)
    path, left = unstopped.folder / "checkpoints" / "epoch_1.pt", 8 // processes
    if within:
        signal = {"SIGNAL_AT": "0:1"}
        stopped = on(before, tmp_path, *flags, name="stopped", processes=processes, env=signal, status=85)
        path, left = stopped.folder / "checkpoints" / "epoch_0_step_3.pt", 5
    resumed = on(after, tmp_path, *flags, "--resume", path, name="resumed", processes=processes)
    assert resumed.values("loss") == pytest.approx(unstopped.values("loss")[-left:], rel=2e-4)
    last, ours = [run.checkpoint("epoch_2.pt") for run in (unstopped, resumed)], []
    for checkpoint in last:
        checkpoint["state_dict"] = {k.removeprefix("module."): v for k, v in checkpoint["state_dict"].items()}
        ours.append(checkpoint["optimizer"]["open_clip_ext"])
    assert ours[0]["steps"] == ours[1]["steps"]
    for a, b in ((one["state_dict"] for one in last), (one["teacher"] for one in ours)):
        assert a.keys() == b.keys()
        for name, tensor in a.items():
            # Those of an attention's keys have no gradient but rounding, which Adam scales up.
            if not name.endswith("in_proj_bias"):
                torch.testing.assert_close(b[name], tensor, rtol=1e-3, atol=1e-4)
