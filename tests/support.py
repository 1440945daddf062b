"""What the tests train on and with: drawn photos, a tiny model, and upstream's real trainer."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import os
import random
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import torch
from PIL import Image, ImageDraw
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from trainer_server import Process, Server

from open_clip_ext.study import trainer as study_trainer

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 160, 30),
    "blue": (40, 60, 220),
    "yellow": (230, 210, 40),
}
SHAPES = ("circle", "square", "triangle")
TURNED = (
    Image.Transpose.FLIP_LEFT_RIGHT,
    Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.ROTATE_180,
    Image.Transpose.TRANSPOSE,
)
MODEL: dict[str, dict[str, Any]] = {
    "model_cfg": {
        "embed_dim": 32,
        "vision_cfg": {
            "image_size": 32,
            "layers": 2,
            "width": 32,
            "head_width": 16,
            "patch_size": 8,
        },
        "text_cfg": {
            "context_length": 16,
            "vocab_size": 49408,
            "width": 32,
            "heads": 2,
            "layers": 2,
        },
    },
    "preprocess_cfg": {"interpolation": "bicubic"},
}
# As in upstream's SigLIP models: the text tower sees the whole text, and takes the last token for it.
_TEXT = MODEL["model_cfg"]["text_cfg"] | {
    "no_causal_mask": True,
    "pool_type": "last",
    "proj_bias": True,
}
SIGLIP = {"init_logit_bias": -10, "init_logit_scale": math.log(10), "custom_text": True, "text_cfg": _TEXT}


# A folder with another open_clip and open_clip_train, which the tests then import and train with.
UPSTREAM = os.environ.get("OPEN_CLIP_EXT_UPSTREAM", "")
if UPSTREAM:
    sys.path.insert(0, UPSTREAM)
# Whether it has the task API; it is not imported for that.
SPEC = find_spec("open_clip")
TASKS = SPEC is not None and Path(SPEC.origin or "").with_name("task").is_dir()


def environment(**variables: str) -> dict[str, str]:
    """Of a process, with that upstream first."""
    made = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    paths = os.pathsep.join(filter(None, (UPSTREAM, made.pop("PYTHONPATH", None))))
    return {**made, "PYTHONPATH": paths} if paths else made


ENVIRONMENT = environment()
DDP_ON_CPU = Path(__file__).with_name("ddp_on_cpu.py")
# One short epoch on CPU; later flags win.
COMMON = (
    *("--device", "cpu", "--precision", "fp32", "--workers", 0, "--batch-size", 8, "--epochs", 1),
    *("--lr", 1e-3, "--warmup", 1, "--log-every-n-steps", 1),
)


@dataclass
class Photo:
    image: Image.Image
    caption: str
    negatives: list[str]

    def companions(self, kind: str) -> list[str]:
        """Texts of any kind; two of each but `neg`, and those of `phrase` and `foil` go together."""
        if kind == "neg":
            return self.negatives
        _, a, s, *_, b, t = self.caption.split()
        known = {
            "pos": [f"on a white ground {self.caption}", f"{self.caption} in a picture"],
            "phrase": [f"a {a} {s}", f"a {b} {t}"],
            "foil": [f"a {b} {s}", f"a {a} {t}"],
        }
        return known.get(kind, [f"{kind} of {self.caption}", f"{kind} of a {a} {s}"])

    def companion_images(self) -> list[Image.Image]:
        """Four of any kind: the image turned over, as the places of `TURNED` say."""
        return [self.image.transpose(turned) for turned in TURNED]


def photos(count: int, seed: int = 0, negatives: int = 4) -> list[Photo]:
    """Two coloured shapes side by side; each negative exchanges words of the caption."""
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        (a, b), (s, t) = rng.sample(list(COLOURS), 2), rng.sample(SHAPES, 2)
        image = Image.new("RGB", (32, 32), "white")
        draw = ImageDraw.Draw(image)
        for x, colour, shape in ((2, a, s), (18, b, t)):
            box = (x, 8, x + 11, 20)
            if shape == "circle":
                draw.ellipse(box, fill=COLOURS[colour])
            elif shape == "square":
                draw.rectangle(box, fill=COLOURS[colour])
            else:
                draw.polygon([(x, 20), (x + 11, 20), (x + 5, 8)], fill=COLOURS[colour])
        wrong = [
            f"a {b} {s} left of a {a} {t}",
            f"a {a} {t} left of a {b} {s}",
            f"a {b} {t} left of a {a} {s}",
            f"a {a} {s} right of a {b} {t}",
        ]
        made.append(Photo(image, f"a {a} {s} left of a {b} {t}", wrong[:negatives]))
    return made


def write_csv(
    folder: Path,
    made: list[Photo],
    form: Callable[[list[str]], str] = json.dumps,
    kinds: Sequence[str] = (),
    images: Sequence[str] = (),
) -> Path:
    """A CSV with negatives, and companions of further kinds in columns named after them.

    Of the kinds in `images` there are images, too, but every fourth row has none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "photos.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["filepath", "title", "negatives", *kinds, *(f"{kind}_image" for kind in images)])
        for i, photo in enumerate(made):
            photo.image.save(folder / f"{i}.png")
            texts = (form(photo.companions(kind)) for kind in ("neg", *kinds))
            names = [f"{folder}/{i}.{k}.png" for k in range(len(TURNED))] if images and i % 4 < 3 else []
            for name, image in zip(names, photo.companion_images(), strict=False):
                image.save(name)
            writer.writerow([folder / f"{i}.png", photo.caption, *texts, *[json.dumps(names)] * len(images)])
    return path


