"""The picture of composition against recognition, as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from open_clip_ext.evaluation.comparison import labels
from open_clip_ext.evaluation.comparison.figures import COLOURS, WIDTH, Svg, axis, cut, padded, scale, ticks
from open_clip_ext.evaluation.comparison.picture import Picture

HEIGHT = 430
LEFT, TOP, RIGHT, BOTTOM = 56, 30, WIDTH - 12, HEIGHT - 52
FEW = 4  # models, up to which a line leads from the base to each


def trade_off(shown: Picture, names: Sequence[str]) -> str:
    """Composition (vertical) against recognition (horizontal), with intervals and the front of the best.

    Args:
        shown: the scores.
        names: of the models, the base first.
    """
    across, up = shown.across.measure.scores, shown.up.measure.scores
    field = shown.published
    low, high = padded([v for s in across for v in (s.low, s.high)] + [p.across for p in field])
    bottom, top = padded([v for s in up for v in (s.low, s.high)] + [p.up for p in field])
    x, y = scale(low, high, LEFT, RIGHT), scale(bottom, top, BOTTOM, TOP)
    points = [(x(a.value), y(b.value)) for a, b in zip(across, up, strict=True)]
    svg = Svg(HEIGHT, "Composition against recognition, in percent")
    axis(svg, x, ticks(low, high), TOP, BOTTOM, "")
    for value in ticks(bottom, top):
        svg.line(LEFT, y(value), RIGHT, y(value), "grid")
        svg.words(LEFT - 8, y(value) + 5, f"{100 * value:g}", "end", "tick")
    svg.words(RIGHT, HEIGHT - 12, f"{shown.across.name}, % →", "end", "axis")
    svg.words(LEFT, 18, f"↑ {shown.up.name}, %", "start", "axis")
    for one in field:
        made = svg.add("circle", cx=x(one.across), cy=y(one.up), r=3, kind="field")
        hint = f"{one.name}: {100 * one.across:.1f}, {100 * one.up:.1f} (published)"
        ElementTree.SubElement(made, "title").text = hint
    _front(svg, [points[k] for k in shown.front])
    for k, point in enumerate(points[1:], 1):
        if len(points) <= FEW:
            svg.line(*points[0], *point, f"path s{k % COLOURS}")
    lines = []
    for k, (a, b) in enumerate(zip(across, up, strict=True)):
        for ends in (
            (x(a.low), points[k][1], x(a.high), points[k][1]),
            (points[k][0], y(b.high), points[k][0], y(b.low)),
        ):
            svg.line(*ends, f"whisker thin s{k % COLOURS}")
            lines.append((ends[0] - 1, ends[1] - 1, ends[2] + 1, ends[3] + 1))
    for k, (a, b) in enumerate(zip(across, up, strict=True)):
        hint = f"{names[k]}: {100 * a.value:.1f} {shown.across.name}, {100 * b.value:.1f} {shown.up.name}"
        svg.mark(k, *points[k], hint, 7)
    _names(svg, [cut(name, 22) for name in names], points, lines)
    return str(svg)


def _front(svg: Svg, points: Sequence[tuple[float, float]]) -> None:
    """The edge of what the models of the front reach: steps from the left edge to the lower one."""
    corners: list[tuple[float, float]] = [(LEFT, min(y for _, y in points))]
    for x, y in sorted(points):
        corners += [(corners[-1][0], y), (x, y)]
    corners.append((corners[-1][0], BOTTOM))
    svg.add("polyline", points=" ".join(f"{x:.2f},{y:.2f}" for x, y in corners), kind="front")


def _names(
    svg: Svg, names: Sequence[str], points: Sequence[tuple[float, float]], lines: Sequence[labels.Box]
) -> None:
    """The names of the points, with a line to those that had to go further away."""
    found = labels.place(names, points, (LEFT + 4, TOP - 8, WIDTH, BOTTOM - 2), lines)
    for point, label in zip(points, found, strict=True):
        if label.far:
            svg.line(*point, *label.nearest(point), "leader")
    for name, label in zip(names, found, strict=True):
        svg.words(label.x, label.y, name, "start", "name")
