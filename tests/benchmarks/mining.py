"""Memory and time of the search for partners, and of a selection, at several numbers of pictures.

    python tests/benchmarks/mining.py [N ...]

Features are drawn, of 512 dimensions; a picture has five captions, a caption four negatives. So models and
pictures cost nothing, and what is left is what the commands themselves need. Each line is a process of its
own.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from open_clip_ext.mining import mine, search
from open_clip_ext.mining.scores import Scorer
from open_clip_ext.mining.selection import Rule, Selection
from open_clip_ext.negatives.records import Candidate
from open_clip_ext.negatives.rewrite import rewrite
from open_clip_ext.negatives.store import Store, Writer

WIDTH, CAPTIONS, NEGATIVES = 512, 5, 4


class Drawn:
    """In the place of a model: features that are drawn anew each time."""

    folder = None

    def encoder(self):
        return self

    def texts(self, texts):
        return torch.nn.functional.normalize(torch.randn(len(texts), WIDTH), dim=-1)


def drawn(n: int) -> torch.Tensor:
    x = torch.empty(n, WIDTH).normal_()
    return x.div_(x.norm(dim=1, keepdim=True))


def searching(n: int) -> None:
    x, texts = drawn(n), [[f"caption {k} of {i}" for k in range(CAPTIONS)] for i in range(n)]
    partners, _ = search.best(
        n, 3, search.nearest(x, 0.98), mine.alike([i.to_bytes(32, "big") for i in range(n)], texts)
    )
    assert (partners >= 0).all()


def write(path: Path, n: int) -> None:
    """A store, in portions, so that its making does not count."""
    with Writer(path, "drawn", "1", {}, [f"t{k}" for k in range(NEGATIVES)]) as writer:
        for image in range(n):
            with writer.together():
                for i in range(CAPTIONS):
                    caption = f"a caption of the usual length, number {i} of {image}"
                    texts = [Candidate(f"t{k}", f"negative {k} of {caption}") for k in range(NEGATIVES)]
                    writer.add(caption, texts, [f"images/{image}.jpg"])


def selecting(n: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "n.store")
        write(path, n)
        store, rows = Store.open(path), {f"images/{i}.jpg": i for i in range(n)}
        scorer = Scorer(Drawn(), drawn(n).numpy(), [i.to_bytes(32, "big") for i in range(n)], rows)
        selection = Selection(scorer, Rule(count=1), None, 0.0)
        rewrite(store, Path(folder, "o.store"), {}, selection(store.entries()))


def measured(what, n: int, done) -> None:
    begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, used = time.perf_counter(), time.process_time()
    what(n)
    end = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    done.put((end / 1024, (end - begin) / 1024, time.perf_counter() - start, time.process_time() - used))


def main(sizes: list[int]) -> None:
    context = multiprocessing.get_context("spawn")
    heads = ("pictures", "features MB", "peak MB", "of it here", "wall s", "CPU s")
    print(" " * 12 + "".join(f"{head:>12}" for head in heads))
    for what in (searching, selecting):
        for n in sizes:
            done = context.Queue()
            process = context.Process(target=measured, args=(what, n, done))
            process.start()
            peak, here, wall, cpu = done.get()
            process.join()
            size = n * WIDTH * np.dtype(np.float32).itemsize / 1e6
            figures = (f"{n:,}", f"{size:.0f}", f"{peak:.0f}", f"{here:.0f}", f"{wall:.1f}", f"{cpu:.1f}")
            print(f"{what.__name__:<12}" + "".join(f"{figure:>12}" for figure in figures), flush=True)


if __name__ == "__main__":
    main([int(n) for n in sys.argv[1:]] or [5_000, 20_000])
