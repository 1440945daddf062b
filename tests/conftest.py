from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

import environments
import support
from environments import Environment

# As in the tests' subprocesses: sums in another order would not be equal to the bit.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> str:
    return support.write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def csv_data(tmp_path_factory) -> Path:
    return support.write_csv(tmp_path_factory.mktemp("csv"), support.photos(32))


@pytest.fixture(scope="session")
def shards(tmp_path_factory) -> str:
    return support.write_shards(tmp_path_factory.mktemp("shards"), support.photos(32))


@pytest.fixture(scope="session")
def packages(tmp_path_factory) -> Path:
    return environments.link_packages(tmp_path_factory.mktemp("links") / "packages")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    return environments.build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def armed(tmp_path_factory, packages, wheel) -> Environment:
    made = environments.create(tmp_path_factory.mktemp("armed") / "venv", packages)
    made.install(wheel)
    return made


@pytest.fixture(scope="session")
def unarmed(tmp_path_factory, packages) -> Environment:
    """An environment in which the plugin is not installed."""
    return environments.create(tmp_path_factory.mktemp("unarmed") / "venv", packages)


@pytest.fixture(scope="session")
def target(tmp_path_factory, wheel) -> Path:
    """A folder for PYTHONPATH, as `pip install --target` makes it."""
    return environments.unpack(wheel, tmp_path_factory.mktemp("target"))
