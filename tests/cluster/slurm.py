"""A real Slurm cluster on this machine, each node in namespaces of its own; and what can happen to it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

SCRIPT = Path(__file__).with_name("slurm.sh")
FORK, SERVER = Path(__file__).with_name("fork.py"), Path(__file__).parents[1] / "trainer_server.py"
PROGRAMS = ("slurmctld", "slurmd", "munged", "ip", "unshare", "nsenter", "setpriv")
SEARCH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
T = TypeVar("T")
# Generous: other work may share the cores.
PATIENCE = 600


def missing() -> str:
    """Why there can be no cluster here; empty if there can."""
    absent = [program for program in PROGRAMS if shutil.which(program, path=SEARCH) is None]
    if absent:
        return f"{', '.join(absent)} not found (apt-get install slurm-wlm munge iproute2)"
    if os.geteuid() != 0:
        return "namespaces of this kind need root"
    allowed = subprocess.run(["unshare", "--net", "--uts", "--ipc", "--mount", "--pid", "--fork", "true"])
    return "" if allowed.returncode == 0 else "this machine forbids new namespaces"


def until(condition: Callable[[], T], what: str | Callable[[], str], patience: float = PATIENCE) -> T:
    """Wait for a true value of `condition` and return it."""
    end = time.monotonic() + patience
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {patience} s: {what() if callable(what) else what}"
        time.sleep(0.05)
    return value


class Cluster:
    """`nodes` nodes, named node1, node2, ... and a controller; all die with this process.

    Attributes:
        forks: where each node that `serve` was called for has its server, for fork.py.
    """

    def __init__(self, folder: Path, nodes: int = 2) -> None:
        self.folder, self.nodes = folder, nodes
        self.forks = folder / "forks"
        self.servers: dict[int, subprocess.Popen[bytes]] = {}
        command: list[object] = [
            "setpriv",
            "--pdeathsig",
            "KILL",
            "unshare",
            "--net",
            "--uts",
            "--ipc",
            "--mount",
            "--pid",
        ]
        command += ["--fork", "--kill-child", "--mount-proc", "bash", SCRIPT, "cluster", folder, nodes]
        with (folder / "out").open("w") as out:
            self.process = subprocess.Popen(list(map(str, command)), stdout=out, stderr=out)
        until(lambda: (folder / "ready").exists() or self.process.poll(), "the cluster comes up", 60)
        assert self.process.poll() is None, (folder / "out").read_text()
        self.init = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()[0]

    def close(self) -> None:
        """End the first process of each node, then that of the cluster; the kernel ends all others.

        From the inside out, so that parents hear what their children took of the processors.
        """
        for path in self.folder.glob("node*.init"):
            init = path.read_text().strip()
            self.run("sh", "-c", f"kill -KILL {init}; while kill -0 {init}; do sleep .05; done", check=False)
        os.kill(int(self.init), signal.SIGKILL)
        for process in (*self.servers.values(), self.process):
            process.wait()

    def run(self, *command: object, node: int = 0, check: bool = True) -> str:
        """The output of a command on the controller or on a node."""
        done = subprocess.run(
            self._inside(node, *command),
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert not check or done.returncode == 0, done.stdout
        return done.stdout.strip()

    def serve(self) -> None:
        """Start a server on each node that has none, so that fork.py can be run there."""
        self.forks.mkdir(exist_ok=True)
        for node in range(1, self.nodes + 1):
            if node not in self.servers:
                command = self._inside(node, sys.executable, SERVER, self.forks / f"node{node}")
                quiet = subprocess.DEVNULL
                self.servers[node] = subprocess.Popen(
                    command, env=self._environment(), stdin=quiet, stdout=quiet
                )

    def _inside(self, node: int, *command: object) -> list[str]:
        inside = ["nsenter", "--target", self.init, "--all", "--"]
        if node:
            init = (self.folder / f"node{node}.init").read_text().strip()
            inside += ["nsenter", "--target", init, "--all", "--"]
        return list(map(str, [*inside, *command]))

    def _environment(self) -> dict[str, str]:
        one = {"PATH": SEARCH, "SLURM_CONF": str(self.folder / "slurm.conf"), "OMP_NUM_THREADS": "1"}
        return {**os.environ, **one}

    def path(self, path: Path) -> Path:
        """Where this process finds a file that the controller and the nodes call `path`."""
        return Path(f"/proc/{self.init}/root", *path.parts[1:])

    def crash(self, node: int) -> None:
        """Cut the power: every process of the node is gone at once."""
        self.run("kill", "-KILL", (self.folder / f"node{node}.init").read_text().strip())
        if server := self.servers.pop(node, None):
            server.wait()

    def start(self, node: int) -> None:
        """Start a node that crashed, and its server if the nodes have some."""
        self.run("setsid", "bash", SCRIPT, "node", self.folder, node)
        if self.servers:
            self.serve()
        self.wait_for(node)

    def cable(self, node: int, state: str) -> None:
        self.run("ip", "link", "set", f"vb{node}", state)

    def wait_for(self, node: int) -> None:
        def up() -> bool:  # or taken already by a job that waited for it
            return self.run("sinfo", "-h", "-n", f"node{node}", "-o", "%T") in ("idle", "mixed", "allocated")

        until(up, f"node{node} is up")

    def submit(
        self, script: Path, *flags: object, options: Sequence[object] = (), cwd: Path, **settings: object
    ) -> Job:
        """`sbatch` a script with `settings` in its environment."""
        log = self.folder / f"job-{time.monotonic_ns()}.log"
        command: list[object] = [
            "env",
            f"--chdir={cwd}",
            *(f"{name}={value}" for name, value in settings.items()),
            "sbatch",
            "--parsable",
        ]
        command += ["--nodes=2", "--gpus-per-node=1", "--cpus-per-task=1", f"--output={log}", *options]
        return Job(self, self.run(*command, script, *flags).splitlines()[-1], log)


class Job:
    """A submitted job."""

    def __init__(self, cluster: Cluster, number: str, log: Path) -> None:
        self.cluster, self.number, self.log = cluster, number, log

    def field(self, name: str) -> str:
        """One field of what Slurm knows of it."""
        shown = self.cluster.run("scontrol", "show", "job", self.number)
        found = re.search(rf"\b{name}=(\S*)", shown)
        assert found, shown
        return found.group(1)

    @property
    def output(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def until(self, condition: Callable[[], T], what: str) -> T:
        return until(condition, lambda: f"{what}; job {self.number} {self.field('JobState')}:\n{self.output}")

    def end(self) -> str:
        """Wait for its end; the state it ended in."""
        over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED")
        return self.until(lambda: state if (state := self.field("JobState")) in over else "", "the job ends")
