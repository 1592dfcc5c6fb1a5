"""Boxes: half-open rectangles in pixels of the stored image, origin at its top-left corner, x to the right, y down."""

from collections.abc import Iterable
from typing import NamedTuple


class Box(NamedTuple):
    """x1 <= x < x2, y1 <= y < y2, in pixels of the stored image (column, row; corner origin, PS3.3 C.18.6.1.1)."""

    x1: float
    y1: float
    x2: float
    y2: float

    @property
    def width(self) -> float:
        return max(0.0, self.x2 - self.x1)

    @property
    def height(self) -> float:
        return max(0.0, self.y2 - self.y1)

    @property
    def area(self) -> float:
        return self.width * self.height

    def intersection(self, other: "Box") -> "Box":
        """The shared rectangle; of zero area where the two do not meet."""
        return Box(max(self.x1, other.x1), max(self.y1, other.y1), min(self.x2, other.x2), min(self.y2, other.y2))

    def iou(self, other: "Box") -> float:
        """Intersection over union, 0..1; 0 for two empty boxes."""
        shared = self.intersection(other).area
        union = self.area + other.area - shared
        return shared / union if union > 0 else 0.0

    def clipped(self, width: float, height: float) -> "Box":
        """The part inside an image of that size; may be of zero area."""
        return self.intersection(Box(0.0, 0.0, float(width), float(height)))


def bounding(points: Iterable[tuple[float, float]]) -> Box:
    """The tight box around (x, y) points. ValueError when there are none."""
    xs, ys = zip(*points, strict=True)
    return Box(float(min(xs)), float(min(ys)), float(max(xs)), float(max(ys)))
