from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import environments
import pytest
import support
import torch
from environments import Environment

# As in the tests' subprocesses: sums in another order would not be equal to the bit.
torch.set_num_threads(1)
# A shell lets its background jobs ignore Ctrl-C, and all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The longest first: what is left at the end keeps all processes busy.
ORDER = ("cluster", "real_start", "trainer")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Say what a test needs, and keep those in one process that share what is expensive to make."""
    fixtures = set(getattr(item, "fixturenames", ()))
    if "cluster" in fixtures:
        item.add_marker("cluster")
        item.add_marker(pytest.mark.xdist_group("cluster"))
    elif "packages" in fixtures or "wheel" in fixtures:
        item.add_marker("real_start")
        item.add_marker(pytest.mark.xdist_group("environments"))
    elif not item.get_closest_marker("trainer"):
        item.add_marker(pytest.mark.xdist_group(item.path.name))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        return next((i for i, mark in enumerate(ORDER) if item.get_closest_marker(mark)), len(ORDER))

    items.sort(key=place)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What it took: of this process, even before pytest, and of all that it started."""
    used = os.times()
    user, system = used.user + used.children_user, used.system + used.children_system
    began = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    wall = time.clock_gettime(time.CLOCK_BOOTTIME) - began / os.sysconf("SC_CLK_TCK")
    terminalreporter.write_line(
        f"{(user + system) / 60:.1f} CPU minutes: user {user:.0f} s, sys {system:.0f} s; wall {wall:.0f} s"
    )


@pytest.fixture(scope="session", autouse=True)
def _server():
    """The fork servers end with the tests, so that what they took is counted."""
    yield
    for server in support.servers.values():
        server.close()


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> str:
    return support.write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def siglip(tmp_path_factory) -> str:
    """With a logit bias and the text tower of SigLIP."""
    return support.write_model(tmp_path_factory.mktemp("siglip"), **support.SIGLIP)


@pytest.fixture(scope="session")
def csv_data(tmp_path_factory) -> Path:
    return support.write_csv(tmp_path_factory.mktemp("csv"), support.photos(32))


@pytest.fixture(scope="session")
def every_kind(tmp_path_factory) -> Path:
    """The same with companions of all kinds that our losses want."""
    from our_losses import IMAGES, KINDS

    return support.write_csv(tmp_path_factory.mktemp("kinds"), support.photos(32), kinds=KINDS, images=IMAGES)


@pytest.fixture(scope="session")
def reference_texts(tmp_path_factory) -> tuple[str]:
    """For `--loss-cfg`: texts for the anchors of a model whose tokenizer knows few words."""
    file = tmp_path_factory.mktemp("reference") / "texts.txt"
    file.write_text("a red square\nblue on white\nleft\n")
    return (f"anchor_texts={file}",)


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