def write_shards(
    folder: Path,
    made: list[Photo],
    shards: int = 2,
    inside_json: bool = False,
    kinds: Sequence[str] = (),
    images: Sequence[str] = (),
) -> str:
    """Webdataset shards; negatives and further kinds in fields of their own or inside the sample's json.

    Of the kinds in `images` there are images, too, but every fourth sample of a shard has none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for s in range(shards):
        with tarfile.open(folder / f"{s}.tar", "w") as tar:
            for i, photo in enumerate(made[s::shards]):
                fields = {"png": png(photo.image), "txt": photo.caption.encode()}
                for kind in images if i % 4 < 3 else ():
                    others = enumerate(photo.companion_images())
                    fields |= {f"{kind}_image.{k}.png": png(image) for k, image in others}
                texts = {"negatives": photo.negatives, **{kind: photo.companions(kind) for kind in kinds}}
                if inside_json:
                    fields["json"] = json.dumps(texts).encode()
                else:
                    fields |= {f"{name}.json": json.dumps(its).encode() for name, its in texts.items()}
                for name, content in fields.items():
                    add_file(tar, f"{i:05d}.{name}", content)
    return f"{folder}/{{0..{shards - 1}}}.tar"


def png(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "png")
    return content.getvalue()


def add_file(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def write_model(folder: Path, **changes: object) -> str:
    """A tiny CLIP as `--model local-dir:...`, without weights: upstream draws them from --seed."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {**MODEL, "model_cfg": {**MODEL["model_cfg"], **changes}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return f"local-dir:{folder}"


@dataclass
class Finished:
    """A finished trainer: its exit status, all it printed, and where it wrote."""

    status: int
    output: str
    folder: Path

    def values(self, term: str) -> list[float]:
        """The values of a logged loss term, in order; of rank 0."""
        return [float(v) for v in re.findall(rf"\b{term.capitalize()}: (\S+) \(", self.output)]

    def checkpoint(self, name: str = "epoch_1.pt") -> Any:
        return torch.load(self.folder / "checkpoints" / name, weights_only=True, map_location="cpu")


# The fork servers of this process by their upstream, each from its first use on.
servers: dict[str, Server] = {}


def server() -> Server:
    """That of the present upstream."""
    if UPSTREAM not in servers:
        servers[UPSTREAM] = Server(environment())
    return servers[UPSTREAM]


def start(
    *argv: object,
    output: IO[Any],
    error: IO[Any] | None = None,
    env: Mapping[str, str] | None = None,
    real: bool = False,
) -> Process | subprocess.Popen[bytes]:
    """`python *argv` in a session of its own: a fork of the server, or a real start."""
    variables = environment(**(env or {}))
    if not real:
        return server().start(argv, output, error or output, variables)
    return subprocess.Popen(
        [sys.executable, *map(str, argv)],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=error or output,
        env=variables,
        start_new_session=True,
    )


