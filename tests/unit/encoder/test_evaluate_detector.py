"""Boxes beside true boxes: what the detector knows of its own errors, and films as they should not have been taken."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from encoder.anatomy import VOCABULARY
from encoder.boxes import Box
from encoder.data import Film, Listed, Pictures
from encoder.evaluate import detection, moved
from encoder.evaluate.detection import Overlap, Presence
from encoder.pipeline import Analysis, Region

RIGHT, LEFT = (VOCABULARY.named(name).index for name in ("right lung", "left lung"))
SIDE = 200
BOXES = {RIGHT: Box(30, 50, 80, 150), LEFT: Box(120, 50, 160, 150)}


@pytest.fixture
def film(tmp_path: Path) -> Film:
    """Two bright rectangles on black, the labels around them."""
    image = np.zeros((SIDE, SIDE), np.uint8)
    for box, grey in zip(BOXES.values(), (250, 120), strict=True):
        image[int(box.y1) : int(box.y2), int(box.x1) : int(box.x2)] = grey
    Image.fromarray(image).save(tmp_path / "film.png")
    listed = Listed(tuple(BOXES.items()))
    return Film("film", "P", "", tmp_path / "film.png", (SIDE, SIDE), BOXES, listed, Pictures())


def seen(**boxes: Box) -> Analysis:
    regions = [Region(VOCABULARY.named(name.replace("_", " ")).index, box, 0.9, 0.8) for name, box in boxes.items()]
    return Analysis(tuple(regions), {})


def test_a_box_on_the_other_side_is_a_swap(film: Film) -> None:
    rows = detection.overlaps(
        film, seen(right_lung=BOXES[LEFT], left_lung=BOXES[LEFT]), {RIGHT: (0.15, 0.25, 0.4, 0.75)}
    )
    assert [(row.anatomy, row.iou, row.swapped) for row in rows] == [(RIGHT, 0.0, True), (LEFT, 1.0, False)]
    assert [row.mean_box_iou for row in rows] == [pytest.approx(1.0), None]
    result: Any = detection.summary(rows, Presence(1, 1, 1, 0), 0)
    assert result["laterality_swaps"] == 1
    assert result["miou"] == pytest.approx(0.5)
    assert (result["over_50"], result["mean_box_over_50"]) == (0.5, 1.0)


def test_what_is_absent_has_no_overlap(film: Film) -> None:
    (right, left) = detection.overlaps(film, seen(left_lung=BOXES[LEFT]), {})
    assert (right.iou, right.presence, right.certainty) == (0.0, None, None)
    assert left.certainty == 0.8


def test_presence_on_what_a_crop_lost(film: Film) -> None:
    everything = seen(right_lung=BOXES[RIGHT], left_lung=BOXES[LEFT])
    counted = detection.presence(film, lambda _: everything, everything)
    # Whole, upper and lower half show half of each lung or more; the patient's right side lost the left lung.
    assert (counted.wanted, counted.gone, counted.said - counted.right) == (7, 1, 1)
    assert counted.false_positive_rate == 1.0
    assert Presence().false_positive_rate is None


def test_certainty_says_where_the_bad_boxes_are() -> None:
    rows = [Overlap(str(n), RIGHT, 0.9, None, 0.9, 0.5 + n / 100) for n in range(18)]
    rows += [Overlap("x", RIGHT, 0.2, None, 0.9, 0.1), Overlap("y", RIGHT, 0.3, None, 0.9, 0.99)]
    assert detection.certainty(rows) == {"bad_boxes": 2, "share_in_low_tenth": 0.5, "boxes": 20}
    assert detection.certainty([Overlap("x", RIGHT, 0.2, None)])["boxes"] == 0


def test_ap50_ranks_by_confidence() -> None:
    right_first = [Overlap("a", RIGHT, 0.9, None, 0.9, 0.9), Overlap("b", RIGHT, 0.1, None, 0.9, 0.1)]
    wrong_first = [Overlap("a", RIGHT, 0.9, None, 0.9, 0.1), Overlap("b", RIGHT, 0.1, None, 0.9, 0.9)]
    assert detection.summary(right_first, None, 0)["ap50"] == pytest.approx(0.5)
    assert detection.summary(wrong_first, None, 0)["ap50"] == pytest.approx(0.25)


def _around(image: np.ndarray, low: float, high: float) -> Box:
    y, x = np.nonzero((image > low) & (image <= high))
    return Box(x.min(), y.min(), x.max() + 1, y.max() + 1)


def test_labels_follow_a_moved_film(film: Film) -> None:
    kinds = {view.kind: view for view in moved.views(film)}
    assert list(kinds) == ["plain", *moved.MOVINGS, *moved.TONES]
    for kind in ("plain", "shifted", "scaled_0.8", "scaled_1.25", "cropped"):
        view = kinds[kind]
        shown = _around(view.image, 200, 300)  # the right lung: nothing else is as bright
        assert np.abs(np.subtract(shown, view.truth[RIGHT])).max() <= 1.5, kind
    for kind in ("tilted_15", "tilted_-15"):  # corners stand out of the ellipse that a turned box is the box of
        shown = _around(kinds[kind].image, 200, 300)
        found = kinds[kind].truth[RIGHT]
        assert abs((shown.x1 + shown.x2) - (found.x1 + found.x2)) < 3
        assert abs((shown.y1 + shown.y2) - (found.y1 + found.y2)) < 3
        assert shown.iou(found) > 0.6
    assert kinds["cropped"].image.shape == (160, 160)
    assert kinds["shifted"].image.min() == 0


def test_a_region_cut_away_is_not_judged(film: Film) -> None:
    affine = np.array([[1.0, 0.0, -60.0], [0.0, 1.0, 0.0]])
    truth = moved.visible(film, affine, (SIDE, SIDE))
    assert list(truth) == [LEFT]  # 20 of the right lung's 50 columns are left
    assert truth[LEFT] == Box(60, 50, 100, 150)


def test_tones_keep_the_place_and_change_the_grey(film: Film) -> None:
    kinds = {view.kind: view for view in moved.views(film)}
    assert len(np.unique(kinds["low_contrast"].image)) <= moved.FAINT
    assert (kinds["inverted"].image + film.image == film.image.max()).all()
    assert kinds["inverted"].truth == kinds["plain"].truth


def test_moved_numbers_are_means_over_regions(film: Film) -> None:
    view = next(moved.views(film))
    rows = moved.placed(view, seen(right_lung=BOXES[RIGHT]))
    result: Any = moved.summary(rows, 1)
    assert result == {"films": 1, "miou": {"plain": 0.5}, "regions": {"plain": 2}}
