"""Plots of a comparison as inline SVG. They use the colours of the page and follow its light or dark theme.

Each plot shows numbers that are also in a table on the page.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from xml.etree import ElementTree

from open_clip_ext.evaluation.comparison.measures import Change, Measure
from open_clip_ext.evaluation.comparison.paired import Comparison
from open_clip_ext.evaluation.comparison.results import COMPOSITION, ZERO_SHOT

WIDTH = 560
COLOURS = 6  # of models, before they repeat; shapes repeat after four
RADIUS = 5.5


class Svg:
    """A drawing in user units, scaled to the available width."""

    def __init__(self, height: float, label: str, width: float = WIDTH) -> None:
        self.root = ElementTree.Element(
            "svg", {"viewBox": f"0 0 {width:g} {height:g}", "role": "img", "aria-label": label}
        )

    def add(self, tag: str, words: str = "", **attributes: object) -> ElementTree.Element:
        """Add an element. The attribute `kind` becomes `class`, and `_` in names becomes `-`."""
        names = {"kind": "class"}
        made = ElementTree.SubElement(
            self.root,
            tag,
            {
                names.get(key, key.replace("_", "-")): f"{value:.2f}"
                if isinstance(value, float)
                else str(value)
                for key, value in attributes.items()
            },
        )
        made.text = words
        return made

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        """A straight line."""
        self.add("line", x1=x1, y1=y1, x2=x2, y2=y2, kind=kind)

    def words(self, x: float, y: float, words: str, anchor: str = "start", kind: str = "") -> None:
        """A line of text with its base line at `y`."""
        self.add("text", words, x=x, y=y, text_anchor=anchor, kind=kind)

    def mark(self, k: int, x: float, y: float, hint: str, radius: float = RADIUS) -> None:
        """The mark of model k, with a tooltip."""
        r = radius
        corners: Sequence[tuple[float, float]] = (
            [(-r, -r), (r, -r), (r, r), (-r, r)],
            [(0, -1.4 * r), (1.4 * r, 0), (0, 1.4 * r), (-1.4 * r, 0)],
            [(0, -1.3 * r), (1.3 * r, r), (-1.3 * r, r)],
        )[k % 4 - 1]
        if k % 4:
            points = " ".join(f"{x + dx:.2f},{y + dy:.2f}" for dx, dy in corners)
            made = self.add("polygon", points=points, kind=f"m{k % COLOURS}")
        else:
            made = self.add("circle", cx=float(x), cy=float(y), r=r, kind=f"m{k % COLOURS}")
        ElementTree.SubElement(made, "title").text = hint

    def __str__(self) -> str:
        return ElementTree.tostring(self.root, encoding="unicode")


def scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """A linear map from [`low`, `high`] to [`start`, `end`]."""
    return lambda value: start + (value - low) / (high - low) * (end - start)


def ticks(low: float, high: float, count: int = 6) -> list[float]:
    """About `count` round values from low to high."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def padded(values: Sequence[float], share: float = 0.08) -> tuple[float, float]:
    """The range of some values with a margin on both sides."""
    low, high = min(values), max(values)
    pad = (high - low or 0.02) * share
    return low - pad, high + pad


def cut(words: str, length: int) -> str:
    """A text, shortened to `length` characters."""
    return words if len(words) <= length else words[: length - 1].rstrip() + "…"


def axis(
    svg: Svg, x: Callable[[float], float], values: Sequence[float], top: float, bottom: float, sign: str
) -> None:
    """A horizontal axis with a grid line and a number in percent per value; `sign` is `+` for changes."""
    for value in values:
        svg.line(x(value), top, x(value), bottom, "grid" if value or not sign else "zero")
        svg.words(x(value), bottom + 18, f"{100 * value:{sign if value else ''}g}", "middle", "tick")


def _whisker(svg: Svg, x1: float, x2: float, y: float, kind: str) -> None:
    svg.line(x1, y, x2, y, kind)
    for end in (x1, x2):
        svg.line(end, y - 4, end, y + 4, kind)


def _hint(words: str, change: Change) -> str:
    return f"{words}: {100 * change.value:+.2f} [{100 * change.low:+.2f}, {100 * change.high:+.2f}] points"


