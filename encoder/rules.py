"""Contours of lungs, heart and clavicles in, boxes of the 29 regions out: the written rules behind every derived label.

Two sets of contours are known: the five landmark curves of the JSRT films (`derive`, all 29 regions) and the three
masks of the Wingspan films (`derive_from_outlines`, the regions that lungs and heart alone can place; the others stay
unlabelled). "Right" is the patient's right, at the left of the picture. Contoured regions: both lungs, cardiac
silhouette, both clavicles; everything else is derived, and the model card says so.

Lengths are shares of the thorax width W (outer edge of one lung to outer edge of the other, some 27 cm in an adult)
or of a lung's height, so that the same rule holds for any image size.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoder.anatomy import VOCABULARY
from encoder.boxes import Box

CONTOURED = ("right lung", "left lung", "cardiac silhouette", "right clavicle", "left clavicle")

# Landmark ranges: index i is the same anatomical point in every film (Gaggion et al., chest X-ray landmark dataset).
RIGHT_ANGLE = LEFT_ANGLE = 21  # costophrenic angle
RIGHT_DIAPHRAGM, LEFT_DIAPHRAGM = slice(21, 30), slice(21, 28)
RIGHT_MEDIAL, LEFT_MEDIAL = slice(29, 43), slice(27, 50)  # the border that faces the mediastinum, from below
AORTIC_KNOB = slice(40, 46)
JUNCTION = slice(5, 7)  # where the right border of the heart leaves the superior vena cava
HEART_RIGHT_FOOT = 0

ANGLE_HALF = 0.12  # half side of a costophrenic box, share of the mean lung width: about 15 mm
DIAPHRAGM_MARGIN = 0.0105  # share of W: a dome is a line, the margin makes it a box
KNOB_MARGIN = 0.0158  # share of W
APEX_LATERAL = 0.15  # the apical zone leaves out this share of the lung's width at its outer side
SPINE_HALF = 0.085  # share of W: a thoracic vertebra is about 4 cm wide with its costovertebral joints
TRACHEA_HALF = 0.055  # share of W: 2 cm of air and its walls
SVC_WIDTH = 0.085  # share of W
ATRIUM_SHARE = 0.38  # of the heart's width, from its right border
CARINA_BELOW_KNOB = 0.05  # share of W: the bifurcation lies just under the arch (T4/T5)
CARINA_HALF = (0.075, 0.060)  # half width and half height, share of W
HILUM_WIDTH, HILUM_INSIDE, HILUM_HEIGHT = 0.15, 0.03, 0.26  # share of W
LEFT_HILUM_RAISED = 0.035  # share of W: the left hilum stands about 1 cm above the right one
JUNCTION_HALF = 0.065  # share of W
ABDOMEN_BELOW = 0.10  # share of W under the lower costophrenic angle; the film's edge clips it

Points = NDArray[np.floating]
Slot = dict[int, Box]


class _Axis(NamedTuple):
    """The midline of a film, a straight line that may lean: x as a function of y."""

    x0: float
    y0: float
    slope: float  # dx/dy

    def x(self, y: float) -> float:
        return self.x0 + self.slope * (y - self.y0)


def _axis(top: tuple[float, float], bottom: tuple[float, float]) -> _Axis:
    return _Axis(top[0], top[1], (bottom[0] - top[0]) / max(bottom[1] - top[1], 1.0))


def _tight(points: Points) -> Box:
    (x1, y1), (x2, y2) = points.min(axis=0), points.max(axis=0)
    return Box(float(x1), float(y1), float(x2), float(y2))


def _covering(points: Points) -> Box:
    """The box of a filled contour: its last row and column of pixels are inside (exclusive maximum)."""
    box = _tight(points)
    return Box(
        float(np.floor(box.x1)), float(np.floor(box.y1)), float(np.floor(box.x2) + 1), float(np.floor(box.y2) + 1)
    )


def _grown(box: Box, margin: float) -> Box:
    return Box(box.x1 - margin, box.y1 - margin, box.x2 + margin, box.y2 + margin)


def _around(x: float, y: float, half_width: float, half_height: float) -> Box:
    return Box(x - half_width, y - half_height, x + half_width, y + half_height)


def _named(boxes: Mapping[str, Box]) -> Slot:
    return {VOCABULARY.named(name).index: box for name, box in boxes.items()}


def _zones(side: str, lung: Box) -> dict[str, Box]:
    """Upper, mid and lower zone: equal thirds of the lung's height, over its whole width."""
    third = lung.height / 3
    return {
        f"{side} {level} lung zone": Box(lung.x1, lung.y1 + i * third, lung.x2, lung.y1 + (i + 1) * third)
        for i, level in enumerate(("upper", "mid", "lower"))
    }


