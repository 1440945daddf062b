"""`eval run` in several processes: the result of one to the last digit, and what is said when one is gone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import time
from collections import Counter
from functools import partial
from pathlib import Path

import open_clip
import pytest
import support
import torch
from drawn import write_crepe, write_folders
from fakes import write_pictures

from open_clip_ext import cli
from open_clip_ext.errors import InputError, TrainingError
from open_clip_ext.evaluation import part_reports, parts, requests
from open_clip_ext.evaluation.encode import Encoder, mixed
from open_clip_ext.evaluation.items import Picture
from open_clip_ext.evaluation.parts import Part


class Company(torch.nn.Module):
    """A model whose features depend on all that shares a batch, as the last digits of a real one may."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def encode_image(self, pixels):
        own = pixels.flatten(1)[:, :8]
        return own + own.mean(0) + len(own)

    def encode_text(self, tokens):
        return self.encode_image(tokens.float())


def tokenize(texts):
    return torch.tensor([[*text.encode()[:12], *[0] * max(0, 12 - len(text.encode()))] for text in texts])


def preprocess(image):
    return torch.tensor([list(image.resize((2, 2)).tobytes())], dtype=torch.float32)


def encoder(cache: Path | None) -> Encoder:
    return Encoder(Company(), preprocess, tokenize, cache=cache, batch=3)


@pytest.fixture
def asked(tmp_path):
    """Calls that have things in common; the words differ in length, and in letters."""
    shown = [Picture(path) for path in write_pictures(tmp_path / "pictures", 20)]
    words = [chr(97 + n % 26) * (1 + n % 7) + str(n) for n in range(60)]
    return [("pictures", shown[:8]), ("texts", words[:30]), ("texts", words[20:]), ("pictures", shown[4:])]


def features(asked, made: Encoder) -> list[torch.Tensor]:
    return [getattr(made, kind)(inputs) for kind, inputs in asked]


def assert_equal(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one, other)


# --- the same features ---


@pytest.mark.parametrize("count", [1, 2, 3, 7, 50])
def test_parts_together_give_the_features_of_one_process(asked, tmp_path, count):
    wanted = features(asked, encoder(None))
    for index in reversed(range(1, count)):
        assert not parts.encode(encoder(tmp_path / "cache"), asked, Part(index, count))
    first = encoder(tmp_path / "cache")
    assert parts.encode(first, asked, Part(0, count))
    before = dict(first.encoded)
    assert_equal(features(asked, first), wanted)
    assert first.encoded == before


def test_so_they_do_with_a_cache_that_has_some_of_the_features(asked, tmp_path):
    features([("pictures", asked[3][1][10:15]), ("texts", asked[2][1][::3])], encoder(tmp_path / "one"))
    shutil.copytree(tmp_path / "one", tmp_path / "parts")
    wanted = features(asked, encoder(tmp_path / "one"))
    assert not parts.encode(encoder(tmp_path / "parts"), asked, Part(1, 2))
    first = encoder(tmp_path / "parts")
    assert parts.encode(first, asked, Part(0, 2))
    assert_equal(features(asked, first), wanted)


def test_a_batch_that_was_lost_is_the_same_when_it_is_made_again(asked, tmp_path):
    wanted = features(asked, encoder(tmp_path / "cache"))
    for path in sorted((tmp_path / "cache").rglob("*.safetensors"))[::2]:
        path.unlink()
    again = encoder(tmp_path / "cache")
    assert_equal(features(asked, again), wanted)
    assert 0 < sum(again.encoded.values()) < 80


def test_the_first_part_makes_what_the_others_left_out(asked, tmp_path):
    parts.encode(encoder(tmp_path / "cache"), asked, Part(1, 2))
    for path in (tmp_path / "cache").rglob("*.safetensors"):
        path.unlink()
    first = encoder(tmp_path / "cache")
    parts.encode(first, asked, Part(0, 2))
    assert first.encoded == {"pictures": len({p.read() for p in asked[0][1] + asked[3][1]}), "texts": 60}


