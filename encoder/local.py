"""Two films' local maps and a small box in one of them go in, where the other looks alike there comes out. numpy only.

A local map is a coarse grid over a film: each cell holds a short int8 vector that says what the film looks like at
that place, whatever anatomy it belongs to. A region's vector cannot answer for a nodule in a lung zone, a few cells
of this map can: the ROI's cells are laid over every place of the other film, and the mean cosine of the cells says
how alike the two are.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoder.boxes import Box

SCALE = 127.0  # a cell's unit vector is kept in whole numbers of this


@dataclass(frozen=True, eq=False)
class LocalMap:
    """One film's grid. Row 0, column 0 is the top left corner of `area`."""

    features: NDArray[np.int8]  # (rows, columns, channels): each cell's unit vector times 127
    area: Box  # what the grid covers, pixels of the stored image; may reach beyond it

    @property
    def cell(self) -> tuple[float, float]:
        """Width and height of a cell, stored pixels."""
        rows, columns = self.features.shape[:2]
        return self.area.width / columns, self.area.height / rows


@dataclass(frozen=True, eq=False)
class Patch:
    """The cells under an ROI."""

    features: NDArray[np.float32]  # (h, w, channels) unit vectors
    sides: tuple[float, float]  # of the ROI in cells: width, height
    offset: tuple[float, float] = (0.0, 0.0)  # from the middle of the cells to the ROI's, in cells: right, down


@dataclass(frozen=True)
class Match:
    """Where another film looks most like the patch."""

    score: float  # mean cosine of the cells, -1..1
    box: Box  # stored pixels of that film, clipped to the map's area; before that the ROI's size in cells


def patch(local: LocalMap, box: Box) -> Patch:
    """The cells whose centres lie in the box, at least one along each side."""
    rows, columns = local.features.shape[:2]
    width, height = local.cell
    left, right = _span(box.x1 - local.area.x1, box.x2 - local.area.x1, width, columns)
    top, bottom = _span(box.y1 - local.area.y1, box.y2 - local.area.y1, height, rows)
    cells = _unit(local.features[top:bottom, left:right])
    x = (box.x1 + box.x2) / 2 - local.area.x1 - (left + right) / 2 * width
    y = (box.y1 + box.y2) / 2 - local.area.y1 - (top + bottom) / 2 * height
    # More than half a cell: the map ends before the box does.
    offset = float(np.clip(x / width, -0.5, 0.5)), float(np.clip(y / height, -0.5, 0.5))
    return Patch(cells, (box.width / width, box.height / height), offset)


def match(asked: Patch, local: LocalMap, within: Box) -> Match | None:
    """The best place of the patch whose middle cell lies in `within` (stored pixels); None when no place fits.

    None too when the map has other channels than the patch. Deterministic: the first place in row order among equals.
    """
    best = _best(asked, local, within)
    if best is None:
        return None
    score, cells = best
    width, height = local.cell
    centre_x = (cells.x1 + cells.x2) / 2 + asked.offset[0] * width
    centre_y = (cells.y1 + cells.y2) / 2 + asked.offset[1] * height
    half_x, half_y = asked.sides[0] * width / 2, asked.sides[1] * height / 2
    box = Box(centre_x - half_x, centre_y - half_y, centre_x + half_x, centre_y + half_y)
    return Match(score, box.intersection(local.area))


def under(asked: Patch, local: LocalMap, within: Box) -> Box | None:
    """The cells that `match` compares the patch with, as a box of their outer edges, stored pixels; None as there."""
    best = _best(asked, local, within)
    return None if best is None else best[1]


def _best(asked: Patch, local: LocalMap, within: Box) -> tuple[float, Box] | None:
    """The score and the cells of the best place."""
    rows, columns, channels = local.features.shape
    high, wide, wanted = asked.features.shape
    if high > rows or wide > columns or channels != wanted:
        return None
    width, height = local.cell
    x = local.area.x1 + (np.arange(columns - wide + 1) + wide / 2) * width  # centres of the places
    y = local.area.y1 + (np.arange(rows - high + 1) + high / 2) * height
    across, down = _nearest(x, within.x1, within.x2), _nearest(y, within.y1, within.y2)
    cut = _unit(local.features[down.start : down.stop + high - 1, across.start : across.stop + wide - 1])
    scores = _laid_over(cut, asked.features)
    row, column = np.unravel_index(int(scores.argmax()), scores.shape)
    at_x, at_y = float(x[across][column]), float(y[down][row])
    half_x, half_y = wide * width / 2, high * height / 2
    return float(scores[row, column]), Box(at_x - half_x, at_y - half_y, at_x + half_x, at_y + half_y)


def _laid_over(cells: NDArray[np.float32], asked: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean cosine at each place: (R, C, channels) and (h, w, channels) -> (R - h + 1, C - w + 1)."""
    rows, columns, channels = cells.shape
    high, wide = asked.shape[:2]
    each = (asked.reshape(-1, channels) @ cells.reshape(-1, channels).T).reshape(high, wide, rows, columns)
    places = np.zeros((rows - high + 1, columns - wide + 1), np.float32)
    for i in range(high):
        for j in range(wide):
            places += each[i, j, i : i + places.shape[0], j : j + places.shape[1]]
    return np.asarray(places / (high * wide), dtype=np.float32)


def _span(low: float, high: float, cell: float, count: int) -> tuple[int, int]:
    """First and last + 1 of the cells whose centres lie between; the nearest one when none does."""
    first = int(np.clip(np.ceil(low / cell - 0.5), 0, count - 1))
    last = int(np.clip(np.floor(high / cell - 0.5), 0, count - 1))
    if last < first:
        first = last = int(np.clip((low + high) / 2 // cell, 0, count - 1))
    return first, last + 1


def _nearest(centres: NDArray[np.float64], low: float, high: float) -> slice:
    """The centres between, or the one nearest to the middle when none is."""
    inside = np.flatnonzero((centres >= low) & (centres <= high))
    if len(inside):
        return slice(int(inside[0]), int(inside[-1]) + 1)
    at = int(np.abs(centres - (low + high) / 2).argmin())
    return slice(at, at + 1)


def _unit(cells: NDArray[np.int8]) -> NDArray[np.float32]:
    """Unit vectors of whole-number cells; a cell of zeros stays zero."""
    full = cells.astype(np.float32)
    norm = np.sqrt((full * full).sum(axis=-1, keepdims=True))
    return np.asarray(full / np.maximum(norm, 1.0), dtype=np.float32)
