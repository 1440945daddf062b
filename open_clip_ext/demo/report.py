"""What came out: terminal tables, a Markdown report, a plot, and words computed from the numbers."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from open_clip_ext import tables
from open_clip_ext.demo import evaluate, world
from open_clip_ext.demo.evaluate import Check, Scores, Share
from open_clip_ext.demo.recipe import Recipe
from open_clip_ext.files import write_whole

Summary = Callable[[Scores], float]


@dataclass(frozen=True)
class Row:
    """One model, or the same one of several fine-tuning seeds.

    Attributes:
        loss: name of the loss; empty for the base.
        alpha: share of the fine-tuned weights; the rest is the base's.
        scores: one per fine-tuning seed.
        steps: optimizer steps of a fine-tuning.
        seconds: wall time of each fine-tuning, start-up excluded.
    """

    loss: str
    alpha: float
    scores: Sequence[Scores]
    steps: int = 0
    seconds: Sequence[float] = ()

    @property
    def name(self) -> str:
        """How the tables call it."""
        if not self.loss:
            return "base"
        return self.loss if self.alpha == 1 else f"  {self.alpha:g} {self.loss} + {1 - self.alpha:.2g} base"

    def value(self, summary: Summary) -> float:
        """The mean over fine-tuning seeds."""
        return statistics.fmean(summary(scores) for scores in self.scores)

    def spread(self, summary: Summary) -> float:
        """The standard deviation over fine-tuning seeds; 0 for one seed."""
        values = [summary(scores) for scores in self.scores]
        return statistics.stdev(values) if len(values) > 1 else 0.0

    def error(self, summary: Summary) -> float:
        """The standard error from the number of items, and of seeds where there are several."""
        items = statistics.fmean(item_error(summary, scores) for scores in self.scores)
        return math.hypot(items, self.spread(summary) / math.sqrt(len(self.scores)))


def one(name: str) -> Summary:
    """The summary that is a single subset."""
    return lambda scores: scores[name].percent


def item_error(summary: Summary, scores: Scores) -> float:
    """The standard error of a summary: how far it moves when each subset moves by its own error."""
    here = summary(scores)
    total = 0.0
    for name, share in scores.items():
        # A thousandfold sample only makes the step small beside the grid of counts.
        fine = {**scores, name: Share(share.right * 1000 + 1, share.n * 1000)}
        slope = (summary(fine) - here) / (0.1 / share.n)
        total += (slope * share.error) ** 2
    return math.sqrt(total)


SUMMARIES: dict[str, Summary] = {
    "composition": evaluate.composition,
    "swaps": evaluate.swaps,
    "zero-shot unmentioned": evaluate.unmentioned,
    "zero-shot named": evaluate.named,
    "R@1 full": one("r1/full"),
    "R@1 web": one("r1/web"),
}
KINDS = {kind: one(kind) for kind in world.KINDS}
SETS = {name: one(f"zs/{name}") for name in (*world.UNMENTIONED, *world.NAMED)}


# --- tables ---------------------------------------------------------------------------------------


def _cells(row: Row, columns: Mapping[str, Summary]) -> list[str]:
    cells = []
    for summary in columns.values():
        cell = f"{row.value(summary):.1f}"
        if len(row.scores) > 1:
            cell += f" ±{row.spread(summary):.1f}"
        cells.append(cell)
    return cells


def _tables(rows: Sequence[Row]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, head and body of each table."""
    spread = " (± standard deviation over fine-tuning seeds)" if max(len(r.scores) for r in rows) > 1 else ""
    main = [
        [r.name, *_cells(r, SUMMARIES)]
        + ([str(r.steps), f"{statistics.fmean(r.seconds):.0f}"] if r.seconds else ["", ""])
        for r in rows
    ]
    tables = [(f"Summary, in percent{spread}", ["", *SUMMARIES, "steps", "seconds"], main)]
    for title, columns in (
        ("Composition on held-out pairs, by kind of false caption; chance is 50", KINDS),
        (f"Zero-shot; the first {len(world.UNMENTIONED)} are never mentioned in fine-tuning", SETS),
    ):
        tables.append((title, ["", *columns], [[r.name, *_cells(r, columns)] for r in rows]))
    return tables


def text_tables(rows: Sequence[Row]) -> str:
    """The tables as aligned plain text."""
    blocks = []
    for title, head, body in _tables(rows):
        # A head of two words takes two lines, so that its column is not wider than its figures.
        lines = [name.replace(" ", "\n", 1) for name in head]
        blocks.append(f"{title}\n\n{tables.aligned(lines, body)}")
    return "\n\n".join(blocks)


