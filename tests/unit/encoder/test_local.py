"""local: the cells under an ROI, and the place of another map that they lie on best."""

import numpy as np
import pytest

from encoder.boxes import Box
from encoder.local import SCALE, LocalMap, Patch, match, patch

AREA = Box(0.0, 0.0, 400.0, 300.0)
EVERYWHERE = Box(-1e6, -1e6, 1e6, 1e6)


def noise(seed: int, rows: int = 30, columns: int = 40, area: Box = AREA) -> LocalMap:
    """Cells of 10 x 10 pixels that are like nothing else."""
    raw = np.random.default_rng(seed).standard_normal((rows, columns, 8))
    unit = raw / np.linalg.norm(raw, axis=-1, keepdims=True)
    return LocalMap(np.rint(unit * SCALE).astype(np.int8), area)


def pasted(asked: LocalMap, cells: tuple[slice, slice], into: LocalMap, row: int, column: int) -> LocalMap:
    """`into` with a piece of `asked` at a row and column."""
    piece = asked.features[cells]
    features = into.features.copy()
    features[row : row + piece.shape[0], column : column + piece.shape[1]] = piece
    return LocalMap(features, into.area)


@pytest.mark.parametrize(
    ("box", "shape", "sides"),
    [
        (Box(100, 50, 130, 70), (2, 3), (3.0, 2.0)),
        (Box(104, 54, 126, 66), (2, 3), (2.2, 1.2)),  # the cells whose centres it holds
        (Box(101, 51, 103, 53), (1, 1), (0.2, 0.2)),  # smaller than a cell
        (Box(98, 51, 102, 53), (1, 1), (0.4, 0.2)),  # between two centres
        (Box(380, 280, 400, 300), (2, 2), (2.0, 2.0)),  # the last ones
        (Box(-30, -30, 10, 10), (1, 1), (4.0, 4.0)),  # half outside
        (Box(390, 290, 460, 360), (1, 1), (7.0, 7.0)),
        (Box(500, 500, 520, 520), (1, 1), (2.0, 2.0)),  # all of it outside: the nearest
    ],
)
def test_a_patch_is_the_cells_under_the_box(box, shape, sides):
    found = patch(noise(0), box)
    assert found.features.shape == (*shape, 8)
    assert found.sides == pytest.approx(sides)
    assert np.allclose(np.linalg.norm(found.features, axis=-1), 1.0, atol=1e-6)
    assert all(abs(part) <= 0.5 for part in found.offset)


@pytest.mark.parametrize(
    "box",
    [Box(100, 50, 130, 70), Box(104, 53, 133, 77), Box(0, 0, 25, 25), Box(371, 272, 400, 300), Box(203, 101, 206, 105)],
)
def test_a_patch_lies_best_on_itself_exactly_where_it_was(box):
    local = noise(1)
    found = match(patch(local, box), local, EVERYWHERE)
    assert found is not None
    assert found.score == pytest.approx(1.0, abs=1e-5)
    assert found.box == pytest.approx(box)


def test_a_pasted_piece_is_found_at_the_other_films_scale():
    asked, other = noise(2), noise(3, area=Box(-100.0, -50.0, 700.0, 550.0))  # cells of 20 x 20 pixels
    there = pasted(asked, np.s_[5:8, 10:14], other, 20, 30)
    found = match(patch(asked, Box(100, 50, 140, 80)), there, EVERYWHERE)
    assert found is not None
    assert found.score == pytest.approx(1.0, abs=1e-5)
    assert found.box == pytest.approx(Box(500, 350, 580, 410))


def test_only_places_in_the_window_count():
    asked, other = noise(4), noise(5)
    there = pasted(asked, np.s_[5:8, 10:14], other, 20, 30)
    found = match(patch(asked, Box(100, 50, 140, 80)), there, Box(0, 0, 200, 300))
    assert found is not None
    assert found.score < 0.9
    assert (found.box.x1 + found.box.x2) / 2 <= 200
    narrow = match(patch(asked, Box(100, 50, 140, 80)), there, Box(318, 213, 322, 217))
    assert narrow is not None
    assert narrow.box == pytest.approx(Box(300, 200, 340, 230))


@pytest.mark.parametrize("within", [Box(1000, 1000, 1100, 1100), Box(-500, -500, -400, -400), Box(203, 103, 204, 104)])
def test_a_window_without_a_place_takes_the_nearest(within):
    found = match(patch(noise(6), Box(100, 50, 130, 70)), noise(7), within)
    assert found is not None
    assert found.box.area > 0
    assert found.box == found.box.intersection(AREA)


def test_a_patch_larger_than_the_map_or_of_other_channels_fits_nowhere():
    asked = patch(noise(8), Box(0, 0, 400, 300))
    assert match(asked, noise(9, 10, 10), EVERYWHERE) is None
    assert match(Patch(asked.features[:2, :2, :4], (2.0, 2.0)), noise(9), EVERYWHERE) is None


def test_cells_of_zeros_are_like_nothing_and_the_first_place_wins():
    empty = LocalMap(np.zeros((30, 40, 8), np.int8), AREA)
    found = match(patch(noise(10), Box(100, 50, 130, 70)), empty, EVERYWHERE)
    assert found is not None
    assert (found.score, found.box[:2]) == (0.0, (0.0, 0.0))
    found = match(patch(empty, Box(100, 50, 130, 70)), noise(11), EVERYWHERE)
    assert found is not None
    assert found.score == 0.0


def test_the_same_question_has_the_same_answer():
    asked, other = patch(noise(12), Box(100, 50, 200, 150)), noise(13)
    assert match(asked, other, AREA) == match(asked, other, AREA)
