"""Plots of a study as inline SVG, in the colours of the page. Their numbers are in its tables, too."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from open_clip_ext.evaluation.comparison import labels
from open_clip_ext.evaluation.comparison.figures import COLOURS, WIDTH, Svg, axis, cut, padded, scale, ticks
from open_clip_ext.study.results import Difference, Model, Results
from open_clip_ext.study.settings import BASE

HEIGHT = 430
LEFT, TOP, RIGHT, BOTTOM = 56, 30, WIDTH - 12, HEIGHT - 52
NAMES = 150  # pixels for the names left of a plot of differences
LINE = 26


def curves(found: Results, across: str, up: str) -> str:
    """One family against another: each method's way from the base, weight by weight."""
    ways = {m.method: found.curve(m.method, (across, up)) for m in found.models if _tuned(m)}
    colour = {name: k for k, name in enumerate(ways, 1)}
    # As in the table; a way whose method lacks a run begins at the mean over its own.
    base = next(model for model in found.models if model.method == BASE)
    start = [found.score(base, column).mean for column in (across, up)]
    everything = [start, *(scores for way in ways.values() for _, scores in way)]
    x = scale(*padded([a for a, _ in everything]), LEFT, RIGHT)
    y = scale(*padded([b for _, b in everything]), BOTTOM, TOP)
    svg = Svg(HEIGHT, f"{up} against {across}, in percent, along the weights between base and method")
    axis(svg, x, ticks(*padded([a for a, _ in everything])), TOP, BOTTOM, "")
    for value in ticks(*padded([b for _, b in everything])):
        svg.line(LEFT, y(value), RIGHT, y(value), "grid")
        svg.words(LEFT - 8, y(value) + 5, f"{100 * value:g}", "end", "tick")
    svg.words(RIGHT, HEIGHT - 12, f"{across}, % →", "end", "axis")
    svg.words(LEFT, 18, f"↑ {up}, %", "start", "axis")
    lines: list[labels.Box] = []
    for name, way in ways.items():
        points = [(x(a), y(b)) for _, (a, b) in way]
        for one, two in pairwise(points):
            svg.line(*one, *two, f"whisker thin s{colour[name] % COLOURS}")
            lines += _along(one, two)
        for weight, (a, b) in way[1:-1]:
            hint = f"{weight:g} {name} + {1 - weight:.2g} base: {100 * a:.1f}, {100 * b:.1f}"
            svg.mark(colour[name], x(a), y(b), hint, 3)
            lines.append((x(a) - 5, y(b) - 5, x(a) + 5, y(b) + 5))
    ends = [(BASE, 0, start), *((name, colour[name], way[-1][1]) for name, way in ways.items())]
    for name, k, (a, b) in ends:
        svg.mark(k, x(a), y(b), f"{name}: {100 * a:.1f} {across}, {100 * b:.1f} {up}", 7)
    places = [(x(a), y(b)) for _, _, (a, b) in ends]
    names = [cut(name, 22) for name, *_ in ends]
    found_labels = labels.place(names, places, (LEFT, TOP - 8, WIDTH, BOTTOM - 2), lines)
    for place, label in zip(places, found_labels, strict=True):
        if label.far:
            svg.line(*place, *label.nearest(place), "leader")
    for name, label in zip(names, found_labels, strict=True):
        svg.words(label.x, label.y, name, "start", "name")
    return str(svg)


def _along(one: tuple[float, float], two: tuple[float, float]) -> list[labels.Box]:
    """Small boxes on the line between two points: one around it would cover far more."""
    steps = [(one[0] + (two[0] - one[0]) * t / 8, one[1] + (two[1] - one[1]) * t / 8) for t in range(9)]
    return [(min(a, c), min(b, d), max(a, c), max(b, d)) for (a, b), (c, d) in pairwise(steps)]


def differences(family: str, rows: Sequence[tuple[str, int, Difference]]) -> str:
    """Differences with their intervals and a small mark for each run.

    Args:
        family: what the scores are of.
        rows: name, number of the method, difference.
    """
    values = [v for _, _, d in rows for v in (d.low, d.high, *d.runs)]
    low, high = padded([0.0, *values])
    x = scale(low, high, NAMES, WIDTH - 16)
    bottom = 12 + LINE * len(rows)
    svg = Svg(bottom + 44, f"{family}: differences with 95 % intervals; small marks are single runs")
    axis(svg, x, ticks(low, high), 6, bottom, "+")
    svg.words(
        WIDTH - 16, bottom + 38, f"{family}, percentage points; small marks: single runs", "end", "tick"
    )
    for place, (name, k, difference) in enumerate(rows):
        at = 12 + LINE * (place + 0.5)
        svg.words(NAMES - 12, at + 5, cut(name, 20), "end")
        svg.line(x(difference.low), at, x(difference.high), at, f"whisker s{k % COLOURS}")
        for run in difference.runs:
            svg.mark(k, x(run), at + 9, f"{name}, one run: {100 * run:+.1f}", 2)
        mean, low, high = (100 * v for v in (difference.mean, difference.low, difference.high))
        hint = f"{name}: {mean:+.1f} [{low:+.1f}, {high:+.1f}]"
        svg.mark(k, x(difference.mean), at, hint, 5)
    return str(svg)


def _tuned(model: Model) -> bool:
    return model.method != BASE and not model.mixed
