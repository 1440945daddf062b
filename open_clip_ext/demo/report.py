"""The demo's results: terminal tables, a Markdown report, plots, and sentences computed from the numbers.

Every base repeats the whole comparison with its own pictures, captions, initial weights and evaluation items.
The spread over bases therefore contains all sources of variation, and is the only measure of noise here.
"""

from __future__ import annotations

import colorsys
import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open_clip_ext import tables
from open_clip_ext.demo import evaluate, world
from open_clip_ext.demo.evaluate import Check, Scores
from open_clip_ext.demo.recipe import Recipe
from open_clip_ext.files import atomic_write

Summary = Callable[[Scores], float]
# Scores by optimizer step along one fine-tuning run.
Course = Mapping[int, Scores]


@dataclass(frozen=True)
class Row:
    """The models of one method, or one mixture with the base, for all bases.

    Attributes:
        loss: name of the loss; empty for the bases.
        alpha: weight of the fine-tuned model; the rest is the base.
        scores: for each base a list with one entry per fine-tuning seed.
        steps: optimizer steps of a fine-tuning run.
        seconds: CPU time of each fine-tuning run, including start-up.
    """

    loss: str
    alpha: float
    scores: Sequence[Sequence[Scores]]
    steps: int = 0
    seconds: Sequence[float] = ()

    @property
    def name(self) -> str:
        """Its name in tables."""
        if not self.loss:
            return "base"
        return self.loss if self.alpha == 1 else f"  {self.alpha:g} {self.loss} + {1 - self.alpha:.2g} base"

    def values(self, summary: Summary) -> list[float]:
        """One value per base: the mean over its fine-tuning seeds."""
        return [statistics.fmean(map(summary, seeds)) for seeds in self.scores]

    def value(self, summary: Summary) -> float:
        """The mean over bases."""
        return statistics.fmean(self.values(summary))

    def spread(self, summary: Summary) -> float:
        """The standard deviation over bases; 0 for one base."""
        values = self.values(summary)
        return statistics.stdev(values) if len(values) > 1 else 0.0


def one(name: str) -> Summary:
    """The summary that consists of a single subset."""
    return lambda scores: scores[name].percent


SUMMARIES: dict[str, Summary] = {
    "composition": evaluate.composition,
    "relations": evaluate.relations,
    "zero-shot unmentioned": evaluate.unmentioned,
    "zero-shot shape": one("zs/shape"),
    "R@1 full": one("r1/full"),
    "R@1 web": one("r1/web"),
}
KINDS = {kind: one(kind) for kind in world.KINDS}
SETS = {name: one(f"zs/{name}") for name in world.CLASSES}


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
    bases, seeds = len(rows[0].scores), max(len(seeds) for row in rows for seeds in row.scores)
    counted = f"{_counted(bases, 'base')}, {_counted(seeds, 'fine-tuning seed')} each"
    spread = "; ± standard deviation over bases" if bases > 1 else ""
    main = [
        [r.name, *_cells(r, SUMMARIES)]
        + ([str(r.steps), f"{statistics.fmean(r.seconds):.0f}"] if r.seconds else ["", ""])
        for r in rows
    ]
    found = [(f"Summary, in percent ({counted}{spread})", ["", *SUMMARIES, "steps", "CPU seconds"], main)]
    for title, columns in (
        ("Held-out pairs, by kind of false caption; chance is 50", KINDS),
        (f"Zero-shot; the first {len(world.UNMENTIONED)} are never mentioned in fine-tuning", SETS),
    ):
        found.append((title, ["", *columns], [[r.name, *_cells(r, columns)] for r in rows]))
    return found


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number > 1 else ''}"


def text_tables(rows: Sequence[Row]) -> str:
    """The tables as aligned plain text."""
    blocks = []
    for title, head, body in _tables(rows):
        # A head of two words takes two lines, so that its column is not wider than its numbers.
        lines = [name.replace(" ", "\n", 1) for name in head]
        blocks.append(f"{title}\n\n{tables.aligned(lines, body)}")
    return "\n\n".join(blocks)


def markdown_tables(rows: Sequence[Row]) -> str:
    """The same tables as Markdown."""
    return "\n\n".join(f"**{title}**\n\n{tables.markdown(head, body)}" for title, head, body in _tables(rows))


# --- noise ----------------------------------------------------------------------------------------

# The 97.5 % point of Student's t for 1, 2, ... degrees of freedom. The last value, a little too large, is
# also used beyond.
T = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13, 2.12)