def test_pictures_and_texts_are_spread_evenly(asked):
    made = encoder(None)
    order = [batch.kind for batch in mixed([b for kind, inputs in asked for b in made.plan(kind, inputs)])]
    every = Counter(order)
    half = Counter(order[: len(order) // 2])
    assert all(abs(half[kind] - every[kind] / 2) <= 1 for kind in every)


def test_what_scoring_asks_for_is_known_without_a_model(tmp_path):
    """`requests.of` and the real scoring: the first leaves nothing to the second."""
    from open_clip_ext.evaluation import catalogue
    from open_clip_ext.evaluation.evaluate import evaluate

    chosen = [["sugarcrepe", *given(write_crepe(tmp_path / "crepe", 0))]]
    chosen += [["image-folder", f"images={write_folders(tmp_path / 'zs', {'red': 'red', 'blue': 'blue'})}"]]
    found = catalogue.read(catalogue.sources(chosen))
    score = partial(evaluate, benchmarks=[benchmark for _, benchmark in found.values()], intervals=False)
    made = encoder(None)
    assert parts.encode(made, requests.of(score), Part())
    before = dict(made.encoded)
    assert all(before.values())
    score(made)
    assert made.encoded == before


# --- the command ---


def given(folder: Path) -> list[str]:
    return [f"annotations={folder}", f"images={folder}"]


@pytest.fixture(scope="module")
def call(tmp_path_factory, model):
    """`eval run` of 42 pictures in batches of four, without cache and out."""
    folder = tmp_path_factory.mktemp("scored")
    torch.manual_seed(0)
    torch.save({"state_dict": open_clip.create_model(model).state_dict()}, folder / "weights.pt")
    words = ["eval", "run", "--model", model, "--pretrained", folder / "weights.pt", "--device", "cpu"]
    words += ["--benchmark", "sugarcrepe", *given(write_crepe(folder / "crepe", 1)), "--batch-size", 4]
    return [str(word) for word in words]


def batches(cache: Path) -> int:
    return len(list(cache.rglob("*.safetensors")))


def content(out: Path):
    result = json.loads((out / "result.json").read_text())
    del result["created"]
    return result, {path.name: path.read_bytes() for path in (out / "items").iterdir()}


@pytest.fixture(scope="module")
def one(call, tmp_path_factory):
    """What one process writes, and in how many batches."""
    folder = tmp_path_factory.mktemp("one")
    assert cli.main([*call, "--cache", str(folder / "cache"), "--out", str(folder / "out")]) == 0
    return content(folder / "out"), batches(folder / "cache")


@pytest.mark.parametrize("launcher", parts.LAUNCHERS, ids=["torchrun", "srun"])
def test_the_command_in_parts_writes_the_result_of_one_process(
    call, one, tmp_path, monkeypatch, capsys, launcher
):
    words = [*call, "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out")]
    for index in (2, 1, 0):
        for name, value in zip(launcher, (index, 3, index), strict=True):
            monkeypatch.setenv(name, str(value))
        assert cli.main(words) == 0
        assert (tmp_path / "out").exists() == (index == 0)
    assert content(tmp_path / "out") == one[0]
    printed = capsys.readouterr().out
    assert printed.startswith("part 3 of 3: ")
    assert printed.count("benchmark ") == 1


SLOW = """
import os, sys, time
from open_clip_ext import cli
from open_clip_ext.evaluation.encode import Encoder
forward, passes = Encoder._forward, []
def slowly(*args):
    passes.append(1)
    while os.environ.get("HOLD") == os.environ["RANK"] and len(passes) > 2:
        time.sleep(0.1)
    return forward(*args)
Encoder._forward = slowly
try:
    status = cli.main(sys.argv[1:])
finally:
    print(f"rank {os.environ['RANK']}: {len(passes)} batches", flush=True)
sys.exit(status)
"""


def test_a_part_that_is_killed_is_named_and_made_again_alone(call, one, tmp_path):
    (tmp_path / "slow.py").write_text(SLOW)
    cache, (wanted, total) = tmp_path / "cache", one
    words = [tmp_path / "slow.py", *call, "--cache", cache, "--out", tmp_path / "out"]
    several = {"OPEN_CLIP_EXT_PEER_TIMEOUT": "3", "WORLD_SIZE": "3"}

    def start(file, **env):
        return [support.start(*words, output=file, env={"RANK": str(i), **several, **env}) for i in range(3)]

    def report():
        return json.loads(next(cache.rglob("2-of-3.json")).read_text())

    with (tmp_path / "printed").open("w+") as file:
        running = start(file, HOLD="1")
        deadline = time.monotonic() + 120
        second = (total + 1) // 3
        while batches(cache) < total - second + 2 or not report()["done"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(running[1].pid, signal.SIGKILL)
        assert [process.wait(120) for process in running] == [1, -signal.SIGKILL, 0]
        file.seek(0)
        printed = file.read()
    left = report()
    assert left["done"] < left["total"]
    assert (
        f"part 2 of 3 (process {running[1].pid} on {left['host']}, {left['done']} of {left['total']} "
        "pictures and texts done): no sign of life for 3 s; run the same command again: it encodes only what "
        "is missing"
    ) in printed
    assert not (tmp_path / "out").exists()

    with (tmp_path / "again").open("w+") as file:
        assert [process.wait(120) for process in start(file)] == [0, 0, 0]
        file.seek(0)
        printed = file.read()
    for rank, made in enumerate((0, second - 2, 0)):
        assert f"rank {rank}: {made} batches" in printed
    assert content(tmp_path / "out") == wanted


# --- what is wrong ---


@pytest.mark.parametrize(
    ("environment", "part"),
    [
        ({}, Part()),
        ({"RANK": "2", "WORLD_SIZE": "8", "LOCAL_RANK": "2"}, Part(2, 8, 2)),
        ({"RANK": "2", "WORLD_SIZE": "8"}, Part(2, 8)),
        ({"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1"}, Part(5, 8, 1)),
        # torchrun in a task of SLURM's; the body of a batch script
        ({"RANK": "0", "WORLD_SIZE": "1", "SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8"}, Part()),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "2"}, Part()),
        ({"WORLD_SIZE": "8"}, Part()),
    ],
)
def test_which_part_a_process_is(environment, part):
    assert parts.from_environment(environment) == part


