from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

# The subprocesses of the tests have one thread too: sums in another order would not be equal to the bit.
torch.set_num_threads(1)
sys.path.insert(0, str(Path(__file__).parent))

import support


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> str:
    return support.write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def csv_data(tmp_path_factory) -> Path:
    return support.write_csv(tmp_path_factory.mktemp("csv"), support.photos(32))


@pytest.fixture(scope="session")
def shards(tmp_path_factory) -> str:
    return support.write_shards(tmp_path_factory.mktemp("shards"), support.photos(32))
