"""`open-clip-ext eval wiseft`: what the weights between a base and its fine-tuned model can do.

For each alpha the model (1 - alpha) base + alpha fine-tuned is scored (Wortsman et al., CVPR 2022).
Alpha is chosen on the benchmarks of --select and its price is told on those of --report, which must
be other data: chosen on what is reported, it would flatter itself.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from open_clip_ext.errors import InputError
from open_clip_ext.evaluation import catalogue, merge, options, result_folder
from open_clip_ext.evaluation.evaluate import evaluate, present
from open_clip_ext.evaluation.items import Benchmark, Item
from open_clip_ext.files import atomic_write

if TYPE_CHECKING:
    from open_clip_ext.evaluation.models import Loaded

# Benchmarks by name, with where they were read from.
Found = Mapping[str, tuple[catalogue.Source, Benchmark]]

ALPHAS = [round(0.1 * tenth, 1) for tenth in range(11)]
FILE = "wiseft.json"


@dataclass(frozen=True)
class Point:
    """A model on the way from the base to the fine-tuned.

    Attributes:
        alpha: share of the fine-tuned.
        select: the mean of the primary scores that alpha is chosen by.
        results: of the reported benchmarks, as `evaluate` gives them.
        chosen_by: of the others.
        features: the folder where the model's features are kept; None if they are not.
    """

    alpha: float
    select: float
    results: Mapping[str, Any]
    chosen_by: Mapping[str, Any]
    features: Path | None = None

    def family(self, name: str) -> float | None:
        """The mean of the primary scores of the reported benchmarks of a family; None if there is none."""
        scores = [primary(result) for result in self.results.values() if result["family"] == name]
        return sum(scores) / len(scores) if scores else None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `eval wiseft`."""
    end = "a checkpoint, a tag of --model, or local-dir:FOLDER"
    parser.add_argument("--base", required=True, metavar="A", help=end)
    parser.add_argument("--ft", required=True, metavar="B", help=f"the fine-tuned: {end}")
    merge.add_model_arguments(parser)
    parser.add_argument("--device", help="default: cuda if there is one")
    parser.add_argument(
        "--alphas", type=float, nargs="+", default=ALPHAS, metavar="X",
        help="shares of the fine-tuned; 0 and 1 are always among them (default: 0 0.1 ... 1)",
    )  # fmt: skip
    for flag, use in (("--select", "that alpha is chosen on"), ("--report", "whose scores are told")):
        parser.add_argument(
            flag, nargs="+", action="append", required=True, metavar=("NAME", "KEY=VALUE"),
            help=f"a benchmark {use}; give it once for each",
        )  # fmt: skip
    parser.add_argument("--data", type=Path, metavar="FILE", help="where benchmarks are, as in `eval run`")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where everything goes")
    options.add_encoding_arguments(parser)
    parser.add_argument(
        "--drop-features", action="store_true",
        help="at the end, keep only the base's features in --cache; those of the other models are not small",
    )  # fmt: skip


def main(args: argparse.Namespace) -> int:
    """Sweep, choose, write, print."""
    from open_clip_ext.evaluation import parts

    if (part := parts.from_environment()).count > 1:
        raise InputError(
            f"eval wiseft works in one process, and this is one of {part.count}; start it without torchrun "
            "or srun, or evaluate merged weights with `eval run`"
        )
    options.claim(args, FILE)
    outside = [alpha for alpha in args.alphas if not 0 <= alpha <= 1]
    if outside:
        raise InputError(f"--alphas {outside[0]:g}: must lie between 0 (the base) and 1 (the fine-tuned)")
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError("the curve is drawn with matplotlib; pip install 'open_clip_ext[evaluation]'")
    select, report = (
        catalogue.read(catalogue.sources(chosen, args.data, flag))
        for chosen, flag in ((args.select, "--select"), (args.report, "--report"))
    )
    for _, benchmark in (*select.values(), *report.values()):
        present(benchmark, args.allow_missing)
    notes = apart([b for _, b in select.values()], [b for _, b in report.values()])
    base, tuned = merge.ends(args.base, args.ft, args.model, args.activation)
    points = sweep(args, base, tuned, select, report)
    best = choose(points)
    _write(args, base, tuned, points, best, notes)
    if args.drop_features:
        for folder in (point.features for point in points):
            if folder and folder != points[0].features:
                shutil.rmtree(folder, ignore_errors=True)
    print(table(points, best))
    print("\n" + "\n".join(summary(points, best, notes)))
    model = "".join(
        f" --{flag} {value}" for flag in ("model", "activation") if (value := getattr(args, flag)) is not None
    )
    print(f"open-clip-ext merge {args.base} {args.ft} --alpha {best.alpha:g}{model} --out FILE")
    print(f"\n{args.out / FILE}, curve.png, {_folder(args.out, best.alpha).name}/ ...")
    return 0