def verdict(found: Comparison, k: int) -> str:
    """The two changes that a verdict rests on, with zero and the margin."""
    rows = [
        (kind, found.families[kind].changes[k]) for kind in (COMPOSITION, ZERO_SHOT) if kind in found.families
    ]
    if not rows:
        return ""
    values = [v for _, change in rows for v in (change.low, change.high)]
    low, high = padded([0, -found.margin, *values])
    x = scale(low, high, 110, WIDTH - 20)
    bottom = 14 + 40 * len(rows)
    svg = Svg(bottom + 44, f"Changes of {found.results[k + 1].label} with 95 % intervals")
    axis(svg, x, ticks(low, high), 8, bottom, "+")
    words = "change in percentage points, 95 % interval" + (
        "; dashed: the margin" if ZERO_SHOT in found.families else ""
    )
    svg.words(WIDTH - 20, bottom + 38, words, "end", "tick")
    for n, (kind, change) in enumerate(rows):
        y = 34.0 + 40 * n
        if kind == ZERO_SHOT:
            svg.line(x(-found.margin), y - 18, x(-found.margin), y + 18, "margin")
        svg.words(0, y + 5, kind)
        _whisker(svg, x(change.low), x(change.high), y, f"whisker s{(k + 1) % COLOURS}")
        svg.mark(k + 1, x(change.value), y, _hint(kind, change))
    return str(svg)


def differences(found: Comparison) -> str:
    """The change of every benchmark with its interval, around zero."""
    models = len(found.results) - 1
    values = [v for one in found.benchmarks for c in one.primary.changes for v in (c.low, c.high)]
    low, high = padded([0, *values])
    x = scale(low, high, 150, WIDTH - 14)
    step = 16 * models + 16
    bottom = 8.0 + step * len(found.benchmarks)
    svg = Svg(bottom + 44, "Changes of the primary scores with 95 % intervals")
    axis(svg, x, ticks(low, high), 8, bottom, "+")
    svg.words(WIDTH - 14, bottom + 38, "change in percentage points, 95 % interval", "end", "tick")
    for n, one in enumerate(found.benchmarks):
        middle = 8 + step * (n + 0.5)
        svg.words(0, middle + 5, cut(one.name, 19))
        for k, change in enumerate(one.primary.changes):
            y = middle + 16 * (k - (models - 1) / 2)
            _whisker(svg, x(change.low), x(change.high), y, f"whisker s{(k + 1) % COLOURS}")
            svg.mark(
                k + 1, x(change.value), y, _hint(f"{found.results[k + 1].label}, {one.name}", change), 4.5
            )
    return str(svg)


def bars(groups: Sequence[Measure], labels: Sequence[str]) -> str:
    """A bar per subset and model, from 0 to 100 percent, with intervals."""
    thick = 11.0
    step = thick * len(labels) + 14
    bottom = 6 + step * len(groups)
    x = scale(0, 1, 150, WIDTH - 18)
    svg = Svg(bottom + 24, "Score per subset in percent")
    axis(svg, x, [0, 0.25, 0.5, 0.75, 1], 4, bottom, "")
    for n, group in enumerate(groups):
        top = 6 + step * n + 7
        svg.words(0, top + thick * len(labels) / 2 + 5, cut(group.name, 19))
        for k, score in enumerate(group.scores):
            y = top + thick * k
            bar = svg.add(
                "rect",
                x=x(0),
                y=y + 1,
                width=x(score.value) - x(0),
                height=thick - 2,
                rx=1.5,
                kind=f"m{k % COLOURS}",
            )
            ends = f"[{100 * score.low:.1f}, {100 * score.high:.1f}]"
            hint = f"{labels[k]}, {group.name}: {100 * score.value:.1f} {ends}"
            ElementTree.SubElement(bar, "title").text = hint
            svg.line(x(score.low), y + thick / 2, x(score.high), y + thick / 2, "bar-whisker")
    return str(svg)


def mark(k: int) -> str:
    """Only the mark of model k, for a legend."""
    svg = Svg(20, "", 20)
    svg.mark(k, 10, 10, "", 7)
    return str(svg)
