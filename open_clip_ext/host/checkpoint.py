"""Checkpoints within an epoch, written between two steps and resumed at the same place.

Upstream saves after an epoch only. Its training loop asks the loader for the next batch when a step
is over: weights updated, logit scale clamped, values logged. There `MidEpochCheckpoints` writes what
upstream writes after an epoch, with the place in the data beside it.
"""

from __future__ import annotations

import argparse
import inspect
import json
import logging
import multiprocessing
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from open_clip_train import file_utils

from open_clip_ext.errors import STOPPED, InputError, TrainingError
from open_clip_ext.files import atomic_write, remove_partial
from open_clip_ext.host import seams
from open_clip_ext.host.loaders.resumable import Epoch, ResumableLoader
from open_clip_ext.training import ranks
from open_clip_ext.training.run import STATE_KEY
from open_clip_ext.training.signals import Asked, Signals

LATEST = "epoch_latest.pt"
# Sorts behind epoch_E.pt and before epoch_(E+1).pt, as `--resume latest` sorts.
WITHIN = re.compile(r"epoch_(\d+)_step_\d+\.pt")
# In the folder of the run: there if it was asked to stop, and saved.
MARKER = "stopped"


@dataclass(frozen=True)
class Place:
    """A place between two steps of a run.

    Attributes:
        epoch: from 0.
        batch: how many batches of it are done.
        step: how many optimizer steps of the run are done.
        read: how far each loader worker of this rank had read for them.
    """

    epoch: int
    batch: int
    step: int
    read: list[int]


class MidEpochCheckpoints:
    """Saves between two steps: every so many of them, and when the run is asked to stop.

    Args:
        checkpoint: makes what upstream would save, of an epoch and a number of steps of the run.
        every: optimizer steps between two of them; 0 for none.
        signals: what asks to stop.
        args: upstream's.
        loader: the training data.
        resumed: the position within an epoch that the run was resumed at, if it was.
    """

    def __init__(
        self,
        checkpoint: Callable[[int, int], dict[str, Any]],
        every: int,
        signals: Signals,
        args: argparse.Namespace,
        loader: ResumableLoader,
        resumed: Mapping[str, Any] | None,
    ) -> None:
        self.checkpoint, self.every, self.signals, self.args = checkpoint, every, signals, args
        self.loader, self.resumed = loader, resumed
        self.stop = ranks.CoordinatedStop()
        self.folder = Path(args.checkpoint_path)
        self.steps_per_epoch = loader.num_batches // args.accum_freq
        self.place = Place(0, 0, 0, [])
        if args.save_logs:
            remove_partial(self.folder)
            (self.folder.parent / MARKER).unlink(missing_ok=True)

    def begin_epoch(self, epoch: int) -> Epoch:
        """The batches of `epoch` from where it begins, or goes on after a resume.

        Raises InputError if the resumed checkpoint is of other data.
        """
        first, read = 0, None
        if self.resumed is not None and self.resumed["epoch"] == epoch:
            first, read = self._entry(self.resumed)
            logging.info(f"open_clip_ext: resumed in the middle of epoch {epoch} at batch {first}")
        return self.loader.epoch(epoch, first, read, partial(self._between, epoch, first), self._waiting)

    def _entry(self, saved: Mapping[str, Any]) -> tuple[int, list[int] | None]:
        """Batches to pass over, and how far each worker of this rank had read for them."""
        was, now = saved["layout"], self._layout()
        if was == now and saved["samples"] != self.loader.num_samples:
            raise InputError(
                f"{self.args.resume}: stopped within an epoch of {saved['samples']} samples, and "
                f"--train-data {self.args.train_data} has {self.loader.num_samples}; a new run needs "
                "another --name, or no --resume"
            )
        if was == now:
            return saved["batch"], saved["read"][self.args.rank]
        logging.warning(
            f"open_clip_ext: stopped with {was}, goes on with {now}: after as many samples, but with other "
            "draws than an unstopped run"
        )
        seen = saved["batch"] * was["batch_size"] * was["ranks"]
        steps = seen // (now["batch_size"] * now["ranks"] * self.args.accum_freq)
        return min(steps * self.args.accum_freq, self.loader.num_batches), None

    def _layout(self) -> dict[str, int]:
        """What the meaning of a number of batches depends on."""
        return {
            "batch_size": self.args.batch_size,
            "accum_freq": self.args.accum_freq,
            "ranks": self.args.world_size,
            "workers": self.loader.source.workers,
        }

    def _between(self, epoch: int, first: int, batch: int) -> None:
        """After `batch` batches of an epoch that began at the `first` here: save, or save and stop."""
        last = batch == self.loader.num_batches
        if batch % self.args.accum_freq and not last:
            return
        step = self.steps_per_epoch * epoch + batch // self.args.accum_freq
        self.place = Place(epoch, batch, step, list(self.loader.source.read))
        signal = self.stop.due(step, self.signals.received, last, torch.device(self.args.device))
        if signal is not None:
            self._stop(signal)
        due = self.every and batch % self.args.accum_freq == 0 and step % self.every == 0
        if due and batch > first:
            try:
                self._save()
            except TrainingError as error:  # a failed mid-epoch save must not end the run
                logging.warning(f"open_clip_ext: {error}; the run goes on")

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """While a batch is awaited, a run of one process that is asked to stop does so at once.

        One of several ranks cannot stop alone: the others wait for it in the step.
        """
        if ranks.several():
            yield
            return
        try:
            with self.signals.obeyed():
                yield
        except Asked:
            self._stop(str(self.signals.received))

    def _stop(self, signal: str) -> None:
        step = self.place.step
        try:
            if self.args.rank == 0 and not self.args.save_logs:
                raise TrainingError(
                    f"stopped on {signal} at step {step}, and nothing is saved under --logs none"
                )
            path = self._save()
            if self.args.save_logs:
                if self.args.remote_sync is not None:
                    self._sync()
                line = f"{signal} step {step} {path.relative_to(self.folder.parent)}\n"
                save(lambda part: _write(part, line), self.folder.parent / MARKER)
                logging.info(f"open_clip_ext: stopped on {signal} at step {step}; checkpoint {path}")
        except BaseException:
            ranks.broadcast(f"stopped/{step}", "no")
            raise
        if ranks.broadcast(f"stopped/{step}", "yes") == "no":
            raise TrainingError(f"stopped on {signal} at step {step}, but rank 0 could not save")
        sys.exit(STOPPED)

    def _save(self) -> Path:
        """Write a checkpoint of the last place between two steps; rank 0 does."""
        place = self.place
        name = LATEST if self.args.save_most_recent else f"epoch_{place.epoch}_step_{place.step}.pt"
        path = self.folder / name
        read = ranks.gather_strings(f"read/{place.step}", json.dumps(place.read))
        if not self.args.save_logs:
            return path
        checkpoint = self.checkpoint(place.epoch, place.step)
        checkpoint["optimizer"][STATE_KEY]["position"] = {
            "epoch": place.epoch,
            "batch": place.batch,
            "samples": self.loader.num_samples,
            "layout": self._layout(),
            "read": [json.loads(workers) for workers in read],
        }
        save(lambda part: torch.save(checkpoint, part), path)
        prune(self.folder, path)
        return path

    def _sync(self) -> None:
        """Upstream's last synchronization, which it would not come to."""
        for child in multiprocessing.active_children():
            if not child.daemon:  # its periodic one, which never ends by itself
                child.terminate()
        run = self.args.name
        file_utils.remote_sync(
            os.path.join(self.args.logs, run),
            os.path.join(self.args.remote_sync, run),
            self.args.remote_sync_protocol,
        )