@pytest.mark.parametrize(
    ("part", "device", "taken"),
    [
        (Part(5, 8, 1), None, [1]),
        (Part(5, 8, 3), "cuda", [1]),  # two GPUs for four processes
        (Part(5, 8, 1), "cuda:0", []),
        (Part(5, 8, 1), "cpu", []),
        (Part(), None, []),
    ],
)
def test_each_process_of_a_machine_takes_its_own_gpu(monkeypatch, part, device, taken):
    found = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", found.append)
    parts.use_own_gpu(part, device)
    assert found == taken


@pytest.mark.parametrize(("rank", "size"), [("8", "8"), ("one", "2"), ("-1", "2")])
def test_a_part_that_cannot_be(rank, size):
    with pytest.raises(InputError) as error:
        parts.from_environment({"RANK": rank, "WORLD_SIZE": size})
    assert str(error.value) == (
        f"RANK={rank} and WORLD_SIZE={size}: not a process of several; unset both to evaluate in one"
    )


def test_several_processes_need_a_cache(call, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit):
        cli.main([*call, "--cache", "none", "--out", str(tmp_path / "out")])
    assert "--cache none: 2 processes exchange their features through the cache; name a folder" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("seconds", ["soon", "nan", "0"])
def test_a_time_out_that_is_no_time(asked, tmp_path, monkeypatch, seconds):
    monkeypatch.setenv("OPEN_CLIP_EXT_PEER_TIMEOUT", seconds)
    with pytest.raises(InputError, match=f"OPEN_CLIP_EXT_PEER_TIMEOUT={seconds}: give a number of seconds"):
        parts.encode(encoder(tmp_path / "cache"), asked, Part(0, 3))


@pytest.fixture
def hurry(monkeypatch):
    monkeypatch.setenv("OPEN_CLIP_EXT_PEER_TIMEOUT", "0.2")


