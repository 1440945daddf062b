"""Benchmarks in upstream's own evaluation: scored when it evaluates, logged where it logs.

Upstream evaluates only where it has validation data, and asks its zero-shot part first. So a key of
its own kind stands in the data for ours, and the scores join those of the zero-shot part: upstream
itself then writes them to its log, results.jsonl, tensorboard and wandb.
"""

from __future__ import annotations

import argparse
import copy
import logging
from collections.abc import Sequence
from typing import Any

from open_clip_ext.evaluation import catalogue
from open_clip_ext.evaluation.encode import Encoder
from open_clip_ext.evaluation.evaluate import evaluate, present
from open_clip_ext.evaluation.items import Benchmark
from open_clip_ext.model import text_trimming
from open_clip_ext.model.forward import unwrap
from open_clip_ext.model.override import restore
from open_clip_ext.precision import without_tf32
from open_clip_ext.training import seeding
from open_clip_ext.training.config import BenchmarkRequest

FLAG = "--eval-benchmarks"
# What upstream looks for before it asks its zero-shot part; the first is the one we stand in for.
EVALUATED = ("imagenet-val", "imagenet-v2")


class TrainingBenchmarks:
    """The benchmarks of a run.

    Args:
        benchmarks: read, with no picture missing that must be there.
        allow_missing: whether the others may be.
        summary: what they are, for the log.
    """

    def __init__(self, benchmarks: Sequence[Benchmark], allow_missing: bool, summary: str) -> None:
        self.benchmarks = benchmarks
        self.summary = summary
        self.allow_missing = allow_missing
        self.preprocess: Any = None

    @classmethod
    def read(cls, request: BenchmarkRequest) -> TrainingBenchmarks:
        """Read the benchmarks on every rank, so that bad input stops all of them before any work.

        Raises InputError.
        """
        found = catalogue.read(catalogue.sources(request.chosen, request.data, FLAG))
        benchmarks = [benchmark for _, benchmark in found.values()]
        counts = []
        for benchmark in benchmarks:
            there, missing = present(benchmark, request.allow_missing, "--eval-allow-missing")
            total = f" of {len(there) + missing:,}" if missing else ""
            counts.append(f"{benchmark.name} ({len(there):,}{total} items)")
        return cls(benchmarks, request.allow_missing, ", ".join(counts))

    def announce(self, data: dict[str, Any], preprocess: Any) -> dict[str, Any]:
        """Upstream's data, in which it finds a reason to evaluate."""
        self.preprocess = preprocess
        logging.info(f"open_clip_ext: evaluates {self.summary}")
        return data if any(name in data for name in EVALUATED) else {**data, EVALUATED[0]: self}

    def without(self, data: dict[str, Any]) -> dict[str, Any]:
        """Upstream's data as it was."""
        return {name: value for name, value in data.items() if value is not self}

    def due(self, epoch: int, args: argparse.Namespace) -> bool:
        """Whether upstream's validation data, if there were any, would be evaluated after `epoch`."""
        return bool(epoch % args.val_frequency == 0 or epoch == args.epochs)

    def score(self, model: Any, tokenizer: Any, precision: str) -> dict[str, float]:
        """`{"sugarcrepe-micro": 0.77, ...}`; nothing else that a run depends on is changed.

        As `eval run` by default, without autocast and TF32: `amp` weights are fp32.

        Raises InputError if a picture does not decode, or the model's features are not finite.
        """
        # A copy of the outermost module alone: what is done to it is not done to the student. It takes
        # back what a --loss run has overridden in the student.
        encoding = copy.copy(unwrap(model))
        restore(encoding)
        text_trimming.trim(encoding, tokenizer([""])[0], evaluation=True)
        precision = "fp32" if precision.startswith("amp") else precision
        with seeding.preserve_rng_state(), without_tf32():
            results = evaluate(
                Encoder(encoding, self.preprocess, tokenizer, precision=precision),
                self.benchmarks,
                allow_missing=self.allow_missing,
                intervals=False,
            )
        return {
            f"{name}-{average.replace(' ', '-')}": score["value"]
            for name, result in results.items()
            for average, score in result["scores"].items()
        }
