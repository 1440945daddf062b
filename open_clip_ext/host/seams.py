"""Seams: the functions of upstream's that an adapter wraps, known by the names of their parameters.

The word is Michael Feathers' (Working Effectively with Legacy Code): a place where the behaviour of a
program can be altered without an edit in that place. Which functions they are is up to each adapter.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from open_clip_ext.host.signatures import imported

Upstream = Callable[..., Any]
# The names of the parameters of a function, by its module and its name.
Parameters = Callable[[str, str], tuple[str, ...]]


@dataclass(frozen=True)
class Seam:
    """A function of upstream's that an adapter wraps, and the parameters it is known to have.

    Attributes:
        module: the module whose attribute is replaced.
        name: the function, and the method of the adapter that takes its place.
        parameters: their names, in order.
        more: whether others may follow, which the wrapper hands on as they came.
    """

    module: str
    name: str
    parameters: tuple[str, ...]
    more: bool = False

    def __str__(self) -> str:
        return f"{self.module}.{self.name}({', '.join(self.parameters)})"

    def find(self) -> Callable[..., Any]:
        """The function as it stands in upstream's module."""
        found: Callable[..., Any] = getattr(importlib.import_module(self.module), self.name)
        return found

    def mismatch(self, parameters: Parameters = imported) -> str:
        """What is wrong with this seam in the installed upstream; empty if it fits.

        `parameters` gives those of a function, as `signatures.imported` or `read` do.
        """
        try:
            there = parameters(self.module, self.name)
        except (ImportError, SyntaxError) as error:
            return f"{self.module} cannot be imported ({error})"
        except AttributeError:
            return f"{self.module} has no {self.name}"
        if (there[: len(self.parameters)] if self.more else there) != self.parameters:
            known = ", ".join(self.parameters)
            return f"{self.module}.{self.name} takes ({', '.join(there)}), not ({known})"
        return ""


def mismatches(seams: Iterable[Seam], parameters: Parameters = imported) -> dict[Seam, str]:
    """What is wrong with each of the seams that do not fit, in words."""
    found = {seam: seam.mismatch(parameters) for seam in seams}
    return {seam: problem for seam, problem in found.items() if problem}


def hooked() -> bool:
    """Whether the installed upstream asks for its plugins itself (see patches/)."""
    package = importlib.import_module("open_clip_train")
    # Read, not imported: the import would start the plugin.
    return "open_clip_train.plugins" in Path(package.__path__[0], "main.py").read_text(encoding="utf-8")


def missing_packages() -> list[str]:
    """The packages that the installed upstream requires and that are not installed."""
    try:
        required = requires("open_clip_torch") or []
    except PackageNotFoundError:
        return ["open_clip_torch"]
    names = [re.split(r"[^\w.-]", line)[0] for line in required if "extra ==" not in line]
    return [name for name in names if not _installed(name)]


def _installed(package: str) -> bool:
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


def upstream() -> str:
    """The installed upstream and its version."""
    try:
        return f"open_clip_torch {version('open_clip_torch')}"
    except PackageNotFoundError:
        return "open_clip_torch is not installed"
