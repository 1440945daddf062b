from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # oracles, reference


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)
