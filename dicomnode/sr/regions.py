"""Regions of an SR: what a user drew, as values. Graphic type and points in, box out.

2-D coordinates are pixels of the stored image, column then row, origin at the top-left corner of the top-left pixel
(PS3.3 C.18.6.1.1), the frame of `encoder.boxes.Box`.
"""

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import pairwise
from typing import Final

from dicomnode.codes import Code
from dicomnode.errors import RoiError
from encoder.anatomy import Anatomy
from encoder.boxes import Box, bounding

Point = tuple[float, float]  # column, row
SpatialPoint = tuple[float, float, float]  # x, y, z in mm, patient or frame of reference axes

POINT_BOX_SIDE: Final = 32.0  # pixels: what a POINT is taken to point at
MINIMUM_SIDE: Final = 4.0  # pixels of each side inside the image: less is a slip of the mouse


class GraphicType(StrEnum):
    """PS3.3 C.18.6.1.2"""

    POINT = "POINT"
    MULTIPOINT = "MULTIPOINT"
    POLYLINE = "POLYLINE"
    CIRCLE = "CIRCLE"  # centre, a point of the rim
    ELLIPSE = "ELLIPSE"  # ends of the major axis, ends of the minor axis


class SpatialGraphicType(StrEnum):
    """PS3.3 C.18.9.1.2"""

    POINT = "POINT"
    MULTIPOINT = "MULTIPOINT"
    POLYLINE = "POLYLINE"
    POLYGON = "POLYGON"
    ELLIPSE = "ELLIPSE"
    ELLIPSOID = "ELLIPSOID"


@dataclass(frozen=True, kw_only=True)
class Described:
    """What the SR says about a region. Empty where it says nothing."""

    sites: tuple[Anatomy, ...] = ()  # every entry that its Finding Sites can mean, in vocabulary order
    unknown_sites: tuple[str, ...] = ()  # Finding Sites outside the vocabulary, "code scheme"
    finding: Code | None = None
    tracking_identifier: str = ""
    tracking_uid: str = ""
    label: str = ""  # free text

    @property
    def unknown_site(self) -> bool:
        """Whether it names a site and none that the vocabulary has."""
        return bool(self.unknown_sites) and not self.sites


@dataclass(frozen=True, kw_only=True)
class SrRoi(Described):
    """A region drawn on one image."""

    image_uid: str
    frame: int | None = None  # the first referenced frame, counted from 1; None: the image as a whole
    graphic_type: GraphicType
    points: tuple[Point, ...]
    box: Box


@dataclass(frozen=True, kw_only=True)
class SpatialRoi(Described):
    """A region in space (SCOORD3D): needs an image's plane, see `sr.space.project`."""

    frame_of_reference_uid: str
    graphic_type: SpatialGraphicType
    points: tuple[SpatialPoint, ...]


@dataclass(frozen=True, kw_only=True)
class SegmentRoi(Described):
    """A region given as frames of a segmentation: needs that object, see `sr.space.segment_box`."""

    segmentation_uid: str
    frames: tuple[int, ...] = ()  # counted from 1; empty: every frame of the segments
    segments: tuple[int, ...] = ()  # empty: whatever the frames hold
    image_uid: str = ""  # the image it was drawn on; empty when the SR does not say


Region = SrRoi | SpatialRoi | SegmentRoi


def box_of(kind: GraphicType, points: tuple[Point, ...]) -> Box:
    """The box a graphic marks; not clipped. RoiError when the number of points is not the type's.

    A POINT gets a square of POINT_BOX_SIDE around it. Two points, an arrow or a calliper, get the square around the
    circle whose diameter they are: a line has no area of its own.
    """
    if not points:
        raise RoiError("region has no coordinates")
    expected = {GraphicType.POINT: 1, GraphicType.CIRCLE: 2, GraphicType.ELLIPSE: 4}.get(kind, len(points))
    if len(points) != expected:
        raise RoiError(f"{kind} needs {expected} points")
    if kind is GraphicType.CIRCLE:
        return _around(points[0], math.dist(points[0], points[1]))
    if kind is GraphicType.ELLIPSE:
        return _ellipse(points)
    distinct = tuple(dict.fromkeys(points))
    if len(distinct) == 1:
        return _around(distinct[0], POINT_BOX_SIDE / 2)
    if len(distinct) == 2:
        return _around(_middle(*distinct), math.dist(*distinct) / 2)
    return bounding(points)


def clamped(roi: SrRoi, columns: int, rows: int) -> Box:
    """The region's box cut to an image of that size.

    RoiError when nothing lies inside, or when either side of what does is under MINIMUM_SIDE.
    """
    box = roi.box
    if box.x2 <= 0 or box.y2 <= 0 or box.x1 >= columns or box.y1 >= rows:
        raise RoiError("region lies outside the image")
    inside = box.clipped(columns, rows)
    if min(inside.width, inside.height) < MINIMUM_SIDE:
        raise RoiError(f"region is under {MINIMUM_SIDE:.0f} pixels")
    return inside


def joined_axes(rois: list[SrRoi]) -> list[SrRoi]:
    """Neighbouring lines of one tracked measurement (the two axes of a bidirectional one) become one region."""
    result = rois[:1]
    for before, roi in pairwise(rois):
        if _is_line(before) and _is_line(roi) and _same_measurement(result[-1], roi):
            points = result[-1].points + roi.points
            result[-1] = replace(result[-1], points=points, box=bounding(points))
        else:
            result.append(roi)
    return result


def _is_line(roi: SrRoi) -> bool:
    return roi.graphic_type is GraphicType.POLYLINE and len(roi.points) == 2


def _same_measurement(first: SrRoi, second: SrRoi) -> bool:
    where = (first.tracking_uid, first.image_uid, first.frame)
    return bool(first.tracking_uid) and where == (second.tracking_uid, second.image_uid, second.frame)


def _ellipse(points: tuple[Point, ...]) -> Box:
    """The tight box of a turned ellipse: half its sides are the root of the squared half axes' parts."""
    (ax, ay), (bx, by), (cx, cy), (dx, dy) = points
    x, y = _middle(points[0], points[1])
    half_width, half_height = math.hypot(bx - ax, dx - cx) / 2, math.hypot(by - ay, dy - cy) / 2
    return Box(x - half_width, y - half_height, x + half_width, y + half_height)


def _around(centre: Point, half: float) -> Box:
    return Box(centre[0] - half, centre[1] - half, centre[0] + half, centre[1] + half)


def _middle(first: Point, second: Point) -> Point:
    return (first[0] + second[0]) / 2, (first[1] + second[1]) / 2