def noise(table: Sequence[Sequence[float]]) -> float:
    """How far the means of two rows can differ by chance: half of a 95 % interval of their difference.

    All rows share their bases, so an effect of a base common to all rows is not noise. The residuals after
    subtracting the means of rows and of bases have one standard deviation for the whole table (two-way
    analysis of variance), with (rows - 1)(bases - 1) degrees of freedom. Two bases of two rows alone would
    say little; the whole table says enough. This assumes that all rows vary between bases by about the same
    amount.

    Args:
        table: for each model its value for each base.

    Returns:
        The half-width; infinite for one base.
    """
    freedom = (len(table) - 1) * (len(table[0]) - 1)
    if not freedom:
        return math.inf
    rows, bases = list(map(statistics.fmean, table)), list(map(statistics.fmean, zip(*table, strict=True)))
    middle = statistics.fmean(rows)
    squares = sum(
        (value - row - base + middle) ** 2
        for values, row in zip(table, rows, strict=True)
        for value, base in zip(values, bases, strict=True)
    )
    t = T[min(freedom, len(T)) - 1]
    return t * math.sqrt(2 * squares / freedom / len(bases))


def verdict(a: Sequence[float], b: Sequence[float], half: float) -> str:
    """Whether `a` is higher or lower than `b`, which must hold beyond the noise and in every base."""
    differences = [x - y for x, y in zip(a, b, strict=True)]
    mean = statistics.fmean(differences)
    if abs(mean) > half and all(d * mean > 0 for d in differences):
        return "higher" if mean > 0 else "lower"
    return "within noise"


def _grouped(table: Mapping[str, Sequence[float]], against: str, names: Sequence[str]) -> str:
    """Which of `names` are higher than `against`, lower or neither, with their mean differences."""
    half = noise(list(table.values()))
    groups: dict[str, list[str]] = {}
    for name in names:
        by = statistics.fmean(table[name]) - statistics.fmean(table[against])
        groups.setdefault(verdict(table[name], table[against], half), []).append(f"{name} ({by:+.1f})")
    said = "; ".join(f"{word}: {', '.join(groups[word])}" for word in VERDICTS if word in groups)
    return f"{said[0].upper()}{said[1:]}. Noise ±{half:.1f}."


VERDICTS = ("higher", "lower", "within noise")


# --- words ----------------------------------------------------------------------------------------


def words(
    rows: Sequence[Row], curves: Mapping[str, Sequence[Row]], courses: Mapping[str, Sequence[Course]]
) -> list[str]:
    """Sentences on what the table shows.

    A verdict is given only if it was the same in other worlds and with other rounding (docs/demo.md).
    There is no verdict on the order in composition of the methods with negatives, which end close together,
    nor on relations, which some runs have not learned when they end: the base decides that.

    Args:
        rows: base, methods and their mixtures with the base.
        curves: for each method its rows from alpha 0 to 1.
        courses: for each method and base the scores along the run.
    """
    plain = [row for row in rows if row.alpha in (0, 1)]
    methods = [row.loss for row in plain[1:]]
    if len(rows[0].scores) == 1:
        return ["There is only one base, so the noise is unknown and nothing is compared: give --bases 2."]
    composition, kept = (
        {row.name: row.values(summary) for row in plain}
        for summary in (evaluate.composition, evaluate.unmentioned)
    )
    taught = [name for name in methods if name != "clip"] or methods
    said = [f"Composition, against the base. {_grouped(composition, 'base', taught)}"]
    if "clip" in methods and taught != methods:
        said.append(
            "Composition, against plain clip fine-tuning on the same pictures: "
            f"{_figures(composition, 'clip', taught)}"
        )
    said.append(f"Unmentioned zero-shot, against the base. {_grouped(kept, 'base', methods)}")
    if len(methods) > 1:
        said.append(_keeps_most(kept, methods))
        said += _at_equal_zero_shot(curves)
    said.append(_settled(courses))
    return said


def _figures(table: Mapping[str, Sequence[float]], against: str, names: Sequence[str]) -> str:
    """The mean differences without a verdict, for comparisons whose verdict differs between worlds."""
    by = {name: statistics.fmean(table[name]) - statistics.fmean(table[against]) for name in names}
    parts = ", ".join(f"{name} {difference:+.1f}" for name, difference in by.items())
    return f"{parts}. Noise ±{noise(list(table.values())):.1f}."