def markdown_tables(rows: Sequence[Row]) -> str:
    """The same tables as Markdown."""
    return "\n\n".join(f"**{title}**\n\n{tables.markdown(head, body)}" for title, head, body in _tables(rows))


# --- words ----------------------------------------------------------------------------------------


def _compared(difference: float, error: float) -> str:
    """A difference in words; two standard errors count as more than noise."""
    if abs(difference) <= 2 * error:
        return f"within noise ({difference:+.1f}, noise ±{2 * error:.1f})"
    word = "higher" if difference > 0 else "lower"
    return f"{word} by {abs(difference):.1f} (noise ±{2 * error:.1f})"


def _difference(a: Row, b: Row, summary: Summary) -> tuple[float, float]:
    return a.value(summary) - b.value(summary), math.hypot(a.error(summary), b.error(summary))


def along(curve: Sequence[Row], zero_shot: float) -> tuple[float, float] | None:
    """Composition, and its slope, on a mixing curve where it keeps `zero_shot`; None beyond its ends.

    The curve is straight between its points, so where it bends it is a little too low.

    Args:
        curve: one method's rows from the base (alpha 0) to the fine-tuned model (alpha 1).
        zero_shot: mean over the unmentioned sets, in percent.
    """
    points = [(r.value(evaluate.unmentioned), r.value(evaluate.composition)) for r in curve]
    found = []
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if min(x0, x1) <= zero_shot <= max(x0, x1) and x0 != x1:
            slope = (y1 - y0) / (x1 - x0)
            found.append((y0 + slope * (zero_shot - x0), slope))
    return max(found) if found else None


def words(rows: Sequence[Row], curves: Mapping[str, Sequence[Row]]) -> list[str]:
    """What the table shows and what it does not, one sentence or two each.

    Args:
        rows: base, methods and their mixtures with the base.
        curves: per method its rows from alpha 0 to 1.
    """
    base = rows[0]
    methods = {r.loss: r for r in rows[1:] if r.alpha == 1}
    comp, kept = evaluate.composition, evaluate.unmentioned
    said = []
    for name, row in methods.items():
        said.append(
            f"{name} against the base: composition {_compared(*_difference(row, base, comp))}, "
            "swaps "
            f"{_compared(*_difference(row, base, evaluate.swaps))}, unmentioned zero-shot "
            f"{_compared(*_difference(row, base, kept))}, R@1 on web-like captions "
            f"{_compared(*_difference(row, base, one('r1/web')))}."
        )
    taught = {n: r for n, r in methods.items() if n != "clip"}
    for kind, meaning in (
        ("replace_rel", "a replaced relation, an edit that no negative of the fine-tuning has"),
        ("swap_order", "two exchanged noun phrases"),
    ):
        if taught:
            parts = [f"{n} {_compared(*_difference(r, base, one(kind)))}" for n, r in taught.items()]
            said.append(f"On {meaning}, against the base's {base.value(one(kind)):.1f}: {'; '.join(parts)}.")
    if "clip" in methods and taught:
        parts = []
        for name, row in taught.items():
            parts.append(
                f"{name} composition {_compared(*_difference(row, methods['clip'], comp))}, "
                f"zero-shot {_compared(*_difference(row, methods['clip'], kept))}"
            )
        said.append(
            "Against plain clip fine-tuning on the same pictures, what the negatives add: "
            f"{'; '.join(parts)}."
        )
        loss, _ = _difference(methods["clip"], base, kept)
        said.append(
            "Plain clip, without any negatives, itself changes unmentioned zero-shot by "
            f"{loss:+.1f} points: "
            "where another method forgets no more than that, its negatives are not shown to be the "
            "cause."
        )
    if "degla" in methods:
        said += _degla(methods, curves)
    ceilings = [f"{n} {base.value(s):.1f}" for n, s in {**KINDS, **SETS}.items() if base.value(s) > 97]
    if ceilings:
        said.append(
            f"The base is at its ceiling in {', '.join(ceilings)}: these can show a loss and no "
            "gain, and they "
            "push the means of all rows towards each other."
        )
    if methods:
        seconds = {n: statistics.fmean(r.seconds) for n, r in methods.items() if r.seconds}
        if len(seconds) > 1:
            fastest = min(seconds, key=lambda n: seconds[n])
            parts = [f"{n} {seconds[n] / seconds[fastest]:.1f}" for n in seconds if n != fastest]
            said.append(
                f"Equal steps are not equal compute: beside {fastest}, the time was "
                f"{', '.join(parts)} times as "
                "long. Mixing with the base costs no training."
            )
        seeds = len(next(iter(methods.values())).scores)
        said.append(
            "There is one fine-tuning seed: the noise above is that of the evaluation items alone, "
            "and `--seeds 3` "
            "shows how much a method moves by itself."
            if seeds == 1
            else f"The noise above holds the items and {seeds} fine-tuning seeds; all start from one base."
        )
    return said


