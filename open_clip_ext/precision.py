"""The precision of matrix products, where it must not be what the run has chosen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def without_tf32() -> Iterator[None]:
    """Switch TF32 off for matrix products on CUDA devices, and back to what the run has chosen.

    Upstream's trainer switches it on. The setting is one for the whole process: what another thread
    multiplies in the meantime is in fp32, too.
    """
    matmul = torch.backends.cuda.matmul
    newer = getattr(matmul, "fp32_precision", None)  # torch>=2.9 has two settings
    on = matmul.allow_tf32 if newer is None else newer == "tf32"
    if not on:
        yield
        return
    try:
        older = torch.get_float32_matmul_precision()
    except RuntimeError:  # the newer setting alone was used
        older = "highest"
    matmul.allow_tf32 = False  # sets both: torch refuses to read the older one where they disagree
    try:
        yield
    finally:
        if older == "highest":
            matmul.fp32_precision = newer
        elif older == "medium":
            torch.set_float32_matmul_precision(older)
        else:
            matmul.allow_tf32 = True