def primary(result: Mapping[str, Any]) -> float:
    """The primary score of a benchmark's result."""
    return float(result["scores"][result["primary"]]["value"])


def apart(select: Sequence[Benchmark], report: Sequence[Benchmark]) -> list[str]:
    """What to know about the two sets of benchmarks.

    Raises InputError if an item is in both.
    """
    notes = []
    for chosen in select:
        mine = {_content(item) for item in chosen.items}
        pictures = {picture.path for item in chosen.items for picture in item.pictures}
        for told in report:
            shared = sum(_content(item) in mine for item in told.items)
            if shared:
                raise InputError(
                    f"--select {chosen.name} and --report {told.name}: {shared:,} items are in both; "
                    "choose alpha on data that is not reported, such as a validation split"
                )
            paths = {picture.path for item in told.items for picture in item.pictures}
            if both := len(paths & pictures):
                notes.append(
                    f"{both:,} pictures are in {chosen.name} and, with other captions, in {told.name}"
                )
    return notes


def sweep(
    args: argparse.Namespace,
    base: Loaded,
    tuned: Loaded,
    select: Found,
    report: Found,
) -> list[Point]:
    """Score the model at every alpha, from 0 to 1, and write a result folder of each."""
    import torch
    from tqdm import tqdm

    from open_clip_ext.evaluation.encode import Encoder, weights_digest

    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    between = merge.Mixture(base, tuned)
    points = []
    for alpha in tqdm(sorted({0.0, 1.0, *args.alphas}), desc="alpha", unit="model", disable=None):
        model = between.at(alpha).to(device)
        encoder = Encoder(
            model, tuned.preprocess, tuned.tokenizer, cache=options.cache_folder(args), batch=args.batch_size
        )
        chosen_by, scored = (
            evaluate(
                encoder,
                [b for _, b in found.values()],
                allow_missing=args.allow_missing,
                intervals=found is report,
            )
            for found in (select, report)
        )
        catalogue.note_sources(scored, report)
        mean = sum(map(primary, chosen_by.values())) / len(chosen_by)
        points.append(Point(alpha, mean, scored, chosen_by, encoder.folder))
        parts = ((1 - alpha, base), (alpha, tuned))
        mixed = " + ".join(f"{share:g} {end.record['checkpoint']}" for share, end in parts)
        record = {0.0: base.record, 1.0: tuned.record}.get(alpha) or {
            **tuned.record,
            "checkpoint": mixed,
            "sha256": weights_digest(model),
        }
        result_folder.write(_folder(args.out, alpha), record | {"device": device}, scored)
    return points


def choose(points: Sequence[Point]) -> Point:
    """The point with the highest mean on --select; of equal ones the nearest to the base."""
    return max(points, key=lambda point: (point.select, -point.alpha))


def table(points: Sequence[Point], best: Point) -> str:
    """A row per alpha, in percent; the chosen one is marked."""
    from open_clip_ext import tables

    names = list(points[0].results)
    head = ["alpha", "select", *names]
    body = [
        [
            f"{point.alpha:g}{' *' if point is best else ''}",
            f"{100 * point.select:.2f}",
            *(f"{100 * primary(point.results[name]):.2f}" for name in names),
        ]
        for point in points
    ]
    return tables.aligned(head, body)


