"""`launch/local.sh` for real, without SLURM: its doctor, its torchrun, upstream's trainer, and a SigLIP."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import support
import torch

pytestmark = pytest.mark.trainer
LOCAL = Path(__file__).parents[2] / "launch" / "local.sh"


def test_a_siglip_is_trained_with_the_settings_of_its_base(tmp_path, siglip):
    data = support.write_csv(tmp_path / "photos", support.photos(16))
    settings = {
        "BASE": "siglip2-b16", "MODEL": siglip, "PRETRAINED": "", "TRAIN_DATA": data, "GLOBAL_BATCH": 8,
        "EPOCHS": 1, "LR": 1e-3, "WARMUP": 1, "PRECISION": "fp32", "WORKERS": 0, "GPUS": 1,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }  # fmt: skip
    done = subprocess.run(
        ["bash", LOCAL, "negclip", "--device", "cpu", "--log-every-n-steps", "1"],
        cwd=tmp_path,
        env=support.environment(**{key: str(value) for key, value in settings.items()}),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    run = tmp_path / "logs" / "siglip2-b16-negclip"
    record = (run / "params.txt").read_text().splitlines()
    assert {"loss: negclip", "wd: 0.1", "image_mean: [0.5, 0.5, 0.5]", "image_resize_mode: squash"} <= {
        *record
    }
    state = torch.load(run / "checkpoints" / "epoch_1.pt", weights_only=True)["state_dict"]
    assert state["logit_bias"].item() != -10