def save(write: Callable[[Path], None], path: Path) -> None:
    """Write a checkpoint whole or not at all.

    Raises TrainingError, with the file at `path` as it was.
    """
    try:
        atomic_write(path, write)
    except (OSError, RuntimeError) as error:  # of a full disk torch says, as a RuntimeError, "unexpected pos"
        reason = str(error).splitlines()[0]
        free = shutil.disk_usage(path.parent).free / 1e6
        raise TrainingError(
            f"{path} could not be written ({reason}; {free:.0f} MB are free there); the checkpoint before it "
            "is whole"
        ) from error


def prune(folder: Path, written: Path, epoch: int | None = None) -> None:
    """Remove checkpoints from within an epoch that the one at `written` takes the place of.

    All others of a running epoch; those before `epoch` when that many are complete.
    """
    for path in folder.iterdir():
        within = WITHIN.fullmatch(path.name)
        if within and path != written and (epoch is None or int(within[1]) < epoch):
            path.unlink(missing_ok=True)


@contextmanager
def enumerate_from(upstream: Callable[..., Any], first: int, tested: str) -> Iterator[None]:
    """Let upstream's loop number its batches from `first` on.

    The loop takes its numbers, and from them the scheduler's and the logs' steps, from `enumerate`:
    for the time of the call that name in its module stands for one that begins at `first`.

    Args:
        upstream: the function with the loop.
        first: the number of the first batch.
        tested: the releases whose loops do so.

    Raises InputError if this one does not.
    """
    if first == 0:
        yield
        return
    function: Any = inspect.unwrap(upstream)
    if "enumerate" not in function.__code__.co_names:
        raise InputError(
            f"{seams.upstream()} numbers batches in another way than {tested}; resume from a "
            "checkpoint that was written after an epoch"
        )
    names = function.__globals__
    names["enumerate"] = partial(enumerate, start=first)
    try:
        yield
    finally:
        del names["enumerate"]


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
