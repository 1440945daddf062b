"""The benchmark runs and writes its figures; what they are is no matter of a test."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import captions
import fresh
import gpu
import loader
import open_clip
import pytest
import reference
import straightforward
import torch

from open_clip_ext import registry
from open_clip_ext.losses import DeGLALoss
from open_clip_ext.teacher import EMATeacher

BENCHMARKS = Path(__file__).with_name("benchmarks")


@pytest.mark.real_start
def test_a_quick_run_writes_every_figure(tmp_path):
    out = tmp_path / "bench.json"
    command = [sys.executable, BENCHMARKS / "run.py", "--quick", "--rounds", 1, "--out", out]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    figures = json.loads(out.read_text())
    headline = (
        "degla_step_speedup",
        "degla_step_memory_ratio",
        "ema_speedup",
        "loss_4096_speedup",
        "encoding_speedup",
        "loss_4096_memory_ratio",
    )
    for key in headline:
        assert math.isfinite(figures[key])
        assert figures[key] > 0
        assert key.replace("_", " ") in done.stdout
    assert figures["quick"] is True
    assert {"step", "loss", "ema", "tokenizer", "loader", "startup", "machine"} <= set(figures)
    assert [row["loss"] for row in figures["every_loss"]] == list(registry.entries())
    for row in figures["every_loss"]:
        assert row["texts"] == 1 + sum(registry.load(row["loss"]).companions.values())
        assert 0 < row["cost_least"] <= row["cost"] <= row["cost_greatest"]
    assert {row["loss"] for row in figures["step"]["variants"]} == {"clip", "negclip", "ce-clip", "degla"}
    for row in figures["step"]["variants"]:
        (parts,) = row["rounds"]
        assert parts["forward"] > 0
        assert (parts["teacher"] > 0) == (row["loss"] == "degla")
        assert parts["total"] == pytest.approx(sum(parts.values()) - parts["total"])
    assert all(row["relative_difference"] < 1e-5 for row in figures["loss"])


def test_the_gpu_s_script_runs_with_a_toy(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fresh, "SEPARATE", True)  # is set by the script
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    for setting in (matmul, cudnn):
        monkeypatch.setattr(setting, "allow_tf32", setting.allow_tf32)
    gpu.main(["--tiny", "--eager", "--out", str(tmp_path / "bench.json")])
    figures = json.loads((tmp_path / "bench.json").read_text())
    assert figures["failed"] == figures["not_reached"] == []
    cost, *steps = figures["measured"]
    assert set(cost["found"]) >= {"token_us", "group_us", "group_cost_tokens"}
    assert [len(one["found"]) for one in steps] == [5, 5, 1, 1, 1]
    for row in (row for one in steps for row in one["found"]):
        assert row["parts"]["total"] > 0
        assert row["peak_mb"] > 0
    assert "GROUP_COST" not in capsys.readouterr().out  # a toy's is no value to set
    gpu.show({"function": "group_cost"}, cost["found"])
    assert f"set GROUP_COST = {cost['found']['group_cost_tokens']:.0f} in" in capsys.readouterr().out


def test_the_gpu_s_script_names_what_it_does_not_reach(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fresh, "SEPARATE", True)
    gpu.main(["--tiny", "--minutes", "-1", "--out", str(tmp_path / "bench.json")])
    figures = json.loads((tmp_path / "bench.json").read_text())
    assert figures["measured"] == []
    assert len(figures["not_reached"]) == len(gpu.plan())
    assert "not reached: {'function': 'group_cost'" in capsys.readouterr().out


def test_without_a_gpu_the_gpu_s_script_says_so(monkeypatch):
    monkeypatch.setattr(fresh, "call", lambda *_, **__: {"gpu": None})
    with pytest.raises(SystemExit, match="no GPU here; `make bench` measures a CPU"):
        gpu.main([])


def test_one_core_of_the_loader_is_decoding_transform_and_texts(tmp_path):
    (tmp_path / "a.jpg").write_bytes(loader.drawn(1)[0])
    for photos in ("", str(tmp_path)):
        found = loader.rates(photos, [], count=3, rounds=1)
        whole = found["decode_ms"] + found["transform_ms"] + found["texts_ms"]
        assert found["samples_per_core_s"] == pytest.approx(1e3 / whole)
        assert found["pictures"] == 3


def test_a_process_of_its_own_returns_what_the_function_does():
    assert fresh.call("captions", "made", count=2, negatives=1)[0] == captions.made(2, 1)[0]


def test_made_captions_are_as_long_as_those_of_coco():
    texts, negatives = captions.made(4000, 1)
    lengths = sorted((open_clip.tokenize(texts) != 0).sum(1).tolist())
    assert 14.4 <= sum(lengths) / len(lengths) <= 15.0
    assert 23 <= lengths[int(0.99 * len(lengths))] <= 25
    assert lengths[-1] <= 52
    assert all(text != other for text, (other,) in zip(texts, negatives, strict=True))
    assert captions.made(4000, 1) == (texts, negatives)


def test_captions_of_a_file_keep_their_negatives_and_get_others_where_they_lack(tmp_path):
    items = {
        "0": {"filename": "1.jpg", "caption": "a cat", "negative_caption": "a dog"},
        "1": {"filename": "1.jpg", "caption": "a cat", "negative_caption": "a cow"},
        "2": {"filename": "2.jpg", "caption": "a bus", "negative_caption": "a car"},
    }
    (tmp_path / "set.json").write_text(json.dumps(items))
    texts, negatives = captions.choose([str(tmp_path / "set.json")], 20, 2)
    assert set(texts) == {"a cat", "a bus"}
    for text, row in zip(texts, negatives, strict=True):
        assert len(row) == 2
        assert row[0] == ("a dog" if text == "a cat" else "a car")


def test_the_straightforward_loss_is_the_loss():
    x = reference.features(b=6, k=4)
    x.m = None
    teacher = reference.teacher(x)
    plain = straightforward.degla(x.v, x.t, x.n, x.s, *teacher.values())
    ours = DeGLALoss()(**reference.student(x), **teacher)
    torch.testing.assert_close(plain, ours, rtol=1e-12, atol=0)
    leaves = (x.v, x.t, x.n, x.s)
    got, want = torch.autograd.grad(ours, leaves), torch.autograd.grad(plain, leaves)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


def test_the_straightforward_average_is_the_teacher_s():
    student = torch.nn.Linear(3, 2)
    ours, plain = (EMATeacher(student, decay=0.9) for _ in range(2))
    with torch.no_grad():
        student.weight += 1
    ours.update(student)
    straightforward.move_teacher(plain.module, student, 0.9)
    torch.testing.assert_close(ours.module.weight, plain.module.weight)
