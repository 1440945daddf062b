"""Places for the names of points in a plot, so that no name covers another, a point or the edge."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

# Left, top, right, bottom.
Box = tuple[float, float, float, float]

ADVANCE = 8.2  # an upper bound of the mean width of a letter of the bold 14-pixel font
HEIGHT = 16
GAP = 6  # between two names on a line
DISTANCES = (13, 22, 34, 48, 64, 84, 108, 136, 168, 204)
# In degrees, clockwise: to the right, to the left, then up and down from there.
DIRECTIONS = (0, 180, 330, 30, 210, 150, 300, 60, 240, 120, 270, 90, 345, 15, 195, 165)


@dataclass(frozen=True)
class Label:
    """A name at the place of its base line's start, and whether it is far enough off to need a line."""

    x: float
    y: float
    box: Box
    far: bool

    def nearest(self, point: tuple[float, float]) -> tuple[float, float]:
        """The place of its box that is nearest to a point."""
        left, top, right, bottom = self.box
        return min(max(point[0], left), right), min(max(point[1], top), bottom)


def overlap(one: Box, other: Box) -> float:
    """The area that two boxes share."""
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    return wide * high if wide > 0 and high > 0 else 0.0


def place(
    names: Sequence[str],
    points: Sequence[tuple[float, float]],
    area: Box,
    lines: Sequence[Box] = (),
) -> list[Label]:
    """A place for each name near its point, the crowded points first.

    Names cover no point, no other name and no edge, if there is room; then they are near their points, and
    then off the lines.

    Args:
        names: of the points.
        points: their centres.
        area: what the names must stay in.
        lines: what they should not lie on.
    """
    marks: list[Box] = [(x - 9, y - 9, x + 9, y + 9) for x, y in points]
    crowded = sorted(
        range(len(points)), key=lambda k: sorted(math.dist(points[k], other) for other in points)[:4]
    )
    found: dict[int, Label] = {}
    for k in crowded:
        taken = [*marks, *(label.box for label in found.values())]
        others = marks[:k] + marks[k + 1 :]
        wide = ADVANCE * len(names[k]) + GAP
        options = [
            (_cost(label, points[k], taken, others, area, lines) + distance, order, label)
            for order, (distance, direction) in enumerate(product(DISTANCES, DIRECTIONS))
            for label in [_label(points[k], math.radians(direction), distance, wide)]
        ]
        found[k] = min(options)[2]
    return [found[k] for k in range(len(points))]


def _cost(
    label: Label,
    point: tuple[float, float],
    taken: Sequence[Box],
    others: Sequence[Box],
    area: Box,
    lines: Sequence[Box],
) -> float:
    """What speaks against a place, where a distance of one pixel costs 1.

    A name across a line costs about 10 and one along it about 60; one on a point or on another name costs
    more than any distance.
    """
    left, top, right, bottom = label.box
    outside = (
        max(area[0] - left, 0) + max(right - area[2], 0) + max(area[1] - top, 0) + max(bottom - area[3], 0)
    )
    covered = sum(overlap(label.box, box) for box in taken)
    crossed = sum(_crosses(point, label, box) for box in others) if label.far else 0
    across = sum(overlap(label.box, box) for box in lines)
    return 1000 * outside + (1000 + 10 * covered if covered else 0) + 200 * min(crossed, 3) + 0.3 * across


def _crosses(point: tuple[float, float], label: Label, mark: Box) -> bool:
    """Whether the line from a point to its name runs over a mark."""
    (x0, y0), (x1, y1) = point, label.nearest(point)
    along = ((x0 + (x1 - x0) * t / 16, y0 + (y1 - y0) * t / 16) for t in range(17))
    return any(mark[0] < x < mark[2] and mark[1] < y < mark[3] for x, y in along)


def _label(point: tuple[float, float], angle: float, distance: float, wide: float) -> Label:
    """The name whose box begins `distance` from the point in a direction."""
    across, down = math.cos(angle), math.sin(angle)
    x = point[0] + distance * across + wide / 2 * across
    y = point[1] + distance * down + HEIGHT / 2 * down
    box = (x - wide / 2, y - HEIGHT / 2, x + wide / 2, y + HEIGHT / 2)
    return Label(box[0] + GAP / 2, box[3] - 4, box, distance > DISTANCES[1])
