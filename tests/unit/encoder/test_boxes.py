"""Boxes: half-open, and the arithmetic everything else leans on."""

import pytest

from encoder.boxes import Box, bounding


def test_iou_of_half_overlapping_boxes() -> None:
    assert Box(0, 0, 2, 2).iou(Box(1, 0, 3, 2)) == pytest.approx(1 / 3)


def test_touching_boxes_do_not_overlap() -> None:
    assert Box(0, 0, 2, 2).iou(Box(2, 0, 4, 2)) == 0.0
    assert Box(0, 0, 2, 2).intersection(Box(3, 0, 4, 2)).area == 0.0


def test_two_empty_boxes_have_iou_0() -> None:
    assert Box(1, 1, 1, 1).iou(Box(1, 1, 1, 1)) == 0.0


def test_clipping_keeps_the_inside() -> None:
    assert Box(-5, 3, 7, 99).clipped(6, 10) == Box(0, 3, 6, 10)


def test_bounding_points() -> None:
    assert bounding([(3, 1), (0, 5)]) == Box(0, 1, 3, 5)
    with pytest.raises(ValueError, match="unpack"):
        bounding([])