def _degla(methods: Mapping[str, Row], curves: Mapping[str, Sequence[Row]]) -> list[str]:
    """Degla beside the others, and beside what mixing with the base gives them."""
    comp, kept = evaluate.composition, evaluate.unmentioned
    degla = methods["degla"]
    said = []
    for other in (n for n in methods if n != "degla"):
        said.append(
            f"degla against {other}: unmentioned zero-shot "
            f"{_compared(*_difference(degla, methods[other], kept))}, composition "
            f"{_compared(*_difference(degla, methods[other], comp))}."
        )
        there = along(curves[other], degla.value(kept))
        if there is None:
            said.append(
                f"No mixture of {other} with the base on the curve keeps as much zero-shot as "
                "degla: this control "
                "cannot be read at equal zero-shot."
            )
            continue
        reached, slope = there
        difference = degla.value(comp) - reached
        # The place on the curve is measured too: an error in zero-shot is one along the slope.
        error = math.hypot(
            *(row.error(comp) for row in (degla, methods[other])),
            *(slope * row.error(kept) for row in (degla, methods[other])),
        )
        verdict = (
            "degla is above this control" if difference > 2 * error else "degla is not above this control"
        )
        said.append(
            f"At degla's zero-shot of {degla.value(kept):.1f}, {other} mixed with the base reaches "
            "a composition "
            f"of {reached:.1f} (read off its curve), degla {degla.value(comp):.1f}: "
            f"{_compared(difference, error)}; {verdict}."
        )
    return said


# --- Markdown -------------------------------------------------------------------------------------


def gate_text(checks: Sequence[Check]) -> str:
    """The gate as aligned text."""
    width = max(len(check.name) for check in checks)
    return "\n".join(
        f"{check.name.ljust(width)}  {check.percent:5.1f}   wanted {check.low:.1f} to "
        f"{check.high:.1f}   "
        f"{'ok' if check.passed else 'NOT MET'}"
        for check in checks
    )