def _lungs_and_heart(right: Box, left: Box, heart: Box) -> dict[str, Box]:
    """What three boxes settle by themselves; the mediastinum spans the heart's width up to the higher apex."""
    top = min(right.y1, left.y1)
    return {
        "right lung": right,
        "left lung": left,
        "cardiac silhouette": heart,
        **_zones("right", right),
        **_zones("left", left),
        "mediastinum": Box(heart.x1, top, heart.x2, heart.y2),
    }


def _angles_and_domes(
    right: Box, left: Box, right_angle: Points, left_angle: Points, right_dome: Points, left_dome: Points
) -> dict[str, Box]:
    """The outer lower corners of the lungs, the domes between them and the heart, and what lies under the domes."""
    width = left.x2 - right.x1
    half, margin = ANGLE_HALF * (right.width + left.width) / 2, DIAPHRAGM_MARGIN * width
    return {
        "right costophrenic angle": _around(float(right_angle[0]), float(right_angle[1]), half, half),
        "left costophrenic angle": _around(float(left_angle[0]), float(left_angle[1]), half, half),
        "right hemidiaphragm": _grown(_tight(right_dome), margin),
        "left hemidiaphragm": _grown(_tight(left_dome), margin),
        # All that is under the higher dome, between the outer angles, a little past the lower angle.
        "abdomen": Box(
            float(right_angle[0]),
            float(min(right_dome[:, 1].min(), left_dome[:, 1].min())),
            float(left_angle[0]),
            float(max(right_angle[1], left_angle[1])) + ABDOMEN_BELOW * width,
        ),
    }


def _upper_mediastinum(right_medial: Points, left_medial: Points, top: float, heart_top: float) -> dict[str, Box]:
    """Between the lungs above the heart: the median of either medial border there. Empty when no border point is."""
    right = right_medial[right_medial[:, 1] < heart_top, 0]
    left = left_medial[left_medial[:, 1] < heart_top, 0]
    if not len(right) or not len(left):
        return {}
    return {"upper mediastinum": Box(float(np.median(right)), top, float(np.median(left)), heart_top)}


def _spine(axis: _Axis, top: float, bottom: float, width: float) -> dict[str, Box]:
    """The midline from apex to the lower angle, a vertebra wide; a leaning spine makes a wider box."""
    ends = (axis.x(top), axis.x(bottom))
    return {"spine": Box(min(ends) - SPINE_HALF * width, top, max(ends) + SPINE_HALF * width, bottom)}


def _right_atrium(heart: Box, top: float, foot: float) -> dict[str, Box]:
    return {"right atrium": Box(heart.x1, top, heart.x1 + ATRIUM_SHARE * heart.width, foot)}


def _border(medial: Points, y1: float, y2: float) -> float:
    """The median x of a medial border between two heights; its nearest point when none lies there."""
    inside = medial[(medial[:, 1] >= y1) & (medial[:, 1] <= y2), 0]
    nearest = medial[int(np.abs(medial[:, 1] - (y1 + y2) / 2).argmin()), 0]
    return float(np.median(inside)) if len(inside) else float(nearest)


def _airway(axis: _Axis, top: float, carina_y: float, width: float) -> dict[str, Box]:
    """Trachea from the apices to the bifurcation, and the bifurcation itself."""
    ends = (axis.x(top), axis.x(carina_y))
    half_width, half_height = CARINA_HALF[0] * width, CARINA_HALF[1] * width
    return {
        "trachea": Box(min(ends) - TRACHEA_HALF * width, top, max(ends) + TRACHEA_HALF * width, carina_y),
        "carina": _around(ends[1], carina_y, half_width, half_height),
    }


