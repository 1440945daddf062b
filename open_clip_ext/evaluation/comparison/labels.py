"""Places for the names of points in a plot, so that no name covers another, a point or the edge."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

# Left, top, right, bottom.
Box = tuple[float, float, float, float]
Point = tuple[float, float]

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

    def nearest(self, point: Point) -> Point:
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
    points: Sequence[Point],
    area: Box,
    lines: Sequence[Box] = (),
) -> list[Label]:
    """A place for each name near its point, the crowded points first.

    Names cover no point, no other name and no edge, if there is room; then no line to a name runs over
    another name or point; then they are near their points, and then off the lines of the plot.

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
    for k in 2 * crowded:  # once more, when all others have their places
        found.pop(k, None)
        boxes = [label.box for label in found.values()]
        taken = [*marks, *boxes]
        others = marks[:k] + marks[k + 1 :]
        leaders = [(points[j], label.nearest(points[j])) for j, label in found.items() if label.far]
        wide = ADVANCE * len(names[k]) + GAP
        best, least = None, math.inf
        for distance, direction in product(DISTANCES, DIRECTIONS):
            if distance >= least:
                break  # no further place costs less
            label = _label(points[k], math.radians(direction), distance, wide)
            cost = distance + _cost(label, taken, area, lines)
            cost += _crossings(label, points[k], others, boxes, leaders)
            if cost < least:
                best, least = label, cost
        assert best is not None
        found[k] = best
    return [found[k] for k in range(len(points))]


def _cost(label: Label, taken: Sequence[Box], area: Box, lines: Sequence[Box]) -> float:
    """What speaks against a place, where a distance of one pixel costs 1.

    A name across a line costs about 10 and one along it about 60; one on a point or on another name costs
    more than any distance.
    """
    left, top, right, bottom = label.box
    outside = (
        max(area[0] - left, 0) + max(right - area[2], 0) + max(area[1] - top, 0) + max(bottom - area[3], 0)
    )
    covered = sum(overlap(label.box, box) for box in taken)
    across = sum(overlap(label.box, box) for box in lines)
    return 1000 * outside + (1000 + 10 * covered if covered else 0) + 0.3 * across


def _crossings(
    label: Label,
    point: Point,
    marks: Sequence[Box],
    names: Sequence[Box],
    leaders: Sequence[tuple[Point, Point]],
) -> float:
    """The same of the line from a point to its name, over other points and names, and of theirs over it.

    A name under a line costs about as much as the longest distance. A point costs less, and three at most:
    where many lie together, every line runs over some.
    """
    over_names = sum(_crosses(one, two, label.box) for one, two in leaders)
    over_marks = 0
    if label.far:
        end = label.nearest(point)
        over_names += sum(_crosses(point, end, box) for box in names)
        over_marks = sum(_crosses(point, end, box) for box in marks)
    return 200 * over_names + 60 * min(over_marks, 3)


def _crosses(one: Point, two: Point, box: Box) -> bool:
    """Whether the line between two points runs over a box."""
    enter, leave = 0.0, 1.0
    for start, end, low, high in zip(one, two, box[:2], box[2:], strict=True):
        if start == end:
            if not low < start < high:
                return False
            continue
        near, far = sorted(((low - start) / (end - start), (high - start) / (end - start)))
        enter, leave = max(enter, near), min(leave, far)
    return enter < leave


def _label(point: Point, angle: float, distance: float, wide: float) -> Label:
    """The name whose box begins `distance` from the point in a direction."""
    across, down = math.cos(angle), math.sin(angle)
    x = point[0] + distance * across + wide / 2 * across
    y = point[1] + distance * down + HEIGHT / 2 * down
    box = (x - wide / 2, y - HEIGHT / 2, x + wide / 2, y + HEIGHT / 2)
    return Label(box[0] + GAP / 2, box[3] - 4, box, distance > DISTANCES[1])
