"""Light virtual environments: the running one's packages through links, the plugin installed anew.

Nothing is downloaded and nothing large is copied, so an environment takes a fraction of a second.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Imported where they are found, and done without where not: a second and a half of every interpreter.
SPARE = ("pyarrow", "tensorboard", "transformers", "triton")
NO_NETWORK = ("--no-index", "--no-deps", "--no-build-isolation", "--quiet")


@dataclass(frozen=True)
class Environment:
    """A virtual environment in `folder`."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def site(self) -> Path:
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        return self.folder / "lib" / version / "site-packages"

    def run(self, *command: object, **variables: object) -> subprocess.CompletedProcess[str]:
        """Its interpreter with `command`, away from the source tree and our own environment."""
        return self.call(self.python, *command, **variables)

    def call(self, *command: object, **variables: object) -> subprocess.CompletedProcess[str]:
        env = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
        env.update({name: str(value) for name, value in variables.items()})
        return subprocess.run(
            list(map(str, command)),
            capture_output=True,
            text=True,
            cwd=self.folder,
            env={**env, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            timeout=120,
        )

    def pip(self, *arguments: object) -> None:
        """The running environment's pip, at work in this one."""
        command = [sys.executable, "-m", "pip", "--python", self.python, *arguments]
        # On PYTHONPATH pip could find the plugin installed already.
        env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        subprocess.run(list(map(str, command)), check=True, env=env)

    def install(self, *what: object) -> None:
        self.pip("install", *NO_NETWORK, *what)

    def files(self) -> set[Path]:
        """All files and folders it consists of."""
        return {path.relative_to(self.folder) for path in self.folder.rglob("*")}

    def copy(self, folder: Path) -> Environment:
        """The same environment, to be spoilt."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return Environment(folder)


def link_packages(folder: Path) -> Path:
    """A folder of links to the packages of the running environment, without ours and the spare ones."""
    folder.mkdir(parents=True)
    for place in map(Path, sys.path):
        if place.name in ("site-packages", "dist-packages"):
            for entry in place.iterdir():
                link = folder / entry.name
                name = re.split(r"\W", entry.name)[0]
                if "open_clip_ext" not in entry.name and name not in SPARE and not link.is_symlink():
                    link.symlink_to(entry)
    return folder


def create(folder: Path, packages: Path | None = None) -> Environment:
    """An environment that sees `packages`; start-up files in there are not read."""
    venv.create(folder, with_pip=False, symlinks=True)
    made = Environment(folder)
    if packages is not None:
        (made.site / "packages.pth").write_text(f"{packages}\n")
    return made


def copy_source(folder: Path) -> Path:
    """The project without what builds and tools left in it."""
    unwanted = shutil.ignore_patterns(".*", "build", "dist", "logs", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, folder, ignore=unwanted)
    return folder


def build_wheel(folder: Path) -> Path:
    """A wheel from the project tree."""
    source = copy_source(folder / "source")
    command = [sys.executable, "-m", "pip", "wheel", *NO_NETWORK, "--wheel-dir", folder, source]
    subprocess.run(list(map(str, command)), check=True)
    return next(folder.glob("*.whl"))


def unpack(wheel: Path, folder: Path) -> Path:
    """What `pip install --target` would put there."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder
