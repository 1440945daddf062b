"""The precision of matrix products, where it must not depend on the settings of the run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def without_tf32() -> Iterator[None]:
    """Switch TF32 off for matrix products on CUDA devices, and restore the setting afterwards.

    Upstream's trainer switches it on. The setting is global to the process: other threads use fp32 in
    the meantime, too.
    """
    matmul = torch.backends.cuda.matmul
    newer = getattr(matmul, "fp32_precision", None)  # torch>=2.9 has two settings
    on = matmul.allow_tf32 if newer is None else newer == "tf32"
    if not on:
        yield
        return
    try:
        older = torch.get_float32_matmul_precision()
    except RuntimeError:  # only the newer setting was used
        older = "highest"
    matmul.allow_tf32 = False  # sets both: torch refuses to read the older one if they disagree
    try:
        yield
    finally:
        if older == "highest":
            matmul.fp32_precision = newer
        elif older == "medium":
            torch.set_float32_matmul_precision(older)
        else:
            matmul.allow_tf32 = True