def _hila(right_medial: Points, left_medial: Points, carina_y: float, width: float) -> dict[str, Box]:
    """From the height of the bifurcation down, mostly in the lung and a little under the mediastinal border."""
    height, inside, across = HILUM_HEIGHT * width, HILUM_INSIDE * width, HILUM_WIDTH * width
    y1 = carina_y
    right = _border(right_medial, y1, y1 + height) + inside
    raised = y1 - LEFT_HILUM_RAISED * width
    left = _border(left_medial, raised, raised + height) - inside
    return {
        "right hilar structures": Box(right - across, y1, right, y1 + height),
        "left hilar structures": Box(left, raised, left + across, raised + height),
    }


def _caval(right_medial: Points, clavicle: Box, junction: Points, width: float) -> dict[str, Box]:
    """The SVC is the right edge of the upper mediastinum, from the clavicle's head to its junction with the heart."""
    x, y = float(junction[0]), float(junction[1])
    top = min((clavicle.y1 + clavicle.y2) / 2, y - 0.1 * width)
    edge = _border(right_medial, top, y)
    return {
        "svc": Box(edge - 0.015 * width, top, edge + SVC_WIDTH * width, y),
        "cavoatrial junction": _around(x + 0.02 * width, y, JUNCTION_HALF * width, JUNCTION_HALF * width),
    }


def _apices(right: Box, left: Box, right_clavicle: Points, left_clavicle: Points) -> dict[str, Box]:
    """The lung above the clavicle's median height, without its outer edge where ribs overlap."""
    return {
        "right apical zone": Box(
            right.x1 + APEX_LATERAL * right.width, right.y1, right.x2, float(np.median(right_clavicle[:, 1]))
        ),
        "left apical zone": Box(
            left.x1, left.y1, left.x2 - APEX_LATERAL * left.width, float(np.median(left_clavicle[:, 1]))
        ),
    }


def derive(landmarks: Mapping[str, Points]) -> Slot:
    """All 29 regions, by vocabulary index, from the five JSRT contours.

    `landmarks` has RL (44), LL (50), H (26), RCLA and LCLA (23) points, each an (n, 2) array of x, y in pixels, in
    the point order of the landmark data set. Boxes are in the same pixels and are *not* clipped: the caller knows
    the image's size. A box is left out when the contours leave it no area (a lung apex under its clavicle).
    KeyError when a contour is missing.
    """
    rl, ll, h, rcla, lcla = (np.asarray(landmarks[key], dtype=float) for key in ("RL", "LL", "H", "RCLA", "LCLA"))
    right, left, heart = _covering(rl), _covering(ll), _covering(h)
    right_clavicle, left_clavicle = _tight(rcla), _tight(lcla)
    width, top = left.x2 - right.x1, min(right.y1, left.y1)
    bottom = float(max(rl[RIGHT_ANGLE, 1], ll[LEFT_ANGLE, 1]))
    heads = ((right_clavicle.x2 + left_clavicle.x1) / 2, (right_clavicle.y2 + left_clavicle.y2) / 2)
    angles = (rl[RIGHT_ANGLE] + ll[LEFT_ANGLE]) / 2
    axis = _axis(heads, (float(angles[0]), float(angles[1])))
    knob, junction = ll[AORTIC_KNOB], h[JUNCTION].mean(axis=0)
    carina_y = float(knob[:, 1].max()) + CARINA_BELOW_KNOB * width
    boxes = {
        **_lungs_and_heart(right, left, heart),
        "right clavicle": right_clavicle,
        "left clavicle": left_clavicle,
        "aortic arch": _grown(_tight(knob), KNOB_MARGIN * width),
        **_apices(right, left, rcla, lcla),
        **_angles_and_domes(right, left, rl[RIGHT_ANGLE], ll[LEFT_ANGLE], rl[RIGHT_DIAPHRAGM], ll[LEFT_DIAPHRAGM]),
        **_upper_mediastinum(rl[RIGHT_MEDIAL], ll[LEFT_MEDIAL], top, heart.y1),
        **_spine(axis, top, bottom, width),
        **_airway(axis, top, carina_y, width),
        **_hila(rl[RIGHT_MEDIAL], ll[LEFT_MEDIAL], carina_y, width),
        **_caval(rl[RIGHT_MEDIAL], right_clavicle, junction, width),
        **_right_atrium(heart, float(junction[1]), float(h[HEART_RIGHT_FOOT, 1])),
    }
    return {index: box for index, box in _named(boxes).items() if box.area > 0}