def test_a_part_that_never_came(asked, tmp_path, hurry):
    with pytest.raises(TrainingError) as error:
        parts.encode(encoder(tmp_path / "cache"), asked, Part(0, 3))
    assert str(error.value) == (
        "part 2 of 3, part 3 of 3: no sign of life for 0.2 s; all processes need the same call, and a "
        "--cache folder that all of them see; run the same command again: it encodes only what is missing"
    )


def test_a_part_that_was_killed_before_the_first_one_looked(asked, tmp_path, hurry):
    first = encoder(tmp_path / "cache")
    board = parts._board(first, [batch for kind, inputs in asked for batch in first.plan(kind, inputs)])
    part_reports.Report(board, 1, 2, 10, 4)._write()
    with pytest.raises(TrainingError) as error:
        parts.encode(encoder(tmp_path / "cache"), asked, Part(0, 2))
    host = socket.gethostname()
    assert str(error.value) == (
        f"part 2 of 2 (process {os.getpid()} on {host}, 6 of 10 pictures and texts done): no sign of life "
        "for 0.2 s; run the same command again: it encodes only what is missing"
    )


@pytest.mark.parametrize("error", [InputError("a.png: does not decode"), MemoryError("no GPU memory left")])
def test_a_part_that_stopped_says_why(asked, tmp_path, hurry, monkeypatch, error):
    def stop(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "encode", stop)
        with pytest.raises(type(error)):
            parts.encode(encoder(tmp_path / "cache"), asked, Part(1, 2))
    kind = InputError if isinstance(error, InputError) else TrainingError
    with pytest.raises(kind, match=r"^part 2 of 2 on \S+: (a.png: does|MemoryError: no GPU)"):
        parts.encode(encoder(tmp_path / "cache"), asked, Part(0, 2))
    # Its report stays there, but the next run is another one.
    parts.encode(encoder(tmp_path / "cache"), asked, Part(1, 2))
    assert parts.encode(encoder(tmp_path / "cache"), asked, Part(0, 2))


def test_the_bar_counts_all_parts(asked, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(parts, "tqdm", lambda **options: shown.append(Bar(**options)) or shown[-1])
    board = encoder(tmp_path / "cache")
    there = parts.encode(board, asked[:1], Part())  # some of it is there
    assert there
    parts.encode(encoder(tmp_path / "cache"), asked, Part(1, 2))
    parts.encode(encoder(tmp_path / "cache"), asked, Part(0, 2))
    bar = shown[-1]
    assert bar.initial > 0
    assert bar.n == bar.total
    assert bar.smoothing == 0


class Bar:
    """What `tqdm` would count."""

    def __init__(self, **options) -> None:
        self.__dict__.update(options)
        self.n = self.initial

    def update(self, count: int) -> None:
        self.n += count

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        pass


def test_a_report_is_repeated(tmp_path, monkeypatch):
    monkeypatch.setenv("OPEN_CLIP_EXT_PEER_TIMEOUT", "0.3")
    path = tmp_path / "2-of-2.json"
    with part_reports.Report(tmp_path, 1, 2, 10, 10):
        first, deadline = path.read_text(), time.monotonic() + 30
        while path.read_text() == first:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert json.loads(path.read_text())["state"] == "done"


def test_another_scorer_works_in_one_process(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    words = ["eval", "run", "--model", "ViT-B-32", "--benchmark", "sugarcrepe", "--scorer", "phrase-grid"]
    with pytest.raises(SystemExit) as ended:
        cli.main([*words, "--cache", str(tmp_path), "--out", str(tmp_path / "out")])
    assert ended.value.code == 2
    assert "--scorer phrase-grid: works in one process, and this is one of 2" in capsys.readouterr().err


def test_reports_stay_when_the_first_has_ended(asked, tmp_path):
    """A part that finds all its features there may only now begin to write its own, as in a repeated call."""
    for index in (1, 0):
        parts.encode(encoder(tmp_path / "cache"), asked, Part(index, 2))
    assert [path.name for path in (tmp_path / "cache").rglob("*.json")] == ["2-of-2.json"]