def summary(points: Sequence[Point], best: Point, notes: Sequence[str]) -> list[str]:
    """How alpha was chosen, and what it brings and costs."""
    said = [
        f"* alpha {best.alpha:g}: chosen for the highest mean of {', '.join(best.chosen_by)} "
        f"({100 * best.select:.2f} %); the other columns had no part in it"
    ]
    for name, result in best.results.items():
        at, base, tuned = (primary(r) for r in (result, points[0].results[name], points[-1].results[name]))
        said.append(
            f"{name}: {100 * at:.2f} %, {100 * (at - base):+.2f} points to the base, "
            f"{100 * (at - tuned):+.2f} to the fine-tuned"
        )
    return [*said, *notes]


def _content(item: Item) -> tuple[Any, ...]:
    """What makes two items the same question, whatever their ids."""
    pictures = tuple((str(Path(p.path).resolve()), p.box) for p in item.pictures)
    return pictures, tuple(sorted(item.captions)) or item.group


def _folder(out: Path, alpha: float) -> Path:
    return out / f"alpha-{alpha:.3g}"


def _write(
    args: argparse.Namespace,
    base: Loaded,
    tuned: Loaded,
    points: Sequence[Point],
    best: Point,
    notes: Sequence[str],
) -> None:
    def kept(scored: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: {key: result[key] for key in ("family", "n", "missing", "files", "primary", "scores")}
            for name, result in scored.items()
        }

    curve = [
        {
            "alpha": point.alpha,
            "select_mean": point.select,
            "select": kept(point.chosen_by),
            "report": kept(point.results),
            "folder": _folder(args.out, point.alpha).name,
        }
        for point in points
    ]
    content = {
        **result_folder.header(),
        "base": base.record,
        "tuned": tuned.record,
        "criterion": "the highest mean of the primary scores of `select`; of equal ones the least alpha",
        "alpha": best.alpha,
        "notes": list(notes),
        "curve": curve,
    }
    plot(args.out / "curve.png", points, best)
    result_folder.write_json(args.out / FILE, content)


def plot(path: Path, points: Sequence[Point], best: Point) -> None:
    """Left: composition against what was retained, where both are reported; right: every score over alpha."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    kept = next((f for f in ("zero-shot", "retrieval") if points[0].family(f) is not None), None)
    both = kept is not None and points[0].family("composition") is not None
    figure, drawn = pyplot.subplots(
        1, 2 if both else 1, figsize=(11 if both else 6.5, 4.8), dpi=130, squeeze=False
    )
    if both:
        _trade_off(drawn[0, 0], points, best, str(kept))
    axes = drawn[0, -1]
    alphas = [point.alpha for point in points]
    for name in points[0].results:
        axes.plot(
            alphas, [100 * primary(point.results[name]) for point in points], "o-", markersize=3, label=name
        )
    axes.plot(alphas, [100 * point.select for point in points], "k--", linewidth=1, label="mean of --select")
    axes.axvline(best.alpha, color="0.5", linewidth=1, linestyle=":")
    axes.set(xlabel="alpha   (0: base, 1: fine-tuned)", ylabel="primary score, %")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.25)
    figure.suptitle(
        f"Weights between base and fine-tuned; chosen on --select: alpha {best.alpha:g}", fontsize=10
    )
    figure.tight_layout()
    atomic_write(path, lambda part: figure.savefig(part, format="png"))
    pyplot.close(figure)


def _trade_off(axes: Any, points: Sequence[Point], best: Point, kept: str) -> None:
    places = [(100 * (p.family(kept) or 0), 100 * (p.family("composition") or 0)) for p in points]
    axes.plot(*zip(*places, strict=True), "o-", color="#1f77b4", markersize=4, linewidth=1.5)
    for point, place in zip(points, places, strict=True):
        if point is best or point.alpha in (0, 1):
            name = {0.0: "base", 1.0: "fine-tuned"}.get(point.alpha, "")
            words = (
                f"{name} (chosen)" if name and point is best else name or f"alpha {point.alpha:g} (chosen)"
            )
            mark = "*" if point is best else "s"
            axes.plot(
                *place,
                mark,
                color="#d62728" if point is best else "black",
                markersize=12 if point is best else 6,
            )
            axes.annotate(words, place, xytext=(7, 7), textcoords="offset points", fontsize=8)
    axes.set(
        xlabel=f"{kept}, mean of the reported, %   (right: kept)", ylabel="composition, %   (up: better)"
    )
    axes.margins(0.15)
    axes.grid(alpha=0.25)