def _keeps_most(table: Mapping[str, Sequence[float]], methods: Sequence[str]) -> str:
    half = noise(list(table.values()))
    first, second, *_ = sorted(methods, key=lambda name: -statistics.fmean(table[name]))
    lead = statistics.fmean(table[first]) - statistics.fmean(table[second])
    if all(verdict(table[first], table[name], half) == "higher" for name in methods if name != first):
        return f"Of the methods, {first} keeps the most of it: {lead:.1f} more than any other."
    return f"Of the methods, none keeps more of it than every other ({first} {lead:+.1f} to {second})."


def along(points: Sequence[tuple[float, float]], zero_shot: float) -> float | None:
    """Composition on a mixing curve at the point that keeps `zero_shot`; None beyond its ends.

    The interpolation is linear, so it is a little too low where the curve bends.

    Args:
        points: zero-shot and composition, from the base to the fine-tuned model.
        zero_shot: mean over the unmentioned sets, in percent.
    """
    found = [
        y0 + (y1 - y0) * (zero_shot - x0) / (x1 - x0)
        for (x0, y0), (x1, y1) in itertools.pairwise(points)
        if min(x0, x1) <= zero_shot <= max(x0, x1) and x0 != x1
    ]
    return max(found, default=None)


def _at_equal_zero_shot(curves: Mapping[str, Sequence[Row]]) -> list[str]:
    """Compare the method that keeps the most with the others, mixed with their base to keep as much."""
    comp, kept = evaluate.composition, evaluate.unmentioned
    keeper = max(curves, key=lambda name: curves[name][-1].value(kept))
    target = curves[keeper][-1].values(kept)
    table = {keeper: curves[keeper][-1].values(comp)}
    unread = []
    for name, curve in curves.items():
        if name == keeper:
            continue
        zero_shot, composition = ([row.values(s) for row in curve] for s in (kept, comp))
        reached = [
            along([(z[base], c[base]) for z, c in zip(zero_shot, composition, strict=True)], target[base])
            for base in range(len(target))
        ]
        if None in reached:
            unread.append(name)
        else:
            table[name] = [value for value in reached if value is not None]
    said = []
    if len(table) > 1:
        others = [name for name in table if name != keeper]
        said.append(
            f"Composition, against {keeper}, if the weights of each other method are mixed with the base "
            f"until it keeps as much zero-shot: {_figures(table, keeper, others)}"
        )
    if unread:
        said.append(f"No mixture on the curve keeps as much zero-shot as {keeper}: {', '.join(unread)}.")
    return said


def _settled(courses: Mapping[str, Sequence[Course]]) -> str:
    """How much composition still changed at the end of the runs."""
    moved = {}
    for name, found in courses.items():
        changes = []
        for course in found:
            steps = sorted(course)
            before = max(step for step in steps if step <= steps[-1] * 2 / 3)
            changes.append(evaluate.composition(course[steps[-1]]) - evaluate.composition(course[before]))
        moved[name] = max(changes, key=abs)
    parts = ", ".join(f"{name} {change:+.1f}" for name, change in moved.items())
    return f"The largest change of composition in the last third of the steps, in any base: {parts}."


def course_table(courses: Mapping[str, Sequence[Course]]) -> str:
    """Composition along the runs, in the lowest and the highest base, in Markdown."""
    steps = sorted(next(iter(courses.values()))[0])
    body = []
    for name, found in courses.items():
        values = [[evaluate.composition(course[step]) for course in found] for step in steps]
        body.append([name, *(f"{min(v):.0f} to {max(v):.0f}" for v in values)])
    return tables.markdown(["steps", *map(str, steps)], body)


# --- Markdown -------------------------------------------------------------------------------------


def gate_text(checks: Sequence[Sequence[Check]]) -> str:
    """The gate as aligned text, with a column per base."""
    head = ["", "wanted", *(f"base {number}" for number in range(len(checks)))]
    body = [
        [
            same[0].name,
            f"{same[0].low:.1f} to {same[0].high:.1f}",
            *(f"{'' if check.passed else 'NOT MET '}{check.percent:.1f}" for check in same),
        ]
        for same in zip(*checks, strict=True)
    ]
    return tables.aligned(head, body)