def end(process: Process | subprocess.Popen[bytes]) -> None:
    """With all that it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class Fork(study_trainer.Process):
    """`study.trainer.Process`, but a fork of the tests' server, which does not hold the lock."""

    def __init__(self, words: Sequence[str], cwd: Path, output: IO[str], lock: int) -> None:
        made: Any = server().start(words[1:], output, output, ENVIRONMENT, cwd)  # with the methods of a Popen
        self._process = made

    def stop(self) -> None:
        end(self._process)


def python(
    *argv: object, env: Mapping[str, str] | None = None, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """What became of `python *argv`, a fork of the server."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as error:
        process = start(*argv, output=output, error=error, env=env)
        try:
            process.wait(timeout)
        finally:
            end(process)
        output.seek(0)
        error.seek(0)
        status = process.wait()
        return subprocess.CompletedProcess(list(map(str, argv)), status, output.read(), error.read())


@contextmanager
def rendezvous(count: int) -> Iterator[list[dict[str, str]]]:
    """The store at which so many processes meet; what torchrun puts into the environment of each."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    common = {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }
    yield [common | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]


def wait_for_all(processes: Sequence[Process | subprocess.Popen[bytes]], timeout: float) -> int:
    """The first exit status that is not 0; the others are then told to end, as torchrun does."""
    deadline = time.monotonic() + timeout
    status = 0
    while any(process.poll() is None for process in processes):
        if not status and (status := next((p.returncode for p in processes if p.returncode), 0)):
            deadline = min(deadline, time.monotonic() + 30)
            for process in processes:
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)
        if time.monotonic() > deadline:
            assert status, f"not within {timeout} s"
            break
        time.sleep(0.01)
    return status or next((p.returncode for p in processes if p.returncode), 0)


def together(
    *argv: object,
    processes: int = 1,
    env: Mapping[str, str] | None = None,
    timeout: float = 300,
    real: bool = False,
) -> tuple[int, str]:
    """The first bad status of so many processes of `python *argv`, as torchrun has them; what they print."""
    with ExitStack() as stack:
        environments = stack.enter_context(rendezvous(processes)) if processes > 1 else [{}]
        output = stack.enter_context(tempfile.TemporaryFile("w+"))
        started = []
        for environment in environments:
            started.append(start(*argv, output=output, env={**environment, **(env or {})}, real=real))
            stack.callback(end, started[-1])
        status = wait_for_all(started, timeout)
        output.seek(0)
        return status, output.read()


def train(
    tmp_path: Path,
    *flags: object,
    name: str = "run",
    processes: int = 1,
    env: Mapping[str, str] | None = None,
    timeout: float = 300,
    real: bool = False,
) -> Finished:
    """Upstream's real command line; in several gloo processes with the CPU fix of the tests.

    In forks of the server, or if `real` in interpreters of their own; with the first status that is not 0.
    """
    flags = (*COMMON, "--logs", tmp_path / "logs", "--name", name, *flags)
    program = ("-m", "open_clip_train.main") if processes == 1 else (DDP_ON_CPU,)
    status, output = together(*program, *flags, processes=processes, env=env, timeout=timeout, real=real)
    return Finished(status, output, tmp_path / "logs" / name)


def assert_same(a: Any, b: Any, where: str = "") -> None:
    """Equal to the bit, whatever is nested."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}/{i}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where


def loggers() -> dict[str, logging.Logger]:
    known = {name: logging.getLogger(name) for name in list(logging.root.manager.loggerDict)}
    return {"root": logging.root, **known}


def train_here(tmp_path: Path, *flags: object, name: str = "run") -> Finished:
    """As `train`, but upstream's `main` in this very process: quick enough to try many flags."""
    import open_clip_train.main  # the trigger installs the plugin

    words = [str(flag) for flag in (*COMMON, "--logs", tmp_path / "logs", "--name", name, *flags)]
    taken = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGTERM)}
    handlers, levels = logging.root.handlers[:], {name: log.level for name, log in loggers().items()}
    try:
        open_clip_train.main.main(words)
    finally:  # upstream adds handlers, makes every logger talk, and takes nothing back
        for number, action in taken.items():
            signal.signal(number, action)
        for handler in set(logging.root.handlers) - set(handlers):
            logging.root.removeHandler(handler)
            handler.close()
        for known, logger in loggers().items():
            logger.setLevel(levels.get(known, logging.NOTSET))
    folder = tmp_path / "logs" / name
    return Finished(0, (folder / "out.log").read_text(), folder)
