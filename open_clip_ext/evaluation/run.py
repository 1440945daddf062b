"""`open-clip-ext eval run`: one model on benchmarks, into a result folder."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from open_clip_ext.errors import InputError
from open_clip_ext.evaluation import cost, options, result_folder, scorer
from open_clip_ext.evaluation.evaluate import evaluate, present


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `eval run`."""
    from open_clip_ext.evaluation import catalogue, models

    models.add_arguments(parser)
    catalogue.add_source_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the result goes")
    parser.add_argument(
        "--train-manifest",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="what the model was trained on, to tell seen pictures from unseen ones: a picture's path per "
        "line, or CSV, TSV or JSONL with a field filepath",
    )
    parser.add_argument(
        "--compat",
        choices=("aro",),
        help="let the first of equal scores win, as argmax in ARO's code does, in place of the strict score",
    )
    scorer.add_arguments(parser)
    options.add_encoding_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Read, score, write, print."""
    from open_clip_ext.evaluation import catalogue, manifest, models, parts, requests
    from open_clip_ext.evaluation.encode import Encoder

    options.claim(args)
    part, cache = parts.from_environment(), options.cache_folder(args)
    parts.require_cache(part, cache)
    # All that can be wrong is looked at before the model is loaded.
    chosen = scorer.from_arguments(args)
    if part.count > 1 and chosen.name != scorer.PLAIN:
        raise InputError(
            f"{scorer.FLAG} {chosen.name}: works in one process, and this is one of {part.count}; "
            "start it without torchrun or srun"
        )
    found = catalogue.read(catalogue.sources(args.benchmark, args.data))
    benchmarks = [benchmark for _, benchmark in found.values()]
    for benchmark in benchmarks:
        present(benchmark, args.allow_missing)
        chosen.accept(benchmark)
    seen = manifest.read(args.train_manifest)
    parts.use_own_gpu(part, args.device)
    loaded = models.from_arguments(args)
    encoder = Encoder(
        loaded.model,
        loaded.preprocess,
        loaded.tokenizer,
        precision=args.precision,
        cache=cache,
        batch=args.batch_size,
    )
    score = partial(
        evaluate,
        benchmarks=benchmarks,
        allow_missing=args.allow_missing,
        seen=seen.has if seen else None,
        ties="argmax" if args.compat else "strict",
        scorer=chosen,
    )
    # What another scorer asks for may depend on the features, so it is not known before.
    if chosen.name == scorer.PLAIN and not parts.encode(
        encoder, requests.of(partial(score, intervals=False)), part
    ):
        return 0  # the first part scores
    scored = score(encoder)
    catalogue.note_sources(scored, found)
    result_folder.write(args.out, loaded.record, scored, {"train_manifest": seen.files} if seen else {})
    print(table(scored))
    print(f"\n{args.out / 'result.json'}")
    return 0


def table(scored: Mapping[str, Any]) -> str:
    """Every average of every benchmark, in percent, the primary one first."""
    from open_clip_ext import tables

    body = []
    notes = []
    for name, result in scored.items():
        for place, (average, score) in enumerate(result["scores"].items()):
            body.append(_line(name if place == 0 else "", average, score))
        for part, scores in result.get("seen", {}).items():
            body += [_line(f"  {part} in training", *found) for found in list(scores.items())[:1]]
        if result["missing"]:
            total = result["n"] + result["missing"]
            notes.append(f"{name}: {result['n']:,} of {total:,} items; the others lack a picture")
        notes += [f"{name}: {note}" for note in result["notes"]]
        if "counts" in result:
            notes.append(f"{name}: {cost.told(result)}")
    head = ["benchmark", "average", "score", "95 % interval", "ties", "ties by lot", "items"]
    return "\n".join([tables.aligned(head, body), *notes])


def _line(label: str, average: str, score: Mapping[str, Any]) -> list[str]:
    interval = " to ".join(f"{100 * end:.2f}" for end in score.get("interval", ()))
    value, half = (f"{100 * score[key]:.2f}" for key in ("value", "half"))
    return [label, average, value, interval, f"{score['ties']:,}", half, f"{score['n']:,}"]