def markdown(
    *,
    recipe: Recipe,
    rows: Sequence[Row],
    curves: Mapping[str, Sequence[Row]],
    courses: Mapping[str, Sequence[Course]],
    checks: Sequence[Sequence[Check]],
    options: Sequence[Mapping[str, Mapping[str, float]]],
    scales: Sequence[float],
    stages: Mapping[str, tuple[float, float]],
    quick: bool,
) -> str:
    """The whole report."""
    n = recipe.test_size * len(recipe.test_seeds)
    tuned = "; ".join(
        f"base {base}, {loss}: " + ", ".join(f"`{key}={value:g}`" for key, value in values.items())
        for base, losses in enumerate(options)
        for loss, values in losses.items()
        if values
    )
    rates = ", ".join(f"{r.loss} {recipe.schedule(r.loss).lr:g}" for r in rows if r.loss and r.alpha == 1)
    chosen = (
        f"Chosen with `--select` on evaluation seed {recipe.dev_seed}: {', '.join(recipe.lr)}."
        if recipe.lr
        else "None was selected per method; `--select` does that."
    )
    warning = (
        "\n**A `--quick` run: it shows that every stage works. Its numbers are meaningless.**\n"
        if quick
        else ""
    )
    name, note = "CLIP", ""
    if recipe.siglip:
        name, note = "SigLIP", SIGLIP.format(bias=recipe.model["model_cfg"]["init_logit_bias"])
    return f"""# Hard-negative fine-tuning in a small drawn world
{warning}
Tiny {name}s, the bases, were pretrained on web-like captions of drawn scenes, each in its own world. Each was
then fine-tuned with every method on full captions of pairs of objects, with four false captions each. Every
run used upstream's trainer. `commands.sh` has the commands and `recipe.json` the settings.

![composition over zero-shot](tradeoff.png)

{markdown_tables(rows)}

Each value of a single kind or set is measured on {n} items per base ({len(recipe.test_seeds)} evaluation
seeds of {recipe.test_size}; R@1 in both directions, among {recipe.test_size} candidates).
*Composition* is the mean of exchanged nouns and exchanged adjectives, *relations* that of exchanged noun
phrases and replaced relations. *Zero-shot unmentioned* is the mean of {", ".join(world.UNMENTIONED)}, which
the fine-tuning captions never mention. *CPU seconds* are those of one run, including its start. The
indented rows are the control: the weights of the fine-tuned model mixed with those of the base, without
training.

## What this shows, and what it does not

{chr(10).join("* " + sentence for sentence in words(rows, curves, courses))}
* Relations are learned late and suddenly, at a step that differs between bases (see the curves). If a run
  ends before that, the score depends on the moment, so no method is judged by them.
* This is a drawn world and a tower of three layers. An order of methods found here is not evidence for
  photographs.

"Higher" and "lower" mean: in every base, and by more than the noise. The noise is half of the 95 %
interval of a difference between two rows. It is computed from the residuals of the table after subtracting
the means of rows and bases, and covers everything that changes with a new base.

## Along the runs

![composition and zero-shot over steps](course.png)

Composition by number of steps, in the lowest and in the highest base:

{course_table(courses)}

These are intermediate models of the runs of seed 0, on evaluation seed {recipe.dev_seed}. Their learning
rate is still high, so a shorter run would end at other values.

## Before fine-tuning: the gate

A set at chance cannot show forgetting, one at its ceiling cannot show gain, and a base that already
distinguishes swapped words leaves little to learn. Measured on evaluation seed {recipe.dev_seed}, which no
table above uses:

```
{gate_text(checks)}
```

## Settings

* Learning rates: {rates}. {chosen} All tables are measured on seeds
  {", ".join(map(str, recipe.test_seeds))}.
* The bases' logit scales are {", ".join(f"{scale:.1f}" for scale in scales)}, not 100, and the batch
  {recipe.fine_tuning.batch}, not 256. Rescaled for that: {tuned or "nothing, in the methods that ran"}.
  CE-CLIP's cap is in logits, so it shrinks with the scale. DeGLA's distillation is a sum over the batch, so
  its weight grows as the batch shrinks. Its teacher keeps the same share of the initial weights at the end
  as in the published run. All other options have their defaults.
{note}
## Time

{chr(10).join(f"* {stage}: {wall:.0f} s, {cpu:.0f} s of CPU time" for stage, (wall, cpu) in stages.items())}
"""


SIGLIP = """\
* The models have a logit bias, which starts at {bias:g}: the contrast of images and captions over the batch
  is SigLIP's sigmoid loss. The towers are those of the CLIPs of this demo. All options were published for
  CLIP; none was chosen for SigLIP.
"""


# --- plots ----------------------------------------------------------------------------------------

COLOURS = {"clip": "#7f7f7f", "negclip": "#1f77b4", "ce-clip": "#d9702a", "degla": "#2a9d5b"}
SPARE = ("#9467bd", "#8c564b", "#e377c2", "#bcbd22")
LINES = ("-", "--", ":", "-.")