def _reach(lung: Points, y1: float, y2: float, side: int) -> Points:
    """(x, y) of a lung's medial edge, one point a row from y1 to y2. `side` +1: the medial edge has the larger x."""
    inside = lung[(lung[:, 1] >= y1) & (lung[:, 1] < y2)]
    rows = np.unique(np.round(inside[:, 1]))
    edge = [inside[np.abs(inside[:, 1] - y) <= 1.0] for y in rows]
    return np.array([points[(side * points[:, 0]).argmax()] for points in edge]).reshape(-1, 2)


def _lower_edge(lung: Points, x1: float, x2: float) -> Points:
    """(x, y) of a lung's lowest point in each column from x1 to x2."""
    inside = lung[(lung[:, 0] >= x1) & (lung[:, 0] <= x2)]
    columns = np.unique(np.round(inside[:, 0]))
    edge = [inside[np.abs(inside[:, 0] - x) <= 1.0] for x in columns]
    return np.array([points[points[:, 1].argmax()] for points in edge]).reshape(-1, 2)


def _right_dome(lung: Points, angle: Points) -> Points:
    """From the angle to the corner with the heart: the lowest and most medial point of the inner half.

    (The left corner hides behind the heart's apex: the same search misses it in one film of ten, so the left dome
    stays unlabelled without landmarks.)
    """
    inner = lung[lung[:, 0] > (lung[:, 0].min() + lung[:, 0].max()) / 2]
    corner = inner[(0.7 * inner[:, 0] + inner[:, 1]).argmax()]
    return _lower_edge(lung, float(angle[0]), float(corner[0]))


def _outline_axis(right: Points, left: Points, top: float, heart_top: float, angles: Points) -> _Axis | None:
    """The midline without clavicles: mid between the lungs near the aortic knob, mid of the angles below."""
    height = heart_top - top
    right_edge = _reach(right, top + 0.30 * height, top + 0.60 * height, +1)
    left_edge = _reach(left, top + 0.10 * height, top + 0.35 * height, -1)
    if not len(right_edge) or not len(left_edge):
        return None
    x = float(np.median(right_edge[:, 0]) + np.median(left_edge[:, 0])) / 2
    return _axis((x, top + 0.2 * height), (float(angles[0]), float(angles[1])))


def _between_outlines(right: Points, left: Points, top: float, heart_top: float, width: float) -> dict[str, Box]:
    """Upper mediastinum from row-wise edges; the rounded apices themselves are no medial border and are left out."""
    if heart_top - top < 0.2 * width:
        return {}
    apex = 0.06 * width
    right_edge = _reach(right, float(right[:, 1].min()) + apex, heart_top, +1)
    left_edge = _reach(left, float(left[:, 1].min()) + apex, heart_top, -1)
    return _upper_mediastinum(right_edge, left_edge, top, heart_top)


def derive_from_outlines(right: Points, left: Points, heart: Points) -> Slot:
    """The regions that lungs and heart alone place, by vocabulary index.

    `right`, `left`, `heart`: (n, 2) x, y of the boundary pixels of each mask, dense and in any order. What needs a
    clavicle, the aortic knob or the right heart border is absent: unlabelled, not negative. Against `derive` on the
    JSRT films: upper mediastinum IoU .95, spine .93, right dome .96, abdomen .98, angles within 2 pixels of 512.
    Not clipped. ValueError when an outline is empty.
    """
    boxes = [_covering(outline) for outline in (right, left, heart)]
    width, top, heart_top = boxes[1].x2 - boxes[0].x1, min(boxes[0].y1, boxes[1].y1), boxes[2].y1
    right_angle, left_angle = right[right[:, 1].argmax()], left[left[:, 1].argmax()]
    dome = _right_dome(right, right_angle)
    # The right dome is the higher one (the liver is under it), so it stands in for both as the abdomen's upper edge.
    low = _angles_and_domes(boxes[0], boxes[1], right_angle, left_angle, dome, dome)
    del low["left hemidiaphragm"]
    axis = _outline_axis(right, left, top, heart_top, (right_angle + left_angle) / 2)
    bottom = float(max(right_angle[1], left_angle[1]))
    found = {
        **_lungs_and_heart(*boxes),
        **low,
        **_between_outlines(right, left, top, heart_top, width),
        **(_spine(axis, top, bottom, width) if axis else {}),
    }
    return {index: box for index, box in _named(found).items() if box.area > 0}
