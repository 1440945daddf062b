"""The command line: what it prints, and how it ends."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys

import pytest

from open_clip_ext import __version__, cli, losses
from open_clip_ext.losses import listing


def test_every_loss_is_listed_with_its_options(capsys):
    assert cli.main(["losses"]) == 0
    printed = capsys.readouterr().out
    for expected in ("\ndegla\n", "distill_weight=0.005", "companions  neg=4", "CVPR 2024"):
        assert expected in "\n" + printed
    for line in ("together    phrase foil", "teacher     a moving average of the model", "logit bias  of"):
        assert f"\n  {line}" in printed


def test_help_waits_for_no_loss_and_not_for_torch():
    code = "import sys; from open_clip_ext import cli; cli.parser(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_the_losses_are_loaded_when_they_are_asked_for():
    assert losses.DeGLALoss is importlib.import_module("open_clip_ext.losses.degla").DeGLALoss
    assert losses.functional.clip is importlib.import_module("open_clip_ext.losses.functional").clip
    with pytest.raises(AttributeError, match=r"module 'open_clip_ext.losses' has no attribute 'GLALoss'"):
        _ = losses.GLALoss


def test_the_version_is_the_package_s(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out.strip() == f"open_clip_ext {__version__}"


def test_a_call_that_is_wrong_has_status_2(capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["nonsense"])
    assert "invalid choice: 'nonsense'" in capsys.readouterr().err


def test_a_reader_that_stops_reading_makes_no_noise():
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "open_clip_ext.cli", "losses"]
    buffered = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, env=buffered)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


def test_an_interrupted_command_says_so_without_a_traceback(monkeypatch, capsys):
    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(listing, "main", interrupted)
    assert cli.main(["losses"]) == 130
    assert capsys.readouterr().err == "open_clip_ext: interrupted; what was finished is safe\n"