def markdown(
    *,
    recipe: Recipe,
    rows: Sequence[Row],
    curves: Mapping[str, Sequence[Row]],
    checks: Sequence[Check],
    options: Mapping[str, Mapping[str, float]],
    base_scale: float,
    stages: Mapping[str, float],
    quick: bool,
) -> str:
    """The whole report."""
    n = recipe.test_size * len(recipe.test_seeds)
    half = evaluate.Share(n // 2, n).error
    tuned = "; ".join(
        f"{loss}: " + ", ".join(f"`{key}={value:g}`" for key, value in values.items())
        for loss, values in options.items()
        if values
    )
    rates = ", ".join(f"{r.loss} {recipe.schedule(r.loss).lr:g}" for r in rows if r.loss and r.alpha == 1)
    chosen = (
        f"Chosen with `--select` on evaluation seed {recipe.dev_seed}: {', '.join(recipe.lr)}."
        if recipe.lr
        else "None was chosen for a method by itself; `--select` does that."
    )
    warning = (
        "\n**A `--quick` run: it shows that every stage works. Its numbers mean nothing.**\n" if quick else ""
    )
    return f"""# Hard-negative fine-tuning in a small drawn world
{warning}
One tiny CLIP was pretrained on web-like captions of drawn scenes, then fine-tuned by each method on
full captions of pairs of objects with four false captions each. Every run was upstream's trainer;
`commands.sh` has the commands and `recipe.json` the settings.

![composition over zero-shot](tradeoff.png)

{markdown_tables(rows)}

Each figure of a single kind or set comes from {n} items ({len(recipe.test_seeds)} evaluation seeds
of {recipe.test_size}; R@1 from both directions, among {recipe.test_size} candidates), so its
standard error is {half:.1f} points or less. *Composition* is the mean of the families replace, swap
and add; *seconds* are those of the training loop on one thread, {recipe.at_once} runs at a time.
The indented rows are the control: the weights of the fine-tuned model mixed with those of the base,
without training. *Zero-shot unmentioned* is the mean of {", ".join(world.UNMENTIONED)}, which the
fine-tuning captions never name.

## What this shows, and what it does not

{chr(10).join("* " + sentence for sentence in words(rows, curves))}
* It is a drawn world and a tower of three layers: an order of methods found here is no evidence for
  photographs.

"Noise" is two standard errors of the difference, as if the two models had seen different items;
they saw the same ones, so it is on the careful side.

## Before fine-tuning: the gate

A set at chance cannot show forgetting, and a base that already tells swapped words apart leaves
little to teach. Measured on evaluation seed {recipe.dev_seed}, which no table above uses:

```
{gate_text(checks)}
```

## Settings

* Learning rates: {rates}. {chosen} Everything above is measured on seeds
  {", ".join(map(str, recipe.test_seeds))}.
* The base's logit scale is {base_scale:.1f}, not 100, and the batch {recipe.batch}, not 256.
  Rescaled for that: {tuned or "nothing, in the methods that ran"}. CE-CLIP's cap is in logits, so
  it shrinks with the scale; DeGLA's distillation is a sum over the batch, so its weight grows as
  the batch shrinks; its teacher keeps the same share of the initial weights at the end as in the
  published run. All other options are the defaults.

## Wall time

{chr(10).join(f"* {stage}: {seconds:.0f} s" for stage, seconds in stages.items())}
"""


# --- plot -----------------------------------------------------------------------------------------

COLOURS = {"clip": "#7f7f7f", "negclip": "#1f77b4", "ce-clip": "#d9702a", "degla": "#2a9d5b"}
SPARE = ("#9467bd", "#8c564b", "#e377c2", "#bcbd22")


def plot(path: Path, curves: Mapping[str, Sequence[Row]], alpha: float) -> None:
    """The trade-off: zero-shot kept to the right, composition upwards, one curve per method from the base."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    comp, kept = evaluate.composition, evaluate.unmentioned
    figure, axes = pyplot.subplots(figsize=(8, 5.6), dpi=130)
    spare = iter(SPARE)
    base = next(iter(curves.values()))[0]
    origin = (base.value(kept), base.value(comp))
    for loss, curve in curves.items():
        colour = COLOURS.get(loss) or next(spare, "#000000")
        points = [(row.value(kept), row.value(comp)) for row in curve]
        axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.5, alpha=0.75, zorder=2)
        axes.annotate(
            "", points[-1], origin,
            arrowprops={"arrowstyle": "-|>", "color": colour, "alpha": 0.35, "linestyle": ":", "shrinkB": 6},
        )  # fmt: skip
        for row, point in zip(curve[1:], points[1:], strict=True):
            end = row.alpha == 1
            control = row.alpha == alpha
            axes.errorbar(
                *point,
                xerr=row.error(kept) if end or control else None,
                yerr=row.error(comp) if end or control else None,
                fmt="o", markersize=9 if end else 7 if control else 3, color=colour, elinewidth=1, capsize=2,
                markerfacecolor=colour if end or not control else "white", zorder=3,
                label=loss if end else None,
            )  # fmt: skip
    axes.errorbar(
        *origin, xerr=base.error(kept), yerr=base.error(comp),
        fmt="s", color="black", markersize=9, capsize=2, label="base", zorder=4,
    )  # fmt: skip
    axes.plot([], [], "o", markersize=7, color="0.3", markerfacecolor="white",
              label=f"{alpha:g} fine-tuned + {1 - alpha:.2g} base")  # fmt: skip
    axes.set_xlabel("zero-shot on what the captions never mention, %   (right: kept)")
    axes.set_ylabel("composition on held-out pairs, %   (up: better)")
    seeds = len(next(iter(curves.values()))[-1].scores)
    axes.set_title(
        "Fine-tuning with hard negatives: composition against what is forgotten\n"
        f"bars: standard error over items{' and seeds' if seeds > 1 else ''}; curves: weights "
        "mixed with the base",
        fontsize=10,
    )
    axes.grid(alpha=0.25)
    axes.margins(0.1)
    axes.legend(loc="best", frameon=True, fontsize=9)
    figure.tight_layout()
    write_whole(path, lambda part: figure.savefig(part, format="png"))
    pyplot.close(figure)
