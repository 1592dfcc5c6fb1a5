"""Occlusion: the cells of a region, and that a map peaks where an encoder is known to look."""

from pathlib import Path

import numpy as np
import pytest
from torch import nn

from encoder.boxes import Box
from encoder.errors import ImageError
from encoder.local import LocalMap, match, patch, under
from encoder.occlusion import WHOLE, Grid
from encoder.pipeline import Pipeline
from encoder.plugin import pack
from encoder.scripted import ScriptShape
from tests.unit.encoder import scripts, small

CELLS = 7
BOX = Box(60.0, 40.0, 200.0, 180.0)
ALL = (0, 1000)


def grid(box: Box = BOX, cells: int = CELLS, least: tuple[float, float] = (2.0, 2.0)) -> Grid:
    return Grid.over(box, cells, least)


@pytest.mark.parametrize(
    ("box", "cells", "least", "expected"),
    [
        (BOX, 7, (2.0, 2.0), (7, 7)),
        (Box(0, 0, 40, 200), 7, (2.0, 2.0), (7, 4)),  # a spine: not fewer than four across
        (Box(0, 0, 200, 100), 8, (2.0, 2.0), (4, 8)),
        (Box(0, 0, 200, 100), 8, (2.0, 1.0), (8, 8)),  # pixels that are no squares
        (Box(0, 0, 12, 9), 7, (4.0, 4.0), (2, 3)),  # a nodule: no smaller than what can be told apart
        (Box(0, 0, 3, 3), 7, (4.0, 4.0), (1, 1)),
        (BOX, 1, (2.0, 2.0), (1, 1)),
    ],
)
def test_cells_are_about_square_and_not_smaller_than_can_be_told_apart(box, cells, least, expected):
    made = grid(box, cells, least)
    assert (made.rows, made.columns) == expected


def test_covers_are_nothing_then_all_then_windows_from_the_top_left_to_the_bottom_right():
    made = grid()
    assert made.count == WHOLE + 36
    assert made.cover(0) is None
    assert made.cover(1) == BOX
    assert made.cover(2) == pytest.approx(Box(60, 40, 100, 80))
    assert made.cover(3) == pytest.approx(Box(80, 40, 120, 80))
    assert made.cover(made.count - 1) == pytest.approx(Box(160, 140, 200, 180))


def test_a_cell_is_told_the_mean_of_the_windows_that_lay_on_it():
    made = grid(cells=3)
    assert made.spread([1.0, 0.0, 0.0, -1.0]).tolist() == [[1.0, 0.5, 0.0], [0.5, 0.0, -0.5], [0.0, -0.5, -1.0]]


def film() -> np.ndarray:
    """Bright noise in a dark frame: everywhere alike."""
    noise = np.random.default_rng(5).normal(1200, 150, (240, 256)).clip(0, 4095)
    noise[:12], noise[-12:] = 0, 4095
    return noise.astype(np.uint16)


def own(folder: Path, module: nn.Module, shape: ScriptShape) -> Pipeline:
    """A model set of somebody else's encoder and a small detector."""
    (folder / "program").write_bytes(scripts.saved(module))
    pack(folder / "program", shape, folder / "own", "nothing")
    for name in ("detector.json", "detector.safetensors"):
        (folder / "own" / name).write_bytes((small.write(folder / "small") / name).read_bytes())
    return Pipeline.load(folder / "own")


def test_the_map_peaks_where_the_encoder_looks(tmp_path):
    shape = ScriptShape(input="crops", size=32, dim=4, film=256, context=0.0)
    found = own(tmp_path, scripts.Corner(), shape).occlude(film(), BOX, CELLS, ALL)
    vectors = found.vectors["anatomy"]
    costs = 1.0 - vectors @ vectors[0]  # of the likeness to the region itself
    spread = found.grid.spread(costs[WHOLE:].tolist())
    peak = np.unravel_index(spread.argmax(), spread.shape)
    seen, unseen = spread[4:, 4:], np.concatenate([spread[:3].ravel(), spread[3:, :2].ravel()])
    assert min(peak) >= 4
    assert seen.min() > 20 * np.abs(unseen).max()
    assert costs[0] == pytest.approx(0.0, abs=1e-6)
    assert costs[1] > 2 * spread.max()  # all of it covered


def test_what_is_encoded_in_pieces_is_what_is_encoded_at_once(tmp_path):
    pipeline = Pipeline.load(small.write(tmp_path))
    whole = pipeline.occlude(film(), BOX, CELLS, ALL)
    pieces = [pipeline.occlude(film(), BOX, CELLS, (start, start + 16)) for start in range(0, whole.grid.count, 16)]
    assert [len(piece.vectors["anatomy"]) for piece in pieces] == [16, 16, 6]
    assert (
        np.concatenate([piece.vectors["anatomy"] for piece in pieces]).tobytes() == whole.vectors["anatomy"].tobytes()
    )


def test_nothing_covered_is_what_embed_says():
    pipeline = Pipeline.load(runtime="torch")
    found, embedded = pipeline.occlude(film(), BOX, CELLS, (0, 4)), pipeline.embed(film(), [BOX])
    assert found.vectors["anatomy"][0].tobytes() == embedded.vectors["anatomy"][0].tobytes()
    assert found.cells[0].tobytes() == patch(embedded.local, BOX).features.tobytes()
    assert np.abs(found.cells[1:] - found.cells[0]).max(axis=(1, 2, 3)).min() > 0.01


def test_each_cover_hides_its_own_window_behind_the_mean_of_the_region(tmp_path):
    """The encoder's vector is the crop itself: what is hidden is seen in it."""
    shape = ScriptShape(input="crops", size=28, dim=28 * 28, film=256, context=0.0)
    found = own(tmp_path, scripts.Pixels(), shape).occlude(film(), BOX, CELLS, ALL)
    assert found.cells is None  # somebody else's encoder has no local features
    for number in range(WHOLE, found.grid.count):
        crop = found.vectors["anatomy"][number].reshape(28, 28)
        top, left = (4 * place for place in divmod(number - WHOLE, CELLS - 1))
        hidden = np.zeros(crop.shape, bool)
        hidden[top + 1 : top + 7, left + 1 : left + 7] = True  # two cells of four pixels, but for their edges
        assert np.ptp(crop[hidden]) < 1e-5
        assert np.ptp(crop[~hidden]) > 1e-3
        assert crop[hidden].mean() == pytest.approx(crop[~hidden].mean(), rel=0.05)


def test_a_box_outside_of_the_film_is_refused(tmp_path):
    with pytest.raises(ImageError, match="no area inside"):
        Pipeline.load(small.write(tmp_path)).occlude(film(), Box(300, 10, 400, 90), CELLS, ALL)


def test_the_cells_under_a_match_are_those_that_it_compared():
    rng = np.random.default_rng(2)
    local = LocalMap(rng.integers(-127, 128, (12, 12, 8)).astype(np.int8), Box(-16.0, 0.0, 80.0, 96.0))
    asked = patch(local, Box(25.0, 33.0, 47.0, 56.0))
    place = under(asked, local, Box(0.0, 0.0, 80.0, 96.0))
    assert place == Box(24.0, 32.0, 48.0, 56.0)
    assert patch(local, place).features.tobytes() == asked.features.tobytes()
    best = match(asked, local, Box(0.0, 0.0, 80.0, 96.0))
    assert (best.score, best.box) == (pytest.approx(1.0), pytest.approx(Box(25.0, 33.0, 47.0, 56.0)))
    assert under(asked, LocalMap(local.features[..., :4], local.area), Box(0.0, 0.0, 80.0, 96.0)) is None