def _colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for each method, and no two with the same."""
    others = [name for name in names if name not in COLOURS]
    spare: Sequence[str] = SPARE
    if len(others) > len(SPARE):
        turns = (
            colorsys.hsv_to_rgb(k / len(others), 1 - k % 2 / 2, 0.85 - k % 3 / 5) for k in range(len(others))
        )
        spare = ["#" + "".join(f"{round(255 * part):02x}" for part in colour) for colour in turns]
    return COLOURS | dict(zip(others, spare, strict=False))


def _legend(axes: Any, methods: int, size: int) -> None:
    """The legend, in two columns of small print if there are many methods."""
    many = methods > len(COLOURS) + len(SPARE)
    axes.legend(loc="best", frameon=True, fontsize=5 if many else size, ncols=2 if many else 1)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def plot_tradeoff(path: Path, curves: Mapping[str, Sequence[Row]], alpha: float) -> None:
    """Plot composition (vertical) against zero-shot (horizontal), one curve per method from the base."""
    pyplot = _pyplot()
    comp, kept = evaluate.composition, evaluate.unmentioned
    figure, axes = pyplot.subplots(figsize=(8, 5.6), dpi=130)
    before = next(iter(curves.values()))[0]
    colours = _colours(list(curves))
    for loss, curve in curves.items():
        colour = colours[loss]
        points = [(row.value(kept), row.value(comp)) for row in curve]
        axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.5, alpha=0.75, zorder=2)
        axes.plot(
            curve[-1].values(kept), curve[-1].values(comp),
            "x", color=colour, markersize=6, alpha=0.7, zorder=3,
        )  # fmt: skip
        for row, point in zip(curve[1:], points[1:], strict=True):
            end = row.alpha == 1
            control = row.alpha == alpha
            axes.plot(
                *point, "o", markersize=9 if end else 7 if control else 3, color=colour,
                markerfacecolor=colour if end or not control else "white", zorder=4,
                label=loss if end else None,
            )  # fmt: skip
    axes.plot(before.values(kept), before.values(comp), "x", color="black", markersize=6, alpha=0.7)
    axes.plot(
        before.value(kept), before.value(comp), "s", color="black", markersize=9, label="base", zorder=4
    )
    axes.plot([], [], "o", markersize=7, color="0.3", markerfacecolor="white",
              label=f"{alpha:g} fine-tuned + {1 - alpha:.2g} base")  # fmt: skip
    axes.plot([], [], "x", color="0.3", markersize=6, label="one base each")
    axes.set_xlabel("zero-shot on what the captions never mention, %   (right: kept)")
    axes.set_ylabel("composition: exchanged words on held-out pairs, %   (up: better)")
    axes.set_title(
        "Fine-tuning with hard negatives: composition against what is forgotten\n"
        f"mean over {_counted(len(before.scores), 'base')}; curves: weights mixed with the base",
        fontsize=10,
    )
    axes.grid(alpha=0.25)
    axes.margins(0.1)
    _legend(axes, len(curves), 9)
    figure.tight_layout()
    atomic_write(path, lambda part: figure.savefig(part, format="png"))
    pyplot.close(figure)


def plot_courses(path: Path, courses: Mapping[str, Sequence[Course]]) -> None:
    """Plot composition, relations and unmentioned zero-shot over the steps, per method and base."""
    pyplot = _pyplot()
    colours = _colours(list(courses))
    figure, panels = pyplot.subplots(1, 3, figsize=(12, 4.2), dpi=120, sharex=True)
    for axes, summary, title in (
        (panels[0], evaluate.composition, "composition: exchanged words, %"),
        (panels[1], evaluate.relations, "relations, %"),
        (panels[2], evaluate.unmentioned, "zero-shot on what captions never mention, %"),
    ):
        for loss, found in courses.items():
            for base, course in enumerate(found):
                steps = sorted(course)
                axes.plot(
                    steps, [summary(course[step]) for step in steps], LINES[base % len(LINES)],
                    color=colours[loss], linewidth=1.4, marker="o", markersize=2.5,
                    label=None if base else loss,
                )  # fmt: skip
        axes.set_xlabel("steps of fine-tuning")
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.25)
    for base in range(len(next(iter(courses.values())))):
        panels[0].plot([], [], LINES[base % len(LINES)], color="0.3", label=f"base {base}")
    _legend(panels[0], len(courses), 8)
    figure.tight_layout()
    atomic_write(path, lambda part: figure.savefig(part, format="png"))
    pyplot.close(figure)
