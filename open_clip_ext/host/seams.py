"""Where we enter upstream's trainer: eight functions, known by the names of their parameters."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

TESTED = "2.28 to 3.3"


@dataclass(frozen=True)
class Seam:
    """A function of upstream's that we wrap, and the parameters it is known to have.

    Attributes:
        module: the module whose attribute is replaced.
        name: the function.
        parameters: their names, in order.
        wrapper: the method of the adapter that takes its place.
        more: whether others may follow, which the wrapper hands on as they came.
    """

    module: str
    name: str
    parameters: tuple[str, ...]
    wrapper: str
    more: bool = False

    def __str__(self) -> str:
        return f"{self.module}.{self.name}({', '.join(self.parameters)})"

    def find(self) -> Callable[..., Any]:
        """The function as it stands in upstream's module."""
        found: Callable[..., Any] = getattr(importlib.import_module(self.module), self.name)
        return found

    def misfit(self) -> str:
        """What is wrong with this seam in the installed upstream; empty if it fits."""
        try:
            there = tuple(inspect.signature(self.find()).parameters)
        except ImportError as error:
            return f"{self.module} cannot be imported ({error})"
        except AttributeError:
            return f"{self.module} has no {self.name}"
        if (there[: len(self.parameters)] if self.more else there) != self.parameters:
            known = ", ".join(self.parameters)
            return f"{self.module}.{self.name} takes ({', '.join(there)}), not ({known})"
        return ""


SEAMS = (
    Seam("open_clip_train.params", "parse_args", ("args",), "parse_args"),
    Seam("open_clip_train.file_utils", "pt_load", ("file_path", "map_location"), "pt_load"),
    Seam("open_clip_train.data", "get_dataset_fn", ("data_path", "dataset_type"), "get_dataset_fn"),
    Seam(
        "open_clip_train.data",
        "get_data",
        ("args", "preprocess_fns", "epoch", "tokenizer"),
        "get_data",
    ),
    Seam(
        "open_clip_train.train",
        "zero_shot_eval",
        ("model", "data", "epoch", "args", "tokenizer"),
        "zero_shot_eval",
    ),
    Seam(
        "open_clip",
        "create_model_and_transforms",
        ("model_name", "pretrained"),
        "create_model_and_transforms",
        more=True,
    ),
    Seam("open_clip", "create_loss", ("args",), "create_loss"),
    Seam(
        "open_clip_train.train",
        "train_one_epoch",
        (
            "model",
            "data",
            "loss",
            "epoch",
            "optimizer",
            "scaler",
            "scheduler",
            "dist_model",
            "args",
            "tb_writer",
        ),
        "train_one_epoch",
    ),
)


def misfits() -> list[str]:
    """Every seam that does not fit, in words."""
    return [problem for problem in (seam.misfit() for seam in SEAMS) if problem]


def hooked() -> bool:
    """Whether the installed upstream asks for its plugins itself (see patches/)."""
    package = importlib.import_module("open_clip_train")
    # Read, not imported: the import would start the plugin.
    return "open_clip_train.plugins" in Path(package.__path__[0], "main.py").read_text(encoding="utf-8")


def upstream() -> str:
    """The installed upstream and its version."""
    try:
        return f"open_clip_torch {version('open_clip_torch')}"
    except PackageNotFoundError:
        return "open_clip_torch is not installed"
